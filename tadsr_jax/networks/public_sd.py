"""Public configurations (config.json of diffusers) of Stable Diffusion's U-Net and ControlNet.

Our fields have the public names, so a configuration is the fields, and keys of which these networks know one value.
"""

import flax.linen as nn

IMAGE_STATES = 512  # width of the image states that RAM makes; the public code fixes it

# Keys that change nothing here; `upcast_attention`: the softmax is float32 anyway.
INERT = {
    "_class_name",
    "_diffusers_version",
    "_name_or_path",
    "addition_embed_type_num_heads",  # of an embedding that `OFF` refuses
    "sample_size",
    "upcast_attention",
}
# Keys with the only value that these networks know,
ONLY = {
    "act_fn": "silu",
    "attention_type": "default",
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "image_cross_attention_dim": IMAGE_STATES,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_out_scale_factor": 1,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
}
# and keys that must be off: null, false or 0.
OFF = {
    "addition_embed_type",
    "addition_time_embed_dim",
    "center_input_sample",
    "class_embed_type",
    "class_embeddings_concat",
    "cross_attention_norm",
    "dropout",
    "dual_cross_attention",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "freq_shift",
    "global_pool_conditions",
    "mid_block_only_cross_attention",
    "num_attention_heads",
    "num_class_embeds",
    "only_cross_attention",
    "projection_class_embeddings_input_dim",
    "resnet_skip_time_act",
    "reverse_transformer_layers_per_block",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "timestep_post_act",
}
# What a file means that lacks a key. Our own defaults are SD 2 and SeeSR.
LACKING = {
    "attention_head_dim": 8,
    "cross_attention_dim": 1280,
    "use_linear_projection": False,
    "use_image_cross_attention": False,
}


def public_fields(kind: type[nn.Module], config: dict) -> dict:
    """Fields of the network `kind` from a public configuration, plus our `dtype` and `remat`. Lists become tuples.

    Raises ValueError for what the network cannot do and for unknown keys.
    """
    accepted = [name for name in kind.__dataclass_fields__ if name not in ("parent", "name")]
    if unknown := sorted(set(config) - {*accepted, *INERT, *ONLY, *OFF}):
        raise ValueError(
            f"Unknown arguments of {kind.__name__}: {', '.join(unknown)}. Accepted: {', '.join(accepted)}."
        )
    for key, value in config.items():
        if key in accepted and value is None:
            raise ValueError(f"{key} is null; expected a value, or no such key.")
        if (key in ONLY and value != ONLY[key]) or (key in OFF and value):
            raise ValueError(f"{key} is {value!r}; {kind.__name__} has {key}={ONLY.get(key)!r} only.")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return LACKING | {key: value for key, value in given.items() if key in accepted}

"""A tiny model of the SeeSR family: settings, and random weights that keep deviations near one."""

import jax
import numpy as np

LEVELS = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
}
SETTINGS = {
    "scale": 4,
    "denoiser": {
        "unet": LEVELS | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        "controlnet": LEVELS | {"conditioning_embedding_out_channels": (8, 8, 8, 16)},
    },
    "autoencoder": {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 8},
    "text_encoder": {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    },
    "tagger": {
        "image_size": 32,
        "window_size": 4,
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (2, 2),
        "num_class": None,
    },
    "diffusion": {},
    "no_words": (1, 2, 0, 0),
    "smallest": 32,
}


def random_params(family, seed: int = 0) -> dict:
    """{"student": tree, ...} of NumPy arrays: drawn without a compile."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "bias"):
            return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)
        fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
        return rng.normal(size=leaf.shape).astype(np.float32) / np.sqrt(fan_in, dtype=np.float32)

    shapes = jax.eval_shape(family.init, jax.random.key(0))
    trees = jax.tree_util.tree_map_with_path(draw, shapes)
    return {"student": trees.pop("denoiser"), **trees}

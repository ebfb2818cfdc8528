"""Public (PyTorch) parameter names and layouts <-> our variables.

    state_dict {"input_blocks.0.0.weight": OIHW, ...}  --to_flax-->  {"params": {"input_blocks.0.0": {"kernel": HWIO}}}
                                                      <--to_torch--
Our submodules are called as the public ones, so a path joined by dots is a public name up to its last word: LEAVES is
the whole translation. The two directions are exact inverses. Every network goes through this table.
"""

import functools
import re
from collections import Counter
from collections.abc import Mapping

import flax.linen as nn
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tadsr_jax.convert.torch_file import StateDict, printable
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.swin import block_geometry, relative_position_index, window_mask
from tadsr_jax.networks.unet_swin import SwinUNet, layout

# our leaf -> public last word. A kernel whose module has spectral-norm vectors is "weight_orig" there.
LEAVES = {
    **dict.fromkeys(("kernel", "scale", "table"), "weight"),
    "embedding": "embedding.weight",
    "u": "weight_u",
    "v": "weight_v",
}
# axes of a kernel by its rank: ours -> PyTorch. IO -> OI, KIO -> OIK, HWIO -> OIHW.
KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}

# Order of siblings in the public files, which is the order in which their constructors create them.
ORDER = (
    "weight bias weight_orig weight_u weight_v relative_position_bias_table relative_position_index attn_mask",
    "time_embed feature_extractor input_blocks middle_block output_blocks",
    "conv_in time_embedding controlnet_cond_embedding down_blocks controlnet_down_blocks controlnet_mid_block",
    "up_blocks mid_block attentions resnets image_attentions downsamplers upsamplers",
    "heads main fn cmapper cls in_layers emb_layers out_layers skip_connection out",
    "cls_token pos_embed mask_token patch_embed patch_unembed blocks qkv proj fc1 fc2",
    "text_model embeddings token_embedding position_embedding self_attn k_proj v_proj q_proj out_proj layer_norm1",
    "label_embed visual_encoder layers reduction tagging_head crossattention self query key value intermediate output",
    "dense LayerNorm wordvec_proj fc image_proj",
    "encoder decoder quantize quant_conv post_quant_conv down mid up block_1 attn_1 block_2",
    "norm_out conv_norm_out conv_out",
    "block norm1 conv1 attn attn1 time_emb_proj ls1 norm2 conv2 attn2 norm3 ff nin_shortcut conv_shortcut mlp ls2",
    "downsample upsample norm group_norm proj_in transformer_blocks q k v to_q to_k to_v proj_out to_out",
    "layer_norm2 final_layer_norm",
)
RANKS = {word: rank for rank, word in enumerate(" ".join(ORDER).split())}

# A name that tells what a file holds.
SIGNATURES = {
    "middle_block.1.patch_embed.proj.weight": "UNetModelSwin (the U-Net of ResShift, SinSR and TAD-SR)",
    "quantize.embedding.weight": "VQModelTorch (a VQ autoencoder)",
    "heads.0.cmapper.weight": "ProjectedDiscriminator (AddSR's discriminator)",
    "heads.0.cls.weight_orig": "ProjectedDiscriminator (TAD-SR's discriminator)",
    "controlnet_mid_block.weight": "ControlNetModel",
    "conv_norm_out.weight": "UNet2DConditionModel (the U-Net of Stable Diffusion)",
    "quant_conv.weight": "AutoencoderKL",
    "text_model.embeddings.token_embedding.weight": "CLIPTextModel (a text encoder)",
    "visual_encoder.patch_embed.proj.weight": "RAM (an image tagger)",
    "visual_encoder.layers.0.blocks.0.attn.qkv.lora_A": "DAPE (low-rank updates of RAM)",
    "blocks.0.ls1.gamma": "DinoVisionTransformer (DINOv2)",
    "cls_token": "VisionTransformer (DINO)",
    "features.0.weight": "AlexNet or VGG of torchvision",
    "lin0.model.1.weight": "heads of LPIPS",
}
# Computed from the configuration, not learnt; public files of Swin networks and text encoders carry them.
CONSTANT_BUFFERS = ("relative_position_index", "attn_mask", "position_ids")
# What training left in checkpoints of autoencoders of the LDM code: its losses' networks and a second, averaged copy.
LEFTOVERS = ("loss.", "model_ema.")
FLOATS = ("float32", "float64", "float16", ml_dtypes.bfloat16)


def public_name(path: tuple[str, ...], *, spectral: bool = False) -> str:
    """The public name of the variable at `path` (modules, then leaf); `spectral`: its module has vectors u and v."""
    leaf = "weight_orig" if spectral and path[-1] == "kernel" else LEAVES.get(path[-1], path[-1])
    return ".".join((*path[:-1], leaf))


def public_order(name: str) -> list:
    """Sort key that puts public names into the order of the public files."""
    words = name.split(".")
    return [(0, int(word), "") if word.isdigit() else (1, RANKS.get(word, len(RANKS)), word) for word in words]


_abstract = functools.lru_cache(maxsize=8)(abstract_variables)  # student and teacher, say, are one network


def to_flax(
    network: nn.Module | Mapping, state_dict: Mapping, *, source: str = "The weights", keep_dtype: bool = False
) -> dict:
    """Variables of `network` (a module, or its abstract variables) from a public state dict of NumPy arrays.

    Prefixes of wrappers ("module.", "_orig_mod.") are taken off, constant buffers left out. Arrays become float32;
    with `keep_dtype` half precision stays what it is. Leaves are NumPy arrays, views where that is possible. Missing,
    surplus, misshapen, mistyped and repeated entries, all of them, are one ValueError that begins with `source` and
    says which network the file seems to hold.
    """
    variables = _abstract(network) if isinstance(network, nn.Module) else network
    repeated = [name for name in repeated_names(state_dict) if not is_constant(name)]
    state_dict = {name: a for name, a in without_prefixes(state_dict).items() if not is_constant(name)}
    wanted = _entries(variables)
    faults = {
        "missing": [name for name in wanted if name not in state_dict],
        "surplus": [printable(name) for name in state_dict if name not in wanted],
        "of another shape": [
            f"{name} {tuple(state_dict[name].shape)}, expected {shape}"
            for name, (path, leaf) in wanted.items()
            if name in state_dict and tuple(state_dict[name].shape) != (shape := _public_shape(path, leaf.shape))
        ],
        "of a type that weights cannot have": [
            f"{name} {state_dict[name].dtype}"
            for name in wanted
            if name in state_dict and state_dict[name].dtype not in FLOATS
        ],
        "more than once": [printable(name) for name in repeated],
    }
    if any(faults.values()):
        raise ValueError(_difference(source, state_dict, faults))
    flat = {}
    for name, (path, leaf) in wanted.items():
        array = np.asarray(state_dict[name])
        keep = keep_dtype and array.dtype != np.float64  # which no network uses
        flat[path] = _to_our_layout(path, array if keep else array.astype(leaf.dtype, copy=False))
    return unflatten_dict(flat)


def to_torch(variables: Mapping, *, buffers: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """{public name: contiguous array in PyTorch layout} of our variables, in the order of the public files.

    `buffers` (of `constant_buffers`) are added in their places: a public file then loads strictly there.
    """
    arrays = {name: _to_public_layout(path, np.asarray(leaf)) for name, (path, leaf) in _entries(variables).items()}
    arrays |= buffers or {}
    return {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays, key=public_order)}


def public_shapes(variables: Mapping) -> dict[str, tuple[int, ...]]:
    """{public name: shape in PyTorch layout} of abstract or real variables, in the order of the public files."""
    shapes = {name: _public_shape(path, leaf.shape) for name, (path, leaf) in _entries(variables).items()}
    return {name: shapes[name] for name in sorted(shapes, key=public_order)}


def constant_buffers(module: nn.Module) -> dict[str, np.ndarray]:
    """What public files of `module` hold beside parameters: {} but for the Swin U-Net.

    relative_position_index (int64) of every attention; attn_mask (float32) of every shifted block, for the nominal
    size of its map (the public code stores it and computes its own).
    """
    if not isinstance(module, SwinUNet):
        return {}
    buffers = {}
    for group in (layer for block in layout(module) for layer in block if layer.kind == "swin"):
        for index in range(module.swin_depth):
            block = f"{group.name}.blocks.{index}"
            window, shift = block_geometry(index, resolution=group.size, window_size=module.window_size)
            if shift:
                buffers[f"{block}.attn_mask"] = window_mask(group.size, group.size, window=window, shift=shift)
            buffers[f"{block}.attn.relative_position_index"] = relative_position_index(window).astype(np.int64)
    return {name: buffers[name] for name in sorted(buffers, key=public_order)}


def differing_buffers(module: nn.Module, state_dict: Mapping) -> list[str]:
    """Constant buffers in a public state dict that are not those of `module`: it was made for another size of map."""
    ours = constant_buffers(module)
    theirs = {name: array for name, array in without_prefixes(state_dict).items() if is_constant(name)}
    return [name for name, array in theirs.items() if not np.array_equal(array, ours.get(name))]


def is_constant(name: str) -> bool:
    """Whether a public name is that of a buffer which the configuration determines."""
    return name.rsplit(".", 1)[-1] in CONSTANT_BUFFERS


def without_prefix(name: str) -> str:
    """A public name without what wrappers of models ("module.", "_orig_mod.") put before it."""
    return re.sub(r"^((module|_orig_mod)\.)+", "", name)


def without_prefixes(state_dict: Mapping) -> dict:
    """The entries under their names without prefixes. Of repeated ones, the last stays."""
    return {without_prefix(name): array for name, array in state_dict.items()}


def repeated_names(state_dict: Mapping) -> list[str]:
    """Names that are there more than once: in the file (`torch_file.StateDict`), or after prefixes are taken off."""
    times = Counter(without_prefix(name) for name in (*state_dict, *getattr(state_dict, "repeated", ())))
    return [name for name, count in times.items() if count > 1]


def without_leftovers(state_dict: Mapping) -> tuple[StateDict, list[str]]:
    """An autoencoder's file as (its own entries, names of what its training left there)."""
    left_out = [name for name in state_dict if without_prefix(name).startswith(LEFTOVERS)]
    kept = {name: array for name, array in state_dict.items() if name not in set(left_out)}
    return StateDict(kept, [name for name in getattr(state_dict, "repeated", ()) if name in kept]), left_out


def guess_network(names) -> str | None:
    """Which public network has these parameter names; None where nothing tells."""
    return next((network for name, network in SIGNATURES.items() if name in names), None)


def _entries(variables: Mapping) -> dict[str, tuple[tuple[str, ...], object]]:
    """{public name: (path with the collection, leaf)}."""
    flat = flatten_dict(dict(variables))
    spectral = {path[1:-1] for path in flat if path[0] == "spectral"}
    return {public_name(path[1:], spectral=path[1:-1] in spectral): (path, leaf) for path, leaf in flat.items()}


def _public_shape(path, shape) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in KERNEL_AXES[len(shape)]) if path[-1] == "kernel" else tuple(shape)


def _to_public_layout(path, array):
    return array.transpose(KERNEL_AXES[array.ndim]) if path[-1] == "kernel" else array


def _to_our_layout(path, array):
    if path[-1] == "kernel":
        array = array.transpose(np.argsort(KERNEL_AXES[array.ndim]))
    return array


def _difference(source: str, state_dict: Mapping, faults: Mapping[str, list[str]]) -> str:
    """One line that says how a state dict differs from what the network needs; `faults`: {what is wrong: names}."""
    parts = [f"{len(entries)} {what}: {', '.join(entries)}" for what, entries in faults.items() if entries]
    found = guess_network(state_dict)
    if not faults["missing"] and not faults["surplus"]:
        advice = "The names fit, the sizes do not: choose the configuration that these weights were made for."
        if not faults["of another shape"]:
            advice = "Names and sizes fit: save the plain weights again, each once, as floating-point numbers."
    elif found:
        advice = f"They seem to belong to {found}: check which network and configuration they are meant for."
    else:
        advice = "They belong to no network known here."
    return f"{source} do not fit this network. {'; '.join(parts)}. {advice}"

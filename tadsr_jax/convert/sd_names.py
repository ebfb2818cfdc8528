"""Older public names of Stable Diffusion's autoencoder as those of today's diffusers files.

encoder.mid_block.attentions.0.query.weight   the published SD files, made with diffusers before 0.18
encoder.mid.attn_1.q.weight                   latent diffusion, whose attention has 1x1 convolutions
    --modern_vae_names-->  encoder.mid_block.attentions.0.to_q.weight, (c, c)
"""

import re
from collections.abc import Mapping

from tadsr_jax.convert.torch_file import StateDict

LAYERS = {"nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out"}
ATTENTION = {
    **{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
    **{"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
}
PROJECTION = re.compile(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$")


def modern_vae_names(state_dict: Mapping) -> StateDict:
    """A state dict of an AutoencoderKL under today's names, whichever it has; today's, and unknown ones, stay.

    Weights of the attention's projections become (c, c) where the file holds them as convolutions (c, c, 1, 1).
    Two entries that get one name count as repeated: `names.to_flax` refuses them.
    """
    levels = [int(found[1]) for name in state_dict if (found := re.search(r"\bdecoder\.up\.(\d+)\.", name))]
    coarsest, modern = max(levels, default=0), {}
    repeated = [modern_name(name, coarsest=coarsest) for name in getattr(state_dict, "repeated", ())]
    for name, array in state_dict.items():
        name = modern_name(name, coarsest=coarsest)
        if name in modern:
            repeated.append(name)
        is_convolution = PROJECTION.search(name) and array.ndim == 4 and array.shape[2:] == (1, 1)
        modern[name] = array.reshape(array.shape[:2]) if is_convolution else array
    return StateDict(modern, repeated)


def modern_name(name: str, *, coarsest: int) -> str:
    """Today's name of one parameter. `coarsest`: the number of the last level of a file of latent diffusion.

    Latent diffusion counts the decoder's levels from the finest; diffusers counts the blocks in the order of their use.
    """
    name = re.sub(r"\.up\.(\d+)\.", lambda found: f".up_blocks.{coarsest - int(found[1])}.", name)
    name = re.sub(r"\.down\.(\d+)\.", r".down_blocks.\1.", name)
    name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name)
    name = re.sub(r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv.", name)
    name = re.sub(r"\.mid\.block_(\d)\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", name)
    name = name.replace(".mid.attn_1.", ".mid_block.attentions.0.")
    layers = ATTENTION if ".mid_block.attentions.0." in name else LAYERS
    return re.sub(r"[^.]+(?=\.\w+$)", lambda layer: layers.get(layer[0], layer[0]), name)

"""Networks: linen modules of NHWC arrays that know nothing of noise schedules.

layers            convolution, dense, group norm, time embedding, work in bounded memory
convolution, norms   the arithmetic of these: 3x3 convolutions in the form that suits the platform
swin, unet_swin   the Swin U-Net of ResShift, SinSR and TAD-SR       vq, space_to_depth   autoencoders
unet_small        the small U-Net of the examples                    perceptual           backbones of LPIPS
unet_sd, controlnet, controlled_unet   the denoiser of SeeSR, AddSR and TAD-SeeSR (blocks_sd; public_sd: its configs)
kl, kl_tiled      the autoencoder of Stable Diffusion                clip_text            its text encoder
ram, swin_encoder the tagger of SeeSR                                dino, diffaugment    what AddSR's judge sees
discriminators, spectral_norm   the three discriminators             parts, storage       learning in part; not at all
resize            as PyTorch does it, inside compiled programs

Submodules are called as in the public checkpoints, dots included, so that a parameter's path is its public name.
A module's `example_inputs()` are the shapes of a smallest legal call, for the two functions below.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.config import bind

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}  # of the arithmetic; parameters are float32


def configured(kind: type[nn.Module], section: str, settings: dict) -> nn.Module:
    """The module of a section of the config: its fields, `dtype` by its name."""
    settings = dict(settings)
    if "dtype" in settings:
        if settings["dtype"] not in DTYPES:
            raise ValueError(f"{section}.dtype is {settings['dtype']!r}; expected one of {', '.join(DTYPES)}.")
        settings["dtype"] = DTYPES[settings["dtype"]]
    return kind(**bind(kind, section, settings))


def init_variables(module: nn.Module, key: jax.Array, *inputs, **options) -> dict:
    """{collection: tree}: fresh variables of `module`, {} where it has none. Call it inside `jit`: one compile.

    `inputs` and `options` are the arguments of the call that creates them, arrays or shapes; `module.example_inputs()`
    where none are given.
    """
    inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs or module.example_inputs())
    return module.init(key, *inputs, **options)


def synthetic_params(module: nn.Module, seed: int) -> dict:
    """Parameters that keep deviations near one, drawn without a compile: for trials of networks that nobody trained.

    Kernels and tables are normal with variance 1 / fan-in; norms are 1 and 0.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "bias"):
            return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)
        fan_in = max(math.prod(leaf.shape[:-1]), 1)
        return rng.standard_normal(leaf.shape, np.float32) / np.float32(math.sqrt(fan_in))

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(module).get("params", {}))


def abstract_variables(module: nn.Module, *inputs, **options) -> dict:
    """The same tree as shapes and dtypes: nothing is allocated."""
    return jax.eval_shape(lambda key: init_variables(module, key, *inputs, **options), jax.random.key(0))

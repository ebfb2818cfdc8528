"""Networks of the ResShift family: U-Net, its blocks, VQ autoencoders, and the public names of all of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables, unet_swin, vq
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.networks.layers import timestep_embedding
from tadsr_jax.networks.swin import SwinGroup, relative_position_index, window_mask
from tests.parity.runners.compiled import cached
from tests.parity.runners.layout import nchw, nhwc


@cached
def unet_of(**config):
    """(module, its abstract variables, its jitted apply)."""
    module = unet_swin.from_public(**config)
    return module, abstract_variables(module), jax.jit(module.apply, static_argnames="features_only")


@cached
def autoencoder_of(**config):
    """(module, its abstract variables, {"encode", "quantize", "decode": jitted methods})."""
    module = vq.from_public(**config)
    method = lambda name, **options: jax.jit(functools.partial(module.apply, method=name, **options))
    methods = {
        "encode": method("encode"),
        "quantize": method("quantize"),
        "decode": method("decode"),
        "decode_force_not_quantize": method("decode", quantize=False),
    }
    return module, abstract_variables(module), methods


def resshift_unet(case):
    _, variables, apply = unet_of(case.config)
    variables = names.to_flax(variables, case.weights())
    pictures = [nhwc(case.inputs[key]) if key in case.inputs else None for key in ("lq", "mask")]
    y = apply(variables, nhwc(case.inputs["x"]), jnp.asarray(case.inputs["timesteps"]), *pictures)
    return {"y": nchw(y)}


def resblock(case):
    config = case.config
    if config.get("use_conv"):
        raise ValueError("use_conv: no public network has a 3x3 convolution in its skip.")
    resample = "up" if config.get("up") else "down" if config.get("down") else None
    features = config.get("out_channels") or config["channels"]
    module = unet_swin.ResBlock(features, config["use_scale_shift_norm"], resample)
    return apply_block(case, module, nhwc(case.inputs["x"]), jnp.asarray(case.inputs["emb"]))


def basic_layer(case):
    config = case.config
    module = SwinGroup(
        resolution=np.min(config["img_size"]).item(),
        embed_dim=config["embed_dim"],
        num_heads=config["num_heads"],
        window_size=config["window_size"],
        depth=config["depth"],
        mlp_ratio=config["mlp_ratio"],
        patch_norm=config.get("patch_norm", False),
    )
    return apply_block(case, module, nhwc(case.inputs["x"]))


def apply_block(case, module, *inputs):
    variables = names.to_flax(abstract_variables(module, *inputs), case.weights())
    return {"y": nchw(jax.jit(module.apply)(variables, *inputs))}


BLOCKS = {
    "timestep_embedding": lambda case: {
        "y": timestep_embedding(case.inputs["timesteps"], case.config["dim"], case.config.get("max_period", 10000))
    },
    "relative_position_index": lambda case: {"y": relative_position_index(case.config["window_size"])},
    "attn_mask": lambda case: {
        "y": window_mask(
            case.config["height"],
            case.config["width"],
            window=case.config["window_size"],
            shift=case.config["shift_size"],
        )
    },
    "resblock": resblock,
    "basic_layer": basic_layer,
}


def resshift_block(case):
    return BLOCKS[case.config["block"]](case)


def vq_autoencoder(case):
    _, variables, methods = autoencoder_of(case.config)
    variables = names.to_flax(variables, case.weights())
    z = nhwc(case.inputs["z"])
    latent = methods["encode"](variables, nhwc(case.inputs["x"]))
    quantized, indices = methods["quantize"](variables, z)
    _, encode_indices = methods["quantize"](variables, latent)
    return {
        "encode": nchw(latent),
        "indices": indices,
        "quantized": nchw(quantized),
        "decode": nchw(methods["decode"](variables, z)),
        "decode_force_not_quantize": nchw(methods["decode_force_not_quantize"](variables, z)),
        "encode_indices": encode_indices,
        "roundtrip": nchw(methods["decode"](variables, latent)),
    }


def discriminator_variables(**config):
    """Abstract variables of TAD-SR's discriminator; the channels of its five maps follow from the public U-Net."""
    module = TimeAwareDiscriminator(**config)
    features = [jax.ShapeDtypeStruct((1, 4, 4, config["embed_dim"] * k), jnp.float32) for k in (1, 2, 2, 4, 4)]
    return abstract_variables(module, features, jax.ShapeDtypeStruct((1,), jnp.int32), update_stats=False)


def state_dict_shapes(case):
    """Counts of the exported entries; a difference in names, shapes or order is an error that names the first one."""
    network = case.spec["network"]
    buffers = {}
    if network == "UNetModelSwin":
        module, variables, _ = unet_of(case.config)
        buffers = {name: (list(a.shape), str(a.dtype)) for name, a in names.constant_buffers(module).items()}
    elif network == "VQModelTorch":
        _, variables, _ = autoencoder_of(case.config)
    elif network == "ProjectedDiscriminator":
        variables = discriminator_variables(**case.config)
    else:
        raise ValueError(f"network is {network!r}; expected UNetModelSwin, VQModelTorch or ProjectedDiscriminator.")
    shapes = {name: list(shape) for name, shape in names.public_shapes(variables).items()}
    wanted_buffers = {name: (b["shape"], b["dtype"]) for name, b in (case.spec.get("buffers") or {}).items()}
    if "spectral" in variables:  # there the buffers are state that we export with the parameters
        buffers = {name: (shapes.pop(name), "float32") for name in list(shapes) if name.endswith(("_u", "_v"))}
    compare_entries("parameters", shapes, case.shapes())
    compare_entries("buffers", buffers, wanted_buffers)
    return {"total": sum(math.prod(shape) for shape in shapes.values()), "tensors": len(shapes)}


def compare_entries(what: str, got: dict, want: dict) -> None:
    """Raise ValueError unless both have the same entries in the same order."""
    if got == want and list(got) == list(want):
        return
    missing, surplus = sorted(set(want) - set(got)), sorted(set(got) - set(want))
    differing = [f"{name}: {got[name]} != {want[name]}" for name in want if name in got and got[name] != want[name]]
    moved = [(ours, theirs) for ours, theirs in zip(got, want) if ours != theirs]
    raise ValueError(f"{what}: missing {missing[:3]}, surplus {surplus[:3]}, {differing[:3]}, order {moved[:1]}")


RUNNERS = {
    "resshift_unet": resshift_unet,
    "resshift_block": resshift_block,
    "vq_autoencoder": vq_autoencoder,
    "state_dict_shapes": state_dict_shapes,
}

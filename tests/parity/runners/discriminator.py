"""The kind of the time-aware discriminator: logits, spectral-norm vectors and estimates, after some passes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from tadsr_jax.convert.names import to_flax
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.networks.spectral_norm import as_matrix, spectral_norm
from tadsr_jax.networks.unet_swin import from_public


@functools.lru_cache(maxsize=1)
def _discriminator(config: str, update_stats: bool):
    module = TimeAwareDiscriminator(**json.loads(config))
    return module, jax.jit(functools.partial(module.apply, update_stats=update_stats, mutable=["spectral"]))


@functools.lru_cache(maxsize=1)
def _unet(config: str):
    module = from_public(**json.loads(config))
    return module, jax.jit(functools.partial(module.apply, features_only=True))


def _features(case, inputs: dict) -> list[jax.Array]:
    """The maps of the case, NHWC: stored, or made by its frozen network."""
    if "unet" not in case.config:
        names = sorted(
            (key for key in inputs if key.startswith("features")), key=lambda key: int(key[len("features") :])
        )
        return [jnp.asarray(inputs[name].transpose(0, 2, 3, 1)) for name in names]
    module, apply = _unet(json.dumps(case.config["unet"], sort_keys=True))
    x, lq = (inputs[name].transpose(0, 2, 3, 1) for name in ("x", "lq"))
    return apply(to_flax(module, case.weights("unet")), x, np.int32(inputs["t"]), lq)


def _sigmas(variables: dict) -> dict[str, jax.Array]:
    """{module: spectral norm estimate} with the vectors in `variables`."""
    params, vectors = flatten_dict(variables["params"]), flatten_dict(variables["spectral"])
    modules = {path[:-1] for path in vectors}
    return {
        ".".join(m): spectral_norm(as_matrix(params[(*m, "kernel")]), vectors[(*m, "u")], vectors[(*m, "v")])
        for m in modules
    }


def run_discriminator(case) -> dict:
    config, inputs = case.config, case.inputs
    features, t = _features(case, inputs), jnp.asarray(inputs["t"], jnp.int32)
    module, apply = _discriminator(json.dumps(config["discriminator"], sort_keys=True), config["mode"] == "train")
    state_dict = case.weights("discriminator") | {name: case.arrays[f"buffers/{name}"] for name in case.spec["buffers"]}
    variables = to_flax(abstract_variables(module, features, t), state_dict)
    for _ in range(config["passes"]):
        logits, new = apply(variables, features, t)
        variables = {**variables, **new}
    outputs = {f"logits{k}": array for k, array in enumerate(logits)}
    outputs |= {f"features{k}": np.asarray(array).transpose(0, 3, 1, 2) for k, array in enumerate(features)}
    outputs |= {f"sigma/{name}": sigma for name, sigma in _sigmas(variables).items()}
    for path, vector in flatten_dict(variables["spectral"]).items():
        outputs[f"buffers_after/{'.'.join(path[:-1])}.weight_{path[-1]}"] = vector
    return outputs


RUNNERS = {"tadsr_discriminator": run_discriminator}

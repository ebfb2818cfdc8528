"""The kind of the time-aware discriminator: logits, spectral-norm vectors and estimates, after some passes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from tadsr_jax.convert.names import to_flax
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.spectral_norm import as_matrix, spectral_norm
from tests.parity.runners.layout import nchw, nhwc
from tests.parity.runners.networks import unet_of
from tests.parity.runners.sd_discriminators import discriminator_of


def _features(case, inputs: dict) -> list[jax.Array]:
    """The maps of the case, NHWC: stored, or made by its frozen network."""
    if "unet" not in case.config:
        names = sorted(
            (key for key in inputs if key.startswith("features")), key=lambda key: int(key[len("features") :])
        )
        return [nhwc(inputs[name]) for name in names]
    _, variables, apply = unet_of(case.config["unet"])
    variables = to_flax(variables, case.weights("unet"))
    return apply(variables, nhwc(inputs["x"]), np.int32(inputs["t"]), nhwc(inputs["lq"]), features_only=True)


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
    module, apply = discriminator_of({"kind": "time-aware", **config["discriminator"]})
    state_dict = case.weights("discriminator") | {name: case.arrays[f"buffers/{name}"] for name in case.spec["buffers"]}
    variables = to_flax(abstract_variables(module, features, t), state_dict)
    for _ in range(config["passes"]):
        logits, new = apply(variables, features, t, update_stats=config["mode"] == "train")
        variables = {**variables, **new}
    outputs = {f"logits{k}": array for k, array in enumerate(logits)}
    outputs |= {f"features{k}": nchw(array) for k, array in enumerate(features)}
    outputs |= {f"sigma/{name}": sigma for name, sigma in _sigmas(variables).items()}
    for path, vector in flatten_dict(variables["spectral"]).items():
        outputs[f"buffers_after/{'.'.join(path[:-1])}.weight_{path[-1]}"] = vector
    return outputs


RUNNERS = {"tadsr_discriminator": run_discriminator}

"""What judges on the Stable-Diffusion side: DINO's transformers, the discriminators of AddSR and of TAD-SeeSR."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables, diffaugment, dino
from tadsr_jax.networks.discriminators import ConditionalDiscriminator, TimeAwareDiscriminator
from tests.parity.runners.compiled import cached
from tests.parity.runners.layout import nchw, nhwc

DINO_PREFIX = "dino.model.model."  # of AddSR's backbone in the public discriminator
AUGMENTATIONS = {
    "translation": lambda x, inputs: diffaugment.translate(x, _draw(inputs, "translation")),
    "cutout": lambda x, inputs: diffaugment.cutout(x, _draw(inputs, "offset")),
}


@cached
def transformer_of(**config):
    """(module, its abstract variables, its jitted apply)."""
    module = dino.from_public(**config)
    return module, abstract_variables(module), jax.jit(module.apply)


@cached
def discriminator_of(*, kind: str, **fields):
    """(module, {whether vectors are updated: its jitted apply})."""
    module = {"conditional": ConditionalDiscriminator, "time-aware": TimeAwareDiscriminator}[kind](**fields)

    def apply(variables, *inputs, update_stats):
        return module.apply(variables, *inputs, update_stats=update_stats, mutable=["spectral"])

    return module, jax.jit(apply, static_argnames="update_stats")


def dino_taps(config: dict, weights: dict, x) -> list:
    """The maps that AddSR's discriminator reads of pictures x (n, h, w, 3) in [0, 1], of the transformer's size."""
    _, variables, apply = transformer_of(config)
    return apply(names.to_flax(variables, weights), dino.normalize(x)).maps


def dino_class_token(config: dict, weights: dict, x):
    """The condition of AddSR's discriminator: the class token of pictures x (n, h, w, 3), as they are."""
    _, variables, apply = transformer_of(config)
    return apply(names.to_flax(variables, weights), x).class_token


def backbone_and_heads(state_dict: dict) -> tuple[dict, dict]:
    """The two parts of AddSR's public discriminator, whose backbone does not learn."""
    backbone = {name.removeprefix(DINO_PREFIX): a for name, a in state_dict.items() if name.startswith(DINO_PREFIX)}
    return backbone, {name: a for name, a in state_dict.items() if not name.startswith(DINO_PREFIX)}


def unit_vectors(state_dict: dict) -> dict:
    """A synthesised state dict whose spectral-norm vectors have length 1."""
    is_vector = lambda name: name.endswith(("weight_u", "weight_v"))
    return {name: a / np.linalg.norm(a) if is_vector(name) else a for name, a in state_dict.items()}


def dino_vits(case):
    image = nhwc(case.inputs["image"])
    if case.config["version"] == 2:
        return {"cls": dino_class_token(case.config, case.weights(), image)}
    maps = dino_taps(case.config, case.weights(), diffaugment.area_resize(image, case.config["img"]))
    return {f"tap.{k}": _as_sequence(a) for k, a in enumerate(maps)}


def _as_sequence(a):
    """(n, h, w, c) as the public (n, c, h w)."""
    return nchw(a).reshape(a.shape[0], a.shape[-1], -1)


def _draw(inputs: dict, name: str):
    """A draw of DiffAugment, (n, 2): what belongs to rows is called x there."""
    return jnp.stack([jnp.asarray(inputs[f"{name}_{axis}"], jnp.int32).reshape(-1) for axis in "xy"], axis=1)


def addsr_discriminator(case):
    config, inputs = case.config, case.inputs
    backbone, heads = backbone_and_heads(unit_vectors(case.weights()))
    x = augmented = nhwc(inputs["x"])
    if config["diffaug"]:
        for name in config["policy"].split(","):
            x = augmented = AUGMENTATIONS[name](x, inputs)
    x, size = (x + 1) / 2, config["dino"]["img"]
    x = diffaugment.crop(x, config["crop"], size) if config["crop"] else diffaugment.area_resize(x, size)
    maps = dino_taps(config["dino"], backbone, x)
    fields = {"kind": "conditional", "cmap_dim": config["cmap_dim"]}
    return judged(config, fields, heads, maps, jnp.asarray(inputs["c"])) | {"augmented": nchw(augmented)}


def tadseesr_discriminator(case):
    config, inputs = case.config, case.inputs
    count = sum(key.startswith("features.") for key in inputs)
    maps = [nhwc(inputs[f"features.{k}"]) for k in range(count)]
    fields = {"kind": "time-aware", "c_dim": config["c_dim"], "embed_dim": config["embed_dim"]}
    return judged(config, fields, unit_vectors(case.weights()), maps, jnp.asarray(inputs["timestep"], jnp.int32))


def judged(config: dict, fields: dict, state_dict: dict, maps: list, condition) -> dict:
    """Logits of a discriminator after its passes, and its vectors then."""
    module, apply = discriminator_of(fields)
    variables = names.to_flax(abstract_variables(module, maps, condition), state_dict)
    for _ in range(config["warmup_forwards"]):
        variables |= apply(variables, maps, condition, update_stats=True)[1]
    logits, new = apply(variables, maps, condition, update_stats=config["train"])
    vectors = flatten_dict(new["spectral"])
    outputs = {f"logits.{k}": array for k, array in enumerate(logits)}
    return outputs | {f"state.{'.'.join(path[:-1])}.weight_{path[-1]}": v for path, v in vectors.items()}


RUNNERS = {
    "dino_vits": dino_vits,
    "addsr_discriminator": addsr_discriminator,
    "tadseesr_discriminator": tadseesr_discriminator,
}

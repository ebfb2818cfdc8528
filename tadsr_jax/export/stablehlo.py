"""The whole computation as StableHLO: from a low-quality picture and noise to the enlarged picture, all steps inside.

    OUTPUT/model.stablehlo       the program, serialised by jax.export, for cpu, cuda and tpu and any batch and size
    OUTPUT/weights.safetensors   its first argument, {name: array}: the program itself holds no weights
    OUTPUT/manifest.json         arguments and result: order, shapes, types, ranges; the order of the weights
    OUTPUT/loader.py, README.md  how to run it with jax, numpy and safetensors alone

lower   a family as a jax.export.Exported          write   the folder
What a family is told of a picture beside it (`Family.prepare`: words, guidance), and colour fixes, are not in it.
"""

import json
from functools import partial
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export
from safetensors.numpy import save_file

from tadsr_jax import bundles
from tadsr_jax.export.source import described
from tadsr_jax.types import Bundle, Family

PLATFORMS = ("cpu", "cuda", "tpu")
RANGES = {
    "lq": "RGB from -1 to 1: level / 127.5 - 1 of 8 bits",
    "noise": "standard normal",
    "mask": "-1 where lq is known, which belongs into the result, and 1 where it is to be filled in",
}

README = """\
# A super-resolution model as StableHLO

    python loader.py picture.npy enlarged.npy

It needs jax, flatbuffers, numpy and safetensors, and runs wherever jax does: {platforms}. `loader.py` is an example of
all that there is to do:

    program = jax.export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
    image = program.call(weights, {inputs})

{lines}

`weights` is what `weights.safetensors` holds, as a dict; `weights.order` in `manifest.json` is the order of its arrays
where they have to come one by one. b, h and w are free, so sides of `lq` are multiples of {multiple}: pad it, and cut
the result. A shape is compiled when it is first called.

jax promises that it reads the program for six months of newer versions, and some weeks of older ones; `versions` in the
manifest says which one wrote it.
"""


def arguments(family: Family, *, steps: int, sampler: str) -> dict[str, tuple]:
    """{"lq": symbolic shape, "noise": ..., ...} in the order of the call; b, h and w are free.

    Sides are multiples of what the family needs: no size that fits is left out, and no other can be written down.
    """
    b, h, w = jax_export.symbolic_shape("b, h, w")
    height, width = family.multiple * h, family.multiple * w
    draws = (steps + 1,) if sampler == "stochastic" else ()  # that of the start, and that of each step
    shapes = {"lq": (b, height, width, 3), "noise": (b, *draws, *family.latent(height, width))}
    return shapes | dict.fromkeys(family.extras, (b, height, width, 1))


def lower(family: Family, *, steps: int, sampler: str = "deterministic") -> jax_export.Exported:
    """`family.sample` as a program of (weights, lq, noise, *extras), weights as {path: array}, for all PLATFORMS."""
    shapes = arguments(family, steps=steps, sampler=sampler)
    sample = partial(family.sample, steps=steps, stochastic=sampler == "stochastic")

    def program(weights, lq, noise, *extras):
        params = {name: {} for name in family.fixed} | unflatten_dict(weights, sep="/")
        return sample(params, lq, noise, extra=dict(zip(family.extras, extras, strict=True)))

    # Arguments that the result does not need stay, so that calls look alike.
    export = jax_export.export(jax.jit(program, keep_unused=True), platforms=PLATFORMS)
    inputs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes.values())
    return export(flat(bundles.expected_shapes(family)), *inputs)


def flat(params: dict) -> dict:
    """{"student/stem/kernel": array, ...} of all networks, in the order in which jax flattens the dict."""
    named = flatten_dict({name: tree for name, tree in params.items() if tree}, sep="/")
    return {name: named[name] for name in sorted(named)}


def readable(shape: tuple) -> list:
    """A shape for JSON: a number as it is, what varies as [factor, symbol]: (b, 8 h, 8 w, 3) -> [[1, "b"], ..., 3]."""
    split = lambda size: str(size).rpartition("*")  # a family's sizes are products of one symbol and a number
    return [size if isinstance(size, int) else [int(split(size)[0] or 1), split(size)[2]] for size in shape]


def write(folder: Path, model: Bundle) -> None:
    """Fill `folder` with the program of a model, its weights, and what a stranger needs to know."""
    about = {"format": "stablehlo"} | described(model)
    family = model.family
    # safetensors writes wrong data for arrays that are not contiguous.
    weights = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in flat(model.params).items()}
    program = lower(family, steps=about["steps"], sampler=about["sampler"])
    (folder / "model.stablehlo").write_bytes(program.serialize())
    save_file(weights, folder / "weights.safetensors")
    shapes = arguments(family, steps=about["steps"], sampler=about["sampler"])
    inputs = [
        {"name": name, "shape": readable(shape), "dtype": "float32", "range": RANGES[name]}
        for name, shape in shapes.items()
    ]
    (image,) = program.out_avals
    left_out = ["what the model can be told of a picture: tags, words, guidance"] if family.prepare else []
    if about.get("color_fix", "none") != "none":
        left_out.append(f"the colour fix of its pictures ({about['color_fix']})")
    about |= {
        "left_out": left_out,
        "program": {
            "file": "model.stablehlo",
            "sha256": bundles.file_sha256(folder / "model.stablehlo"),
            "calling_convention": program.calling_convention_version,
            "platforms": list(program.platforms),
        },
        "weights": {
            "file": "weights.safetensors",
            "sha256": bundles.file_sha256(folder / "weights.safetensors"),
            "order": list(weights),
        },
        "multiple": family.multiple,
        "inputs": inputs,
        "output": {"shape": readable(image.shape), "dtype": "float32", "range": "RGB from -1 to 1"},
    }
    (folder / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")
    (folder / "loader.py").write_text(resources.files(__package__).joinpath("loader.py").read_text())
    (folder / "README.md").write_text(_readme(about, shapes, image.shape))


def _readme(about: dict, shapes: dict[str, tuple], result: tuple) -> str:
    lines = [f"- `{name}`: float32 {shape}, {RANGES[name]}" for name, shape in shapes.items()]
    lines.append(f"- `image`: float32 {result}, RGB from -1 to 1, {about['scale']} times as large")
    lines += [f"- not in the program: {what}" for what in about["left_out"]]
    return README.format(
        platforms=", ".join(PLATFORMS), inputs=", ".join(shapes), lines="\n".join(lines), multiple=about["multiple"]
    )

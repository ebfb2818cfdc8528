"""For the tests of networks: weights that let signals through, and the entries of the public files.

random_variables   values keep about their size from layer to layer
public_entries     names and shapes, in the order of the file
"""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks import abstract_variables

LISTS = Path(__file__).parent / "fixtures" / "lists"


def random_variables(module, *inputs) -> dict:
    """Every parameter drawn with a deviation of 1 over the root of its fan-in, what starts at zero included.

    inputs: arrays or their shapes, for modules that have no example of their own. The tree is the caller's to change.
    """
    shapes, structure = jax.tree.flatten(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs))
    return jax.tree.map(lambda leaf: leaf, _drawn(module, structure, *shapes))


@functools.lru_cache(maxsize=8)
def _drawn(module, structure, *shapes) -> dict:
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape) / max(1, math.prod(leaf.shape[:-1])) ** 0.5
    variables = abstract_variables(module, *structure.unflatten(shapes))
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf), leaf.dtype), variables)


def public_entries(file: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a network's public file."""
    return {name: tuple(shape) for name, shape in json.loads((LISTS / f"{file}.json").read_text()).items()}

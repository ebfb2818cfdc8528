"""Networks that no longer learn, stored as they are read.

A layer rounds its kernel to the `dtype` that it computes in, at every call. Where nothing learns, once is enough.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from tadsr_jax.networks import abstract_variables

KERNELS = ("kernel", "table")  # of convolutions and dense layers; of embeddings. Norms and biases are small


def rounded(module: nn.Module, params: dict) -> dict:
    """`params` with kernels in the dtype of the layers that read them: the same outputs, bit by bit, in less memory.

    Layers that compute in float32, in a network of any `dtype`, keep their kernels: a time embedding, the last layer.
    """
    dtypes = _dtypes(module)
    store = lambda path, leaf: leaf.astype(dtypes[path[:-1]]) if path[-1] in KERNELS else leaf
    return unflatten_dict({path: store(path, leaf) for path, leaf in flatten_dict(params).items()})


def _dtypes(module: nn.Module) -> dict:
    """{path of a layer: the dtype that it computes in}, float32 where it has none."""
    found = {}

    def note(call, arguments, options, context):
        if context.method_name == "__call__":  # of a module in its place, which others need not have
            found[context.module.path] = getattr(context.module, "dtype", None) or jnp.float32
        return call(*arguments, **options)

    with nn.intercept_methods(note):
        abstract_variables(module)
    return found

"""Networks that learn in part: the leaves that learn as a tree of their own, beside the whole.

picked   the leaves that a predicate of their path names      merged   the whole with these leaves in their places
"""

from collections.abc import Callable

from flax.traverse_util import flatten_dict, unflatten_dict


def picked(params: dict, is_trained: Callable[[tuple[str, ...]], bool]) -> dict:
    """The leaves of `params` at whose paths (modules, then leaf) the predicate holds; ValueError if there are none."""
    part = {path: leaf for path, leaf in flatten_dict(params).items() if is_trained(path)}
    if not part:
        raise ValueError("none of these parameters would be trained; expected a network with image attentions.")
    return unflatten_dict(part)


def merged(params: dict, part: dict) -> dict:
    """`params` with the leaves of `part` in the places of its own. A path of `part` that is not there is a KeyError."""
    whole, own = flatten_dict(params), flatten_dict(part)
    if unknown := own.keys() - whole.keys():
        raise KeyError(f"not in the whole network: {'/'.join(min(unknown))}")
    return unflatten_dict(whole | own)

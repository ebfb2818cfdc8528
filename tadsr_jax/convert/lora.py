"""Low-rank updates in public files, and the two files of DAPE: RAM's own weights and what DAPE adds to them.

    RAM.pth, DAPE.pth --ram--> plain weights of `networks.ram.RAM`, in public names --names.to_flax--> variables

merge        weight + alpha / r * B A, for a matrix and for queries and values of three in one  [LoRA, arXiv 2106.09685]
is_updates   whether a file is such updates alone
ram          the entries of `network` in RAM's file, under today's names, DAPE's updates merged
"""

import math
import re
from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from tadsr_jax.convert import names, torch_file
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.resize import resize

ENABLED = (True, False, True)  # of queries, keys and values: DAPE leaves the keys alone


def merge(state_dict: Mapping, *, alpha: float = 1) -> dict[str, np.ndarray]:
    """The state dict with every pair NAME.lora_A, NAME.lora_B added to NAME.weight, and without the pairs.

        W + alpha / r * B A            A (r, i), B (o, r)       loralib's Linear
        for queries and values alone   A (2 r, i), B (2 o, r)   its MergedLinear; W is (3 o, i)

    Updated weights are float32, and are what loralib's `eval()` makes of them. DAPE has alpha = 1. Raises ValueError
    for half a pair, for one without a weight, and for shapes that do not fit.
    """
    updated = {name.rsplit(".", 1)[0] for name in state_dict if _is_update(name)}
    merged = {name: array for name, array in state_dict.items() if not _is_update(name)}
    for module in sorted(updated):
        parts = [f"{module}.{leaf}" for leaf in ("weight", "lora_A", "lora_B")]
        if missing := [part for part in parts if part not in state_dict]:
            raise ValueError(f"{missing[0]} is missing: a low-rank update needs {', '.join(parts)}.")
        weight, a, b = (np.asarray(state_dict[part], np.float32) for part in parts)
        if (update := _update(a, b)).shape != weight.shape:
            raise ValueError(
                f"{module}: lora_A {a.shape} and lora_B {b.shape} make no update of a weight {weight.shape}; "
                "these files are for networks of different sizes."
            )
        merged[parts[0]] = weight + np.float32(alpha / b.shape[-1]) * update
    return merged


def is_updates(state_dict: Mapping) -> bool:
    """Whether there are low-rank updates, and none of the weights that they are added to: DAPE.pth."""
    updated = [name.rsplit(".", 1)[0] for name in state_dict if _is_update(name)]
    return bool(updated) and not any(f"{module}.weight" in state_dict for module in updated)


def ram(state_dict: Mapping, updates: Mapping | None = None, *, network: nn.Module, alpha: float = 1) -> Mapping:
    """What `network` (a RAM) needs of a RAM file and, for DAPE, of the file with its updates: a public state dict.

    Entries of other parts (text encoder and decoder), constant buffers and their updates are left out; `vision_multi`
    becomes `tagging_head`; bias tables of other windows are resized. What is missing is found by `names.to_flax`.
    Raises ValueError where `updates` has nothing for the network, and as `merge`.
    """
    shapes = names.public_shapes(abstract_variables(network))
    kept = _entries_of(shapes, state_dict)
    if updates is not None:
        low_rank = {name: array for name, array in _entries_of(shapes, updates).items() if _is_update(name)}
        if not low_rank:
            raise ValueError("The file of updates has no lora_A and lora_B of the image encoder; expected DAPE.pth.")
        kept |= {name: array for name, array in low_rank.items() if name.rsplit(".", 1)[0] + ".weight" in kept}
    for name in kept:
        if name.endswith(".relative_position_bias_table"):
            kept[name] = resized_table(np.asarray(kept[name]), shapes[name][0])
    repeated = [_today(name) for name in names.repeated_names(state_dict)]
    return torch_file.StateDict(merge(kept, alpha=alpha), [name for name in repeated if name in shapes])


def resized_table(table: np.ndarray, rows: int) -> np.ndarray:
    """A bias table of (2 w - 1)^2 offsets, (offsets, heads), for `rows` offsets: a square picture resized, bicubic."""
    side, new_side = math.isqrt(len(table)), math.isqrt(rows)
    if len(table) == rows or side**2 != len(table):
        return table
    picture = table.reshape(1, side, side, -1)
    return np.asarray(resize(picture, (new_side, new_side), mode="bicubic")).reshape(rows, -1)


def _update(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """B A, with zeros for the keys where it is that of queries and values; (0, 0) where the two do not fit."""
    groups, rest = divmod(a.shape[0], b.shape[-1])
    if rest or groups not in (1, sum(ENABLED)) or b.shape[0] % groups:
        return np.zeros((0, 0), np.float32)
    products = iter([part_b @ part_a for part_a, part_b in zip(np.split(a, groups), np.split(b, groups))])
    if groups == 1:
        return next(products)
    zeros = np.zeros((len(b) // groups, a.shape[-1]), np.float32)
    return np.concatenate([next(products) if enabled else zeros for enabled in ENABLED])


def _is_update(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))


def _today(name: str) -> str:
    """The name of an entry of a RAM file in this network: without prefixes, and the head's old name replaced."""
    return re.sub(r"^vision_multi\.", "tagging_head.", names.without_prefix(name))


def _entries_of(shapes: Mapping, state_dict: Mapping) -> dict:
    """The entries that belong to the network with these `shapes`, updates of its weights included."""
    entries = {_today(name): array for name, array in state_dict.items()}
    weight = lambda name: re.sub(r"\.lora_[AB]$", ".weight", name)
    return {name: array for name, array in entries.items() if weight(name) in shapes}

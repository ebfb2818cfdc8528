"""Latent noise that belongs to places: the same numbers at a latent coordinate whatever else is computed, and where.

The plane of a seed is cut into blocks; each block has a counter-based generator of its own. So tiles agree where they
overlap, and neither their order and size nor files, batches or devices change a picture.
"""

import numpy as np

BLOCK = 64  # latent positions along a side


def region(seed: int, *, top: int, left: int, height: int, width: int, channels: int, draw: int = 0) -> np.ndarray:
    """Standard normal float32 (height, width, channels) of latent rows top .. top + height - 1, columns likewise.

    `draw` tells the start's noise (0) from that of the steps of a stochastic sampler (1, 2, ...).
    """
    noise = np.empty((height, width, channels), np.float32)
    for i in range(top // BLOCK, -(-(top + height) // BLOCK)):
        for j in range(left // BLOCK, -(-(left + width) // BLOCK)):
            block = _block(seed, draw, i, j, channels)
            rows, columns = _shared(i, top, height), _shared(j, left, width)
            noise[rows[0], columns[0]] = block[rows[1], columns[1]]
    return noise


def _block(seed: int, draw: int, i: int, j: int, channels: int) -> np.ndarray:
    key = np.array([int(seed), draw], np.uint64)  # of a list NumPy would make floats, and large seeds would collide
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, i, j]))
    return generator.standard_normal((BLOCK, BLOCK, channels), np.float32)


def _shared(index: int, first: int, length: int) -> tuple[slice, slice]:
    """What block `index` and the span share along an axis: as a slice of the span, and as one of the block."""
    start, stop = max(index * BLOCK, first), min((index + 1) * BLOCK, first + length)
    return slice(start - first, stop - first), slice(start - index * BLOCK, stop - index * BLOCK)

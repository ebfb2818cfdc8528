"""Large latents in tiles, one noise prediction a tile, blended with Gaussian weights at every step    [SeeSR].

starts        first latent pixels of the tiles along an axis           needed   whether a latent is cut at all
weights       what a tile's prediction counts at its pixels            cut, blend   the tiles, and their mean
Condition pictures are cut at the same places times 8; text and image states belong to all tiles.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

VARIANCE = 0.01  # of the Gaussian, in units of the tile's side


def needed(height: int, width: int, *, tile: int) -> bool:
    """Whether a latent is larger than a tile, by its number of pixels."""
    return height * width > tile**2


def starts(length: int, *, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles at a stride of tile - overlap that cover an axis; the last one ends with it."""
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}; expected 0 to {tile - 1}, less than the tile of {tile}.")
    stride = tile - overlap
    count = 1 + max(0, math.ceil((length - tile) / stride))
    return [*(i * stride for i in range(count - 1)), max(length - tile, 0)]


def places(height: int, width: int, *, tile: int, overlap: int) -> tuple[int, list[tuple[int, int]]]:
    """(side of the tiles, the first pixel (row, column) of each, row by row). No tile is larger than the latent."""
    tile = min(tile, height, width)
    rows, columns = (starts(length, tile=tile, overlap=min(overlap, tile - 1)) for length in (height, width))
    return tile, [(row, column) for row in rows for column in columns]


def weights(tile: int) -> np.ndarray:
    """(tile, tile) float64: g(i - tile / 2) g(j - (tile - 1) / 2) at row i, column j, g a Gaussian density.

        g(d) = exp(-d^2 / (2 v tile^2)) / sqrt(2 pi v),   v = 0.01

    The public code has the two different midpoints: a mean of tiles weighted otherwise is another picture.
    """
    g = lambda d: np.exp(-np.square(d) / (2 * VARIANCE * tile**2)) / math.sqrt(2 * math.pi * VARIANCE)
    pixel = np.arange(tile, dtype=np.float64)
    return g(pixel - tile / 2)[:, None] * g(pixel - (tile - 1) / 2)


def cut(x, where: Sequence[tuple[int, int]], *, tile: int, factor: int = 1):
    """The tiles of x (n, f h, f w, c): (tiles n, f tile, f tile, c); `factor` f is 8 for the picture of a latent."""
    side = tile * factor
    return jnp.concatenate([x[:, i * factor : i * factor + side, j * factor : j * factor + side] for i, j in where])


def blend(tiles, where: Sequence[tuple[int, int]], *, height: int, width: int):
    """sum(w y) / sum(w) over the tiles y at every pixel: (tiles n, tile, tile, c) -> (n, height, width, c)."""
    tile = tiles.shape[1]
    weight, total = weights(tile), np.zeros((height, width))
    for i, j in where:
        total[i : i + tile, j : j + tile] += weight
    tiles = tiles.reshape(len(where), -1, *tiles.shape[1:])
    result = jnp.zeros((tiles.shape[1], height, width, tiles.shape[-1]), tiles.dtype)
    for (i, j), y in zip(where, tiles, strict=True):
        # The share in float64, rounded once: far from their midpoints weights are as small as 1e-9 of each other.
        share = (weight / total[i : i + tile, j : j + tile]).astype(np.float32)[..., None]
        result = result.at[:, i : i + tile, j : j + tile].add(share * y)
    return result

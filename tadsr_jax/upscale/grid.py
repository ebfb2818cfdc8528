"""How a picture is cut: one tile of a size that many pictures share, or a grid of them.

Every tile of a grid has one shape, and shapes come from a short list, because each is compiled once.
"""

import dataclasses
import math

from tadsr_jax.types import Family
from tadsr_jax.upscale import tiles

OVERLAP = 16  # LQ pixels that neighbours share at least; docs/upscaling.md has what other widths cost and bring


@dataclasses.dataclass(frozen=True)
class Grid:
    """Tiles over an LQ picture; all numbers in LQ pixels."""

    height: int
    width: int
    tile: tuple[int, int]  # (height, width) of every tile; beyond the picture they are filled by its mirror image
    rows: tuple[int, ...]  # first pixels of the tiles
    columns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of what the tiles cover."""
        return self.rows[-1] + self.tile[0], self.columns[-1] + self.tile[1]

    def places(self):
        """(row, column) of the first pixel of each tile, row by row."""
        return ((row, column) for row in self.rows for column in self.columns)


def alignment(family: Family) -> int:
    """Tiles start at multiples of this: whole latent positions, and of those 8, or what the denoiser needs if less.

    Strided convolutions and attention windows then fall on the same places as in the whole picture, those of the finest
    levels at least; all levels would take more overlap than they are worth.
    """
    if family.stride:
        return family.stride
    latents = family.latent(family.multiple, family.multiple)[0]
    return family.multiple // latents * math.gcd(latents, 8) if family.multiple % latents == 0 else family.multiple


def make_grid(height: int, width: int, *, family: Family, tile: int | None, overlap: int = OVERLAP) -> Grid:
    """The grid of a picture: tiles of side `tile`, or the picture as a whole where it is None.

    Where a side of the picture is shorter than `tile`, so is the tile: a half or a quarter of it, if multiples allow.
    """
    if tile is None:
        sides = [length + -length % family.multiple for length in (height, width)]
        return Grid(height, width, tuple(sides), (0,), (0,))
    if tile < 1 or tile % family.multiple:
        near = max(round(tile / family.multiple), 1) * family.multiple
        raise ValueError(f"tile is {tile}; expected a multiple of {family.multiple} for this model, such as {near}.")
    align = alignment(family)
    overlap = min(overlap + -overlap % align, tile // 2 // align * align)
    sizes = sorted({tile // part for part in (4, 2, 1) if tile % (part * family.multiple) == 0})
    sides, starts = [], []
    for length in (height, width):
        sides.append(next((size for size in sizes if size >= length), tile))
        # The last tile ends where the padding of the picture as a whole does, for the same pixels at the edge.
        length += -length % math.lcm(family.multiple, align)
        starts.append(tuple(tiles.spread(length, size=tile, overlap=overlap, align=align)))
    return Grid(height, width, tuple(sides), *starts)


def auto_tile(family: Family, platform: str) -> int:
    """The side of tiles where nobody says: the full-size network needs about 2 GB on a CPU; accelerators get larger."""
    side = min(128 if platform == "cpu" else 256, family.largest or math.inf)
    return max(side // family.multiple, 1) * family.multiple


def smaller_tile(tile: int, family: Family) -> int | None:
    """About half of `tile`; None where the model can do with no less."""
    half = tile // 2 // family.multiple * family.multiple
    return half if half >= family.smallest else None

"""One picture on its way through the model: cut into tiles, given its noise, put together again.

Options        what a call asks for                 Enlargement   a picture, its grid, and what each tile is fed with
Canvas         the result, filled tile by tile      BadResult
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from tadsr_jax import images
from tadsr_jax.upscale import color, modes, noise, tiles
from tadsr_jax.upscale.grid import Grid, make_grid

SPREAD = 16 / 255  # of an input that nobody would call constant


class BadResult(RuntimeError):
    """The network returned what is no picture: not finite, or blank where its input is not."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a call asks for, checked and with its defaults filled in."""

    scale: float
    steps: int
    stochastic: bool
    seed: int
    tile: int | None
    color_fix: str
    request: Any = None  # what the family made of the words of the call


class Enlargement:
    """A picture on its way: what it was, how it is cut, and the canvas that its tiles fill.

    source   the picture as it came        told   what its tiles are told alike, {name: array}
    """

    def __init__(self, source: modes.Source, mask, family, options: Options, given_noise, tile: int | None):
        self.source, self._mask, self._family, self._options = source, mask, family, options
        self._given_noise, self._noise, self.told = given_noise, None, {}
        self._rgb = modes.grown(source.rgb, *seen_size(*source.rgb.shape[:2], family.smallest))
        self.restart(tile)

    def restart(self, tile: int | None) -> None:
        height, width, _ = self._rgb.shape
        self.grid: Grid = make_grid(height, width, family=self._family, tile=tile)
        self._noise = self._fitting_noise()
        wanted = output_size(*self.source.rgb.shape[:2], self._options.scale)
        seen = dataclasses.replace(self.source, rgb=self._rgb)
        self.canvas = Canvas(seen, self._mask, self.grid, self._family.scale, wanted, self._options.color_fix)
        pad = lambda picture: tiles.pad_to(picture[None], *self.grid.padded)[0]
        self._padded = pad(self._rgb)
        self._padded_mask = None if self._mask is None else pad(self._mask[..., None])

    def _latent(self, height: int, width: int) -> tuple[int, int, int]:
        return self._family.latent(height, width)

    def _fitting_noise(self) -> np.ndarray | None:
        """The caller's noise as (draws, h, w, c) over the padded picture; ValueError where it fits in no layout."""
        if self._given_noise is None:
            return None
        draws = self._options.steps + 1 if self._options.stochastic else 1
        h, w, c = self._latent(*self.grid.padded)
        array = np.asarray(self._given_noise, np.float32)
        for layout, axes in (((draws, h, w, c), (0, 1, 2, 3)), ((draws, c, h, w), (0, 2, 3, 1))):
            bare = tuple(size for size in layout if size != 1)
            if tuple(size for size in array.shape if size != 1) == bare:
                return array.reshape(layout).transpose(axes)
        what = f"({h}, {w}, {c}) or ({c}, {h}, {w})" + (f", {draws} of them" if draws > 1 else "")
        (height, width, _), seen = self.source.rgb.shape, self._rgb.shape[:2]
        how = f", which the model sees as {seen[1]}x{seen[0]}" if seen != (height, width) else ""
        raise ValueError(f"noise has shape {array.shape}; expected {what} for this picture of {width}x{height}{how}.")

    def inputs(self, row: int, column: int, options: Options) -> tuple[np.ndarray, np.ndarray, dict]:
        """(lq in [-1, 1], noise, extras) of the tile that starts there."""
        height, width = self.grid.tile
        rows, columns = slice(row, row + height), slice(column, column + width)
        lq = images.to_signed(modes.to_unit(self._padded[rows, columns]))
        top, left, _ = self._latent(row, column)
        h, w, c = self._latent(height, width)
        if self._noise is not None:
            start = self._noise[:, top : top + h, left : left + w]
        else:
            draws = options.steps + 1 if options.stochastic else 1
            where = {"top": top, "left": left, "height": h, "width": w, "channels": c}
            start = np.stack([noise.region(options.seed, draw=draw, **where) for draw in range(draws)])
        mask = {} if self._padded_mask is None else {"mask": self._padded_mask[rows, columns] * 2 - 1}
        extra = self.told | mask
        return lq, start if options.stochastic else start[0], extra

    def take(self, place_: tuple[int, int], result: np.ndarray) -> None:
        """The result of the next tile, in [-1, 1]."""
        row, column = place_
        height, width = self.grid.tile
        _check_result(result, self._padded[row : row + height, column : column + width])
        self.canvas.add(result)


class Canvas:
    """The result of one picture, filled tile by tile."""

    def __init__(self, source: modes.Source, mask, grid: Grid, scale: int, wanted: tuple[int, int], color_fix: str):
        self._source, self._mask, self._scale, self._wanted = source, mask, scale, wanted
        height, width = grid.height * scale, grid.width * scale
        fixes = color_fix != "none" and not source.is_grey  # grey has no colours to take
        self._fix = color_fix if fixes else None
        last = self._fix is None and self._wanted == (height, width)
        # What is worked on further is kept with 16 bits, so that nothing is rounded twice.
        kept = source.rgb.dtype if last or source.rgb.dtype == np.float32 else np.uint16
        self._pixels = np.empty((height, width) if source.is_grey else (height, width, 3), kept)
        self._moments = color.Moments() if self._fix == "adain" else None
        overlap = _least_overlap(grid) * scale
        rows, columns = ([start * scale for start in axis] for axis in (grid.rows, grid.columns))
        self._bands = tiles.Bands(
            width,
            rows=rows,
            columns=columns,
            row_shares=tiles.smooth_shares(height, rows, grid.tile[0] * scale, overlap=overlap),
            column_shares=tiles.smooth_shares(width, columns, grid.tile[1] * scale, overlap=overlap),
            emit=self._emit,
        )

    def add(self, tile: np.ndarray) -> None:
        self._bands.add(tile)

    def _emit(self, first: int, band: np.ndarray) -> None:
        """Rows that are whole, in [-1, 1]: known pixels pasted back, grey where the source is, kept as levels."""
        band = images.from_signed(band)
        if self._mask is not None:
            rows = np.arange(first, first + len(band)) // self._scale
            unknown, known = (
                np.repeat(a[rows], self._scale, axis=1) for a in (self._mask[..., None], self._source.rgb)
            )
            band = band * unknown + modes.to_unit(known) * (1 - unknown)
        band = np.clip(band, 0, 1)
        if self._moments:
            self._moments.update(band)
        if self._source.is_grey:
            band = images.luma_601(band)
        self._pixels[first : first + len(band)] = modes.to_levels(band, self._pixels.dtype)

    def finish(self) -> np.ndarray:
        """The picture at its final size and colours, in the source's dtype."""
        pixels, self._pixels = self._pixels, None
        if self._fix:
            color.recolor(pixels, self._source.rgb, how=self._fix, own=self._moments)
        pixels = modes.resized(pixels, *self._wanted)
        if pixels.dtype == self._source.rgb.dtype:
            return pixels
        for first in range(0, len(pixels), 1024):  # 16 to 8 bits, a few rows at a time
            rows = slice(first, first + 1024)
            pixels[rows] = modes.to_levels(modes.to_unit(pixels[rows]), np.uint8)
        return pixels.astype(np.uint8)


def _least_overlap(grid: Grid) -> int:
    """The smallest overlap of neighbours, in LQ pixels; 0 for a single tile."""
    shared = [
        start + size - following
        for axis, size in ((grid.rows, grid.tile[0]), (grid.columns, grid.tile[1]))
        for start, following in itertools.pairwise(axis)
    ]
    return min(shared, default=0)


def seen_size(height: int, width: int, smallest: int) -> tuple[int, int]:
    """(height, width) in which a model sees a picture: its own, or one whose shorter side is `smallest`."""
    short = min(height, width)
    # In whole numbers: SeeSR's int(128 / short * side) is a pixel less for a few sizes, such as 127 of 49.
    return (height, width) if short >= smallest else (smallest * height // short, smallest * width // short)


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    return round(height * scale), round(width * scale)


def binary_mask(mask, height: int, width: int) -> np.ndarray:
    """(h, w) float32, 1 where unknown, from bools, levels of 8 or 16 bits, or floats in [0, 1]; ValueError if not."""
    mask = np.asarray(mask)
    mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.shape != (height, width):
        raise ValueError(f"the mask has shape {mask.shape}; expected ({height}, {width}), as the picture.")
    if (mask.dtype.kind == "f" and np.all((mask >= 0) & (mask <= 1))) or mask.dtype == bool:
        top = 1
    elif mask.dtype in (np.uint8, np.uint16):
        top = np.iinfo(mask.dtype).max
    else:
        raise ValueError(f"the mask is of {mask.dtype}; expected bool, uint8, uint16, or floats in [0, 1].")
    unknown = mask >= top / 2
    if mask.any() and not unknown.any():
        raise ValueError(f"the mask marks nothing: its largest value is {mask.max()}; {top} is unknown, 0 known.")
    return unknown.astype(np.float32)


def _check_result(tile: np.ndarray, lq: np.ndarray) -> None:
    """BadResult for a tile in [-1, 1] that is not finite, or constant where its input is not."""
    low, high = tile.min(), tile.max()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadResult("the network's result is not finite; try dtype float32, or another bundle.")
    unit = modes.to_unit(lq)
    if high - low < 1 / 255 and unit.max() - unit.min() > SPREAD:
        raise BadResult(
            "the network's result is blank where the picture is not; the bundle is damaged or of another kind."
        )

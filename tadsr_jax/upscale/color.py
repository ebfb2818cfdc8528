"""Colour fixes: the result keeps its detail and takes its colours from the picture it was made of.

adain      mean and standard deviation of each channel are the source's        [SeeSR's wavelet_color_fix.py]
wavelet    everything coarser than some 30 pixels is the source's              [the same file]

For pictures that do not fit in memory as floats, the same by bands of rows, with equal results:
Moments        running mean and standard deviation     match_moments    AdaIN of any rows, given both moments
wavelet_bands  a stream of bands to a stream of bands  enlarged_rows    some rows of the enlarged source
recolor        all of it, for levels, in place

Pictures are float32 RGB in [0, 1], (h, w, 3); results are not clipped. `target` is the picture to be fixed, `source`
the low-quality input, enlarged (bicubic) to the target's size.
"""

import itertools
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from PIL import Image

from tadsr_jax.bundles import COLOR_FIXES
from tadsr_jax.upscale import modes

DILATIONS = (1, 2, 4, 8, 16)  # of the five blurs of the wavelet fix
HALO = sum(DILATIONS)  # rows above and below that one row of the wavelet fix depends on
STD_EPS = 1e-5  # added to the variance in AdaIN: a constant channel has a standard deviation of 0.003
BAND_PIXELS = 2**22  # of one band of `recolor`: 50 MB of floats
_CUBIC_REACH = 2  # rows of the source beyond its own that an enlarged row is made of


# --- AdaIN ----------------------------------------------------------------------------------------------------------


class Moments:
    """Mean and standard deviation of each channel, of rows that come in bands. Sums in float64.

    std = sqrt(var + 1e-5), var with n - 1 in the denominator (0 for a single pixel)     [SeeSR, calc_mean_std]
    """

    def __init__(self):
        self.count = 0
        self.mean = np.zeros(3)
        self._squares = np.zeros(3)  # sum of (x - mean)^2

    def update(self, rows: np.ndarray) -> "Moments":
        """Take in the next rows, (h, w, 3). Returns itself."""
        count = rows.shape[0] * rows.shape[1]
        if count == 0:
            return self
        mean, std = (value.ravel() for value in cv2.meanStdDev(rows))  # float64, without a copy of the rows
        total = self.count + count
        # Two samples as one: n s^2 = n_a s_a^2 + n_b s_b^2 + (m_b - m_a)^2 n_a n_b / n
        shift = mean - self.mean
        self._squares = self._squares + count * std**2 + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
        return self

    @property
    def std(self) -> np.ndarray:
        """(3,) float64, never 0."""
        return np.sqrt(self._squares / max(self.count - 1, 1) + STD_EPS)


def match_moments(rows: np.ndarray, own: Moments, wanted: Moments) -> np.ndarray:
    """(x - mean_own) / std_own * std_wanted + mean_wanted per channel, for any rows (h, w, 3) of the picture."""
    gain = wanted.std / own.std
    offset = wanted.mean - own.mean * gain
    return rows * gain.astype(np.float32) + offset.astype(np.float32)


def adain(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """AdaIN of a whole picture: the source's mean and standard deviation in each channel. Sizes may differ."""
    return match_moments(target, Moments().update(target), Moments().update(source))


# --- wavelet --------------------------------------------------------------------------------------------------------


def smooth(picture: np.ndarray) -> np.ndarray:
    """The coarse part of the wavelet decomposition, (h, w, 3) -> (h, w, 3).

    Five blurs in a row, of dilations 1, 2, 4, 8, 16, each with [[1, 2, 1], [2, 4, 2], [1, 2, 1]] / 16, the edges
    repeated before each. The kernel is a product and so is the padding: all of one axis first, then the other.
    """
    for axis in (0, 1):
        for dilation in DILATIONS:
            picture = _blur(picture, dilation, axis)
    return picture


def _blur(picture: np.ndarray, dilation: int, axis: int) -> np.ndarray:
    """(x[i - d] + 2 x[i] + x[i + d]) / 4 along one axis."""
    rows, columns = (dilation, 0) if axis == 0 else (0, dilation)
    padded = cv2.copyMakeBorder(picture, rows, rows, columns, columns, cv2.BORDER_REPLICATE)
    before, after = (
        (padded[: -2 * rows], padded[2 * rows :]) if rows else (padded[:, : -2 * columns], padded[:, 2 * columns :])
    )
    total = before + after
    total += picture
    total += picture
    total *= np.float32(0.25)
    return total


def wavelet(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The detail of the target on the coarse part of the source; both (h, w, 3).

        detail(x) + smooth(y) = x - smooth(x) + smooth(y) = x + smooth(y - x)

    The public code adds up the detail level by level; the sum telescopes, and `smooth` is linear.
    """
    _check_sizes(target, source)
    return target + smooth(source - target)


def wavelet_bands(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """`wavelet` of a picture that comes as bands of rows from top to bottom: (target rows, source rows) each time.

    Yields the fixed rows in order, all of them, in bands of other heights: a row is given out once the `HALO` rows
    below it are known. Each row is read before it is yielded, so the caller may overwrite what it read. Equal to
    `wavelet` of the whole: edges are repeated at the picture's own edges alone.
    """
    target = difference = None  # rows that wait for those below them; the same of source - target, and HALO rows above
    for target_rows, source_rows in pairs:
        _check_sizes(target_rows, source_rows)
        target = target_rows if target is None else np.concatenate([target, target_rows])
        more = source_rows - target_rows
        difference = more if difference is None else np.concatenate([difference, more])
        ready, above = len(target) - HALO, len(difference) - len(target)
        if ready > 0:
            yield target[:ready] + smooth(difference)[above : above + ready]
            target, difference = target[ready:].copy(), difference[max(0, above + ready - HALO) :].copy()
    if target is not None:
        yield target + smooth(difference)[len(difference) - len(target) :]


def _check_sizes(target: np.ndarray, source: np.ndarray) -> None:
    if target.shape != source.shape:
        raise ValueError(f"the source is {source.shape}, the target {target.shape}; enlarge the source to that size.")


# --- levels, in bounded memory --------------------------------------------------------------------------------------


def enlarged_rows(source: np.ndarray, first: int, end: int, *, scale: int) -> np.ndarray:
    """Rows `first` to `end` (exclusive) of the source enlarged `scale` times: bicubic with a = -0.5, as Pillow does it.

    `source` (h, w, 3) levels, or floats in [0, 1] -> (end - first, scale w, 3) float32. Only the rows that are needed
    are read, so bands together equal the whole.
    """
    if scale == 1:
        return modes.to_unit(source[first:end])
    top, bottom = max(0, first // scale - _CUBIC_REACH), min(len(source), -(-end // scale) + _CUBIC_REACH)
    part = modes.to_unit(source[top:bottom])
    size = (part.shape[1] * scale, part.shape[0] * scale)
    planes = [Image.fromarray(part[..., c]).resize(size, Image.Resampling.BICUBIC) for c in range(part.shape[2])]
    return np.stack([np.asarray(plane)[first - top * scale : end - top * scale] for plane in planes], axis=-1)


def recolor(pixels: np.ndarray, source: np.ndarray, *, how: str, own: Moments | None = None) -> None:
    """Fix the colours of `pixels` in place: (s h, s w, 3) uint8, uint16 or float32 levels, from `source` (h, w, 3).

    how   "wavelet", "adain" or "none"
    own   the moments of `pixels`, for "adain", where they were gathered while it was made; else it is read twice
    Takes some 400 MB beside its arguments, whatever their size. Results are clipped to the range of the dtype.
    """
    if how not in COLOR_FIXES:
        raise ValueError(f"color_fix is {how!r}; expected one of {', '.join(COLOR_FIXES)}.")
    scale = len(pixels) // len(source)
    if pixels.shape != (scale * source.shape[0], scale * source.shape[1], 3):
        raise ValueError(f"the result is {pixels.shape}, which is no whole multiple of its source, {source.shape}.")
    bands = list(_bands(*pixels.shape[:2]))
    targets = (modes.to_unit(pixels[band]) for band in bands)
    sources = (enlarged_rows(source, band.start, band.stop, scale=scale) for band in bands)
    if how == "wavelet":
        _fill(pixels, wavelet_bands(zip(targets, sources, strict=True)))
    elif how == "adain":
        own = own or _moments(modes.to_unit(pixels[band]) for band in bands)
        wanted = _moments(sources)
        _fill(pixels, (match_moments(rows, own, wanted) for rows in targets))


def _bands(height: int, width: int) -> Iterator[slice]:
    """Rows by the band; a band is not lower than twice the halo, or most of the work would be done twice."""
    rows = max(4 * HALO, BAND_PIXELS // width)
    edges = [*range(0, height, rows), height]
    return (slice(*pair) for pair in itertools.pairwise(edges))


def _moments(bands: Iterable[np.ndarray]) -> Moments:
    moments = Moments()
    for rows in bands:
        moments.update(rows)
    return moments


def _fill(pixels: np.ndarray, bands: Iterable[np.ndarray]) -> None:
    """Write bands of float rows over `pixels`, from the top, as levels of its dtype."""
    first = 0
    for rows in bands:
        pixels[first : first + len(rows)] = modes.to_levels(rows, pixels.dtype)
        first += len(rows)

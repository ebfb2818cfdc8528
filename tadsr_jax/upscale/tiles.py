"""Large pictures in tiles: where they lie, how much each counts at a pixel, and their sum in bands of rows.

starts, spread      first pixels along an axis: at a fixed stride (public code), or evenly, for smooth blending
average_shares, smooth_shares     what each tile counts along an axis; they sum to one at every pixel
Bands               the sum of tiles that come row by row; finished rows leave, so that memory holds one row of tiles
pad_to_multiple     mirrored at the right and at the bottom
average             all of it as the public code has it: for comparisons with its pictures; ours are blended smoothly

Shares along rows and columns multiply, because the tiles lie on a grid; so does the public code's count of tiles.
"""

import math
from collections.abc import Callable

import numpy as np


def starts(length: int, *, size: int, stride: int) -> list[int]:
    """First pixels of the tiles along an axis: every `stride`, the last one moved back to end with the axis."""
    if length <= size:
        return [0]
    return sorted({min(start, length - size) for start in range(0, length, stride)})


def spread(length: int, *, size: int, overlap: int, align: int = 1) -> list[int]:
    """First pixels of the fewest tiles that overlap by `overlap` or more, spread evenly over an axis.

    All are multiples of `align`, as `length` and `size` must be; rounding may cost less than `align` of the overlap.
    """
    if length <= size:
        return [0]
    count = math.ceil((length - overlap) / (size - overlap))
    return [(length - size) * k // (count - 1) // align * align for k in range(count)]


def average_shares(length: int, first: list[int], size: int) -> list[np.ndarray]:
    """1 / (number of tiles over the pixel), for each tile: float32 arrays of its length. A plain mean."""
    spans = [slice(start, min(start + size, length)) for start in first]
    return _normalised(length, spans, [np.ones(span.stop - span.start) for span in spans])


def smooth_shares(length: int, first: list[int], size: int, *, overlap: int) -> list[np.ndarray]:
    """Shares that rise from the edge of a tile to its inside: 0 over a quarter of `overlap`, then 3u^2 - 2u^3.

    What lies next to an edge was computed without its surroundings, so it does not count at all. At the edges of the
    picture there is nothing to blend with, and the share stays one.
    """
    spans = [slice(start, min(start + size, length)) for start in first]
    rises = []
    for span in spans:
        pixel = np.arange(span.start, span.stop) + 0.5
        left = pixel - span.start if span.start > 0 else np.inf
        right = span.stop - pixel if span.stop < length else np.inf
        inside = np.broadcast_to(np.minimum(left, right), pixel.shape)
        u = np.clip((inside - overlap / 4) / max(overlap / 2, 1), 1e-6, 1)
        rises.append(u * u * (3 - 2 * u))
    return _normalised(length, spans, rises)


def _normalised(length: int, spans: list[slice], weights: list[np.ndarray]) -> list[np.ndarray]:
    total = np.zeros(length)
    for span, weight in zip(spans, weights, strict=True):
        total[span] += weight
    return [(weight / total[span]).astype(np.float32) for span, weight in zip(spans, weights, strict=True)]


class Bands:
    """The weighted sum of tiles given row by row, left to right; rows that no later tile reaches are handed out.

    rows, columns              first output pixels of the tiles along each axis
    row_shares, column_shares  what each counts, of `average_shares` or `smooth_shares`
    emit(first, band)          gets float32 (n, width, channels), rows first .. first + n, in order and without a gap
    """

    def __init__(
        self,
        width: int,
        *,
        rows: list[int],
        columns: list[int],
        row_shares: list[np.ndarray],
        column_shares: list[np.ndarray],
        emit: Callable[[int, np.ndarray], None],
    ):
        self._width, self._rows, self._columns, self._emit = width, rows, columns, emit
        self._row_shares, self._column_shares = row_shares, column_shares
        self._next = 0  # number of the next tile
        self._top, self._sum = 0, None  # first row that is held, and the rows

    def add(self, tile: np.ndarray) -> None:
        """The next tile, (h, w, channels): at least as large as its shares say; what is beyond them is padding."""
        i, j = divmod(self._next, len(self._columns))
        row_share, column_share = self._row_shares[i], self._column_shares[j]
        if j == 0:
            self._hold(self._rows[i] + len(row_share), tile.shape[-1])
        top, left = self._rows[i] - self._top, self._columns[j]
        part = tile[: len(row_share), : len(column_share)] * (row_share[:, None] * column_share)[..., None]
        self._sum[top : top + len(row_share), left : left + len(column_share)] += part
        self._next += 1
        if j == len(self._columns) - 1:
            end = self._rows[i + 1] if i + 1 < len(self._rows) else self._top + len(self._sum)
            self._release(end)

    def _hold(self, bottom: int, channels: int) -> None:
        held = 0 if self._sum is None else len(self._sum)
        more = np.zeros((bottom - self._top - held, self._width, channels), np.float32)
        self._sum = more if self._sum is None else np.concatenate([self._sum, more])

    def _release(self, end: int) -> None:
        count = end - self._top
        self._emit(self._top, self._sum[:count])
        self._top, self._sum = end, self._sum[count:].copy()


def average(
    enlarge: Callable[[np.ndarray], np.ndarray],
    picture: np.ndarray,
    *,
    size: int,
    stride: int,
    scale: int,
    at_once: int = 1,
) -> np.ndarray:
    """The enlarged picture as the plain mean of its enlarged tiles [ResShift's ImageSpliterTh].

    `picture` (n, h, w, c) NumPy; `size` and `stride` in its pixels. `enlarge` gets up to `at_once` tiles stacked on
    the batch axis, (tiles n, h, w, c), the picture's own batch innermost, and returns (tiles n, scale h, scale w,
    channels). A tile is as long as the axis where that is shorter.
    """
    n, height, width, _ = picture.shape
    rows, columns = (starts(length, size=size, stride=stride) for length in (height, width))
    enlarged_rows, enlarged_columns = ([start * scale for start in axis] for axis in (rows, columns))
    collected = [[] for _ in range(n)]
    bands = [
        Bands(
            width * scale,
            rows=enlarged_rows,
            columns=enlarged_columns,
            row_shares=average_shares(height * scale, enlarged_rows, size * scale),
            column_shares=average_shares(width * scale, enlarged_columns, size * scale),
            emit=lambda _, band, rows=collected[number]: rows.append(band),
        )
        for number in range(n)
    ]
    where = [(row, column) for row in rows for column in columns]
    for first in range(0, len(where), at_once):
        group = where[first : first + at_once]
        stacked = np.concatenate([picture[:, row : row + size, column : column + size] for row, column in group])
        enlarged = np.asarray(enlarge(stacked), np.float32)
        for number, tile in enumerate(enlarged):
            bands[number % n].add(tile)
    return np.stack([np.concatenate(rows) for rows in collected])


def pad_to_multiple(picture: np.ndarray, multiple: int) -> np.ndarray:
    """Mirror (edge not repeated) at the bottom and right, until both sides are multiples of `multiple`: (n, h, w, c).

    The mirror is repeated where the picture is shorter than the padding; the public code fails there.
    """
    _, height, width, _ = picture.shape
    return pad_to(picture, height + -height % multiple, width + -width % multiple)


def pad_to(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mirror (edge not repeated) at the bottom and right, up to this size: (n, h, w, c) -> (n, height, width, c)."""
    _, h, w, _ = picture.shape
    if (h, w) == (height, width):
        return picture
    mode = "reflect" if min(h, w) > 1 else "symmetric"  # one pixel has nothing beside its edge to mirror
    return np.pad(picture, ((0, 0), (0, height - h), (0, width - w), (0, 0)), mode=mode)

"""Large pictures in tiles: where they lie, what they cover, and the plain average that the public code blends with.

Pictures are NumPy, (n, h, w, c). Sizes and strides are in low-quality pixels; `scale` is the enlargement.
"""

from collections.abc import Callable

import numpy as np


def starts(length: int, *, size: int, stride: int) -> list[int]:
    """First pixels of the tiles along an axis: every `stride`, the last one moved back to end with the axis."""
    if length <= size:
        return [0]
    return sorted({min(start, length - size) for start in range(0, length, stride)})


def places(height: int, width: int, *, size: int, stride: int) -> list[tuple[int, int]]:
    """(row, column) of the first pixel of each tile, row by row."""
    rows, columns = (starts(length, size=size, stride=stride) for length in (height, width))
    return [(row, column) for row in rows for column in columns]


def coverage(height: int, width: int, *, size: int, stride: int, scale: int) -> np.ndarray:
    """How many tiles cover each pixel of the enlarged picture: (scale height, scale width) float32."""
    count = np.zeros((height * scale, width * scale), np.float32)
    for row, column in places(height, width, size=size, stride=stride):
        count[row * scale : (row + size) * scale, column * scale : (column + size) * scale] += 1
    return count


def average(
    enlarge: Callable[[np.ndarray], np.ndarray],
    picture: np.ndarray,
    *,
    size: int,
    stride: int,
    scale: int,
    at_once: int = 1,
) -> np.ndarray:
    """The enlarged picture as the mean of its enlarged tiles [ResShift's ImageSpliterTh].

    `enlarge` gets up to `at_once` tiles stacked on the batch axis, (tiles n, h, w, c), the picture's own batch
    innermost, and returns (tiles n, scale h, scale w, channels). A tile is as long as the axis where that is shorter.
    """
    n, height, width, _ = picture.shape
    where = places(height, width, size=size, stride=stride)
    total = None
    for first in range(0, len(where), at_once):
        group = where[first : first + at_once]
        stacked = np.concatenate([picture[:, row : row + size, column : column + size] for row, column in group])
        enlarged = np.asarray(enlarge(stacked), np.float32)
        if total is None:
            total = np.zeros((n, height * scale, width * scale, enlarged.shape[-1]), np.float32)
        for number, (row, column) in enumerate(group):
            tile = enlarged[number * n : (number + 1) * n]
            rows, columns = row * scale, column * scale
            total[:, rows : rows + tile.shape[1], columns : columns + tile.shape[2]] += tile
    return total / coverage(height, width, size=size, stride=stride, scale=scale)[None, :, :, None]


def pad_to_multiple(picture: np.ndarray, multiple: int) -> np.ndarray:
    """Mirror (edge not repeated) at the bottom and right, until both sides are multiples of `multiple`.

    The mirror is repeated where the picture is shorter than the padding; the public code fails there.
    """
    _, height, width, _ = picture.shape
    bottom, right = -height % multiple, -width % multiple
    mode = "reflect" if min(height, width) > 1 else "symmetric"  # one pixel has nothing beside its edge to mirror
    return np.pad(picture, ((0, 0), (0, bottom), (0, right), (0, 0)), mode=mode)

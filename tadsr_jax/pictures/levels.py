"""Arithmetic on the samples of a picture: fewer bits, no alpha, colours under no cover, the right way up.

to_8_bits    uint16 -> uint8, rounded to nearest
on_white     alpha away: what a viewer would see on white paper
bleed        colours of invisible pixels out of their visible neighbours, so that nothing dark creeps in
turned       an EXIF orientation undone

Large pictures are worked on in bands of rows, so that only the result needs room.
"""

import numpy as np

BAND = 4_000_000  # bytes


def bands(pixels: np.ndarray, size: int) -> list[tuple[int, int]]:
    """(start, stop) row numbers of bands of about `size` bytes, of one row at least."""
    height = pixels.shape[0]
    step = max(1, size // max(1, pixels[:1].nbytes))
    return [(start, min(start + step, height)) for start in range(0, height, step)]


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """round(v / 257), as (255 v + 32895) / 2^16 without a division (equal for all 65,536 levels)."""
    out = np.empty(pixels.shape, np.uint8)
    for start, stop in bands(pixels, BAND):
        out[start:stop] = (pixels[start:stop] * np.uint32(255) + np.uint32(32895)) >> 16
    return out


def on_white(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 2) or (h, w, 4) -> (h, w) or (h, w, 3): c alpha + white (1 - alpha), rounded."""
    white = np.uint32(np.iinfo(pixels.dtype).max)
    out = np.empty((*pixels.shape[:2], pixels.shape[2] - 1), pixels.dtype)
    for start, stop in bands(pixels, BAND):
        colours, alpha = np.split(pixels[start:stop].astype(np.uint32), [-1], axis=-1)
        out[start:stop] = (colours * alpha + white * (white - alpha) + white // 2) // white  # below 2^32 throughout
    return out[..., 0] if out.shape[-1] == 1 else out


def bleed(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours with those of the nearest visible pixel (alpha > 0) wherever alpha is 0; visible ones as they were.

    rgb: (h, w) or (h, w, c); alpha (h, w). Files hold black, or anything, where nothing is seen; an upscaler would mix
    it into the rim of what is. "Nearest" is by OpenCV's 5x5 distance, 2% off the Euclidean one, in a few bytes a pixel.
    """
    import cv2

    hidden = (alpha == 0).astype(np.uint8)
    if not hidden.any() or hidden.all():
        return rgb
    _, label = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    at_y, at_x = np.nonzero(hidden)
    seen_y, seen_x = np.nonzero(hidden == 0)
    place = np.zeros(label.max() + 1, np.int64)  # of the visible pixel of each label
    place[label[seen_y, seen_x]] = np.arange(len(seen_y))
    nearest = place[label[at_y, at_x]]
    out = rgb.copy()
    out[at_y, at_x] = rgb[seen_y[nearest], seen_x[nearest]]
    return out


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The picture upright, whose EXIF orientation is 1..8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)

"""Pictures as arrays, and as files: scales, luma, resizes, decoding. NumPy, Pillow and OpenCV; no jax.

to_float, to_uint8, to_signed, from_signed       levels 0..255  <->  [0, 1]  <->  [-1, 1]
rgb_to_y, luma_601                               studio-swing luma of MATLAB, full-swing luma of JPEG
matlab_bicubic                                   imresize of MATLAB: a = -0.5, antialiased, mirrored edges
torch_resize                                     area, bilinear, bicubic as PyTorch: a = -0.75, no antialiasing
read, decode                                     file or bytes -> RGB

Arrays are (h, w, 3) RGB: what training and scores want. People's files, with alpha, profiles and tags, are the matter
of pictures/, whose decoder serves here too, and whose `write` saves. The resizes are apart as they differ: at x1/4,
PyTorch's bicubic without antialiasing is 26.5 dB away from MATLAB's. OpenCV is imported where it is used, so that
reading ordinary files needs Pillow alone.
"""

import functools
import math
import os

import numpy as np

from tadsr_jax import pictures

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "WebP", "BMP", "TIFF", "PPM")
MAX_PIXELS = 178_956_970  # two times Pillow's warning limit: where Pillow itself refuses a decompression bomb
MODES = ("area", "bilinear", "bicubic")


# --- scales ---------------------------------------------------------------------------------------------------------


def to_float(levels: np.ndarray) -> np.ndarray:
    """uint8 levels 0..255 (or uint16 levels 0..65535) -> float32 in [0, 1]."""
    return levels.astype(np.float32) / np.float32(np.iinfo(levels.dtype).max)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """float in [0, 1] -> uint8 levels: clipped, then rounded half to even, as torch and NumPy do."""
    return np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)


def to_signed(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> [-1, 1], the scale of networks: (v - 0.5) / 0.5."""
    return ((image - np.float32(0.5)) / np.float32(0.5)).astype(np.float32)


def from_signed(image: np.ndarray) -> np.ndarray:
    """[-1, 1] -> [0, 1], not clipped."""
    return (np.asarray(image, np.float32) + 1) / 2


# --- luma -----------------------------------------------------------------------------------------------------------


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """BT.601 luma in studio swing: (..., 3) RGB in [0, 1] -> (...) in [16/255, 235/255].

    Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255: MATLAB's rgb2ycbcr, what PSNR-Y and SSIM-Y are measured on.
    """
    return (weighted_sum(image, 65.481, 128.553, 24.966) + image.dtype.type(16)) / image.dtype.type(255)


def luma_601(image: np.ndarray) -> np.ndarray:
    """Full-swing luma, (..., 3) RGB -> (...): 0.299 R + 0.587 G + 0.114 B, in the scale of the input."""
    return weighted_sum(image, 0.299, 0.587, 0.114)


def weighted_sum(image: np.ndarray, r: float, g: float, b: float) -> np.ndarray:
    """(..., 3) -> (...) in the dtype of the input. Written out: a matrix product rounds by its number of threads."""
    r, g, b = (image.dtype.type(weight) for weight in (r, g, b))
    return image[..., 0] * r + image[..., 1] * g + image[..., 2] * b


# --- resizes --------------------------------------------------------------------------------------------------------


def _keys_cubic(t: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5: 1.5|t|^3 - 2.5|t|^2 + 1 up to 1, -0.5|t|^3 + 2.5|t|^2 - 4|t| + 2 up to 2, then 0."""
    t = np.abs(t)
    return np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t <= 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0.0))


@functools.lru_cache(maxsize=64)
def _matlab_matrix(length: int, scale: float, antialias: bool) -> np.ndarray:
    """(ceil(length scale), length) float64: the weights that make each output of one axis from its inputs."""
    out = math.ceil(length * scale)
    stretch = scale if scale < 1 and antialias else 1.0  # a shrinking kernel is widened, so that it averages
    width = 4 / stretch
    centre = np.arange(1, out + 1) / scale + 0.5 * (1 - 1 / scale)  # u of the reference, 1-based
    first = np.floor(centre - width / 2)
    taps = first[:, None] + np.arange(math.ceil(width) + 2)
    weights = stretch * _keys_cubic(stretch * (centre[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    mirror = (taps.astype(int) - 1) % (2 * length)  # 1-based index -> period of the picture and its mirror image
    mirror = np.where(mirror < length, mirror, 2 * length - 1 - mirror)
    matrix = np.zeros((out, length))
    np.add.at(matrix, (np.arange(out)[:, None], mirror), weights)
    return matrix


def matlab_bicubic(image: np.ndarray, scale: float, *, antialias: bool = True) -> np.ndarray:
    """MATLAB's `imresize(image, scale)`: (h, w[, c]) float -> (ceil(h scale), ceil(w scale)[, c]) float32, not clipped.

    Each axis alone, rows first: Keys' cubic with a = -0.5, widened by 1/scale where it shrinks, weights divided by
    their sum, edges mirrored with the edge pixel repeated. Equal to `imresize_np` of the public code within 2e-6.
    """
    rows = _matlab_matrix(image.shape[0], float(scale), antialias).astype(np.float32)
    columns = _matlab_matrix(image.shape[1], float(scale), antialias).astype(np.float32)
    image = np.asarray(image, np.float32)
    image = np.tensordot(rows, image, (1, 0))
    return np.ascontiguousarray(np.moveaxis(np.tensordot(columns, image, (1, 1)), 0, 1))


def _area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Adaptive average pooling: output j is the plain mean of inputs floor(j n/m) .. ceil((j+1) n/m) - 1."""
    import cv2

    h, w = image.shape[:2]
    if h % height == 0 and w % width == 0:  # windows of equal size: OpenCV's area filter means the same, and is faster
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    top, bottom = _windows(h, height)
    left, right = _windows(w, width)
    total = cv2.integral(image, sdepth=cv2.CV_64F)  # total[i, j] = sum of image[:i, :j]; float64: sums reach 1e5
    total = total.reshape(h + 1, w + 1, -1)
    rows = total[bottom] - total[top]
    sums = rows[:, right] - rows[:, left]
    areas = np.outer(bottom - top, right - left)[..., None]
    return (sums / areas).astype(np.float32).reshape(height, width, *image.shape[2:])


def _windows(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (exclusive) of every window of adaptive average pooling along one axis."""
    j = np.arange(n_out)
    return j * n_in // n_out, -(-(j + 1) * n_in // n_out)


def torch_resize(
    image: np.ndarray, mode: str, *, size: tuple[int, int] | None = None, scale: float | None = None
) -> np.ndarray:
    """PyTorch's `interpolate` without antialiasing: (h, w[, c]) float32, by `size` (height, width) or by `scale`.

    The two ways sample at different places: output j reads at (j + 0.5) n_in/n_out - 0.5 with `size`, but at
    (j + 0.5)/scale - 0.5 with `scale`, though only floor(n scale) outputs are made. Where n scale is not whole, the
    second loses a strip at the right and bottom edge. `area` depends on sizes alone. Bicubic has a = -0.75 and repeats
    the edge pixel, as OpenCV does; differences to torch are below 2e-5.
    """
    import cv2

    if mode not in MODES:
        raise ValueError(f"resize mode is {mode!r}; expected one of {', '.join(MODES)}.")
    height, width = size or (math.floor(image.shape[0] * scale), math.floor(image.shape[1] * scale))
    if min(height, width) < 1:
        raise ValueError(f"a picture of {image.shape[0]}x{image.shape[1]} shrunk by {scale} has no pixel left.")
    if mode == "area":
        return _area(image, height, width)
    flag = cv2.INTER_LINEAR if mode == "bilinear" else cv2.INTER_CUBIC
    if size:
        return cv2.resize(image, (width, height), interpolation=flag)
    # OpenCV keeps the given scale, as torch does, but rounds the size up or down: cutting restores the floor.
    return np.ascontiguousarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=flag)[:height, :width])


# --- files ----------------------------------------------------------------------------------------------------------


def decode(source: bytes | str | os.PathLike) -> np.ndarray:
    """The picture in a file, or in the bytes of one, as (h, w, 3) RGB: uint8, or uint16 where it has 16 bits.

    Grey, palette and CMYK become RGB; alpha is dropped (not blended); EXIF orientation is applied; of several frames
    the first is taken. ValueError, with the name of the file, where it cannot be decoded to the end.
    """
    with pictures.opened(source, formats=FORMATS, most=MAX_PIXELS) as header:
        pixels = pictures.samples(header)
    if pixels.ndim == 2 or pixels.shape[-1] == 2:
        return np.repeat(pixels.reshape(*pixels.shape[:2], -1)[..., :1], 3, axis=-1)
    return np.ascontiguousarray(pixels[..., :3])


read = decode  # of a path: what a reader looks for first

"""The operations of a degradation, one function each: float32 RGB in [0, 1], (h, w, 3), in and out.

filter2d                                   blur with any odd kernel, edges reflected
gaussian_noise, poisson_noise, poisson_rate, sample_poisson
real_jpeg, simulated_jpeg                  an encoder's round trip; the formula that public trainers use instead
usm_sharp, quantize                        sharpening mask; rounding to 8 bits
Nothing here draws parameters: noise fields and counts are arguments (`realesrgan.py` draws). Resizes: `images.py`.
Numbers and sources: BasicSR's `degradations.py`, `diffjpeg.py`, `img_process_util.py`; checked by recorded cases.
"""

import functools
import math

import cv2
import numpy as np

from tadsr_jax import images

_LARGEST_DIRECT = 120  # taps; from 11 x 11 up, OpenCV turns to a Fourier transform, six times slower on training crops


def filter2d(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Cross-correlate every channel with `kernel` (k, k), k odd; edges reflect without repeating the edge pixel.

    Zeros around a kernel cost nothing. A large kernel is cut into horizontal strips whose sums are the result:
    the same sum in another order, three times faster than OpenCV's own way for 13 to 19 taps a side.
    """
    kernel = _trim(np.asarray(kernel, np.float32))
    size = kernel.shape[0]
    rows = _LARGEST_DIRECT // size
    if size <= rows or rows < 3:
        return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    half = size // 2
    h, w = image.shape[:2]
    padded = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
    rows = math.ceil(size / math.ceil(size / rows))  # strips of nearly equal height
    total = None
    for top in range(0, size, rows):
        strip = kernel[top : top + rows]
        part = padded[top : top + h + len(strip) - 1]  # output row y reads rows y .. y + len(strip) - 1 of this
        part = cv2.filter2D(part, -1, strip, anchor=(half, 0))[:h, half : half + w]
        total = part.copy() if total is None else np.add(total, part, out=total)
    return total


def _trim(kernel: np.ndarray) -> np.ndarray:
    """Cut rings of zeros off a (k, k) kernel, the centre staying the centre."""
    used = np.argwhere(kernel)
    if not used.size:
        return kernel
    centre = kernel.shape[0] // 2
    reach = int(np.abs(used - centre).max())
    return np.ascontiguousarray(kernel[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1])


def gaussian_noise(image: np.ndarray, sigma: float, eps: np.ndarray) -> np.ndarray:
    """x + sigma/255 eps, not clipped. `eps`: standard normal, (h, w, 3), or (h, w, 1) for grey; `sigma`: levels."""
    return image + eps * np.float32(sigma / 255)


def poisson_rate(image: np.ndarray, *, gray: bool) -> tuple[np.ndarray, int]:
    """The picture in grey levels as shot noise sees it, uint8 (h, w, 3 or 1), and its number of photon levels V.

    V = 2^ceil(log2(number of distinct levels));   rate = levels/255 V
    """
    if gray:
        # torchvision's weights, which add up to 0.9999.
        image = images.weighted_sum(image, 0.2989, 0.587, 0.114)[..., None]
    levels = images.to_uint8(image)
    distinct = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    return levels, 2 ** math.ceil(math.log2(distinct))


def poisson_noise(image: np.ndarray, scale: float, counts: np.ndarray, levels: np.ndarray, vals: int) -> np.ndarray:
    """x + s (counts/V - levels/255), not clipped; levels and V of `poisson_rate`; grey noise reaches all channels."""
    return image + np.float32(scale) * (counts / np.float32(vals) - images.to_float(levels))


def sample_poisson(levels: np.ndarray, vals: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson counts of rate levels/255 V, float32, six times faster than `rng.poisson` for a whole crop.

    There are at most 256 rates, so each has a table (Walker's alias method): a random word picks a column and a side
    of it. Exact up to the 2^-24 steps of the word and the tails beyond 7 standard deviations.
    """
    threshold, near, far, bits = _alias_tables(vals)
    word = rng.integers(0, 2**32, levels.shape, dtype=np.uint32)
    cell = (levels.astype(np.int32) << bits) + (word >> np.uint32(32 - bits)).astype(np.int32)
    heads = (word & np.uint32(0xFFFFFF)) < np.take(threshold, cell)
    return np.where(heads, np.take(near, cell), np.take(far, cell))


@functools.lru_cache(maxsize=9)  # V is one of 1, 2, 4, ..., 256
def _alias_tables(vals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Flat tables over (level, column): the share of a column's first count, that count, its other count; log2 columns.

    Every column holds probability 1/columns, shared by its two counts.
    """
    rates = np.arange(256) / 255 * vals
    first = np.maximum(0, np.floor(rates - 7 * np.sqrt(rates))).astype(int)
    support = int(np.ceil(14 * np.sqrt(vals))) + 12
    bits = min(8, max(4, math.ceil(math.log2(support))))
    columns = 2**bits
    counts = first[:, None] + np.arange(columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_rate = np.where(rates > 0, np.log(rates), 0)[:, None]
    log_factorial = np.concatenate([[0], np.cumsum(np.log(np.arange(1, counts.max() + 1)))])
    probability = np.exp(counts * log_rate - rates[:, None] - log_factorial[counts])
    probability[0] = np.arange(columns) == 0  # rate 0: always 0
    probability /= probability.sum(1, keepdims=True)
    share = np.ones((256, columns))
    other = np.tile(np.arange(columns), (256, 1))
    for level in range(256):
        mass = (probability[level] * columns).tolist()
        small = [c for c, p in enumerate(mass) if p < 1]
        large = [c for c, p in enumerate(mass) if p >= 1]
        while small and large:  # fill up a column that has less than its share from one that has more
            poor, rich = small.pop(), large.pop()
            share[level, poor], other[level, poor] = mass[poor], rich
            mass[rich] -= 1 - mass[poor]
            (small if mass[rich] < 1 else large).append(rich)
    threshold = np.rint(share * 2**24).astype(np.uint32)
    return (
        threshold.ravel(),
        counts.astype(np.float32).ravel(),
        (first[:, None] + other).astype(np.float32).ravel(),
        bits,
    )


def real_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Through an encoder and back: libjpeg, 4:2:0, `quality` 1..100 (a fraction is cut off)."""
    bgr = cv2.cvtColor(images.to_uint8(image), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return images.to_float(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def _dct_matrix() -> np.ndarray:
    """(64, 64) float64: the orthonormal 2-D DCT-II of an 8 x 8 block, as one matrix on its 64 values."""
    k, n = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    line = np.cos((2 * n + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    return np.kron(line, line)


_DCT = _dct_matrix().astype(np.float32)
# JPEG Annex K. The public code applies the luma table transposed; `simulated_jpeg` has to follow.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
).T
_CHROMA = np.full((8, 8), 99, np.float32)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114, 0], [-0.168736, -0.331264, 0.5, 128], [0.5, -0.418688, -0.081312, 128]], np.float32
)
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)


def _quantize_blocks(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Round the DCT coefficients of every 8 x 8 block of (h, w) to multiples of `table` (8, 8)."""
    h, w = plane.shape
    blocks = (
        (plane - 128).reshape(h // 8, 8, w // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 64)
    )  # (i 8) (j 8) -> (i j) 64
    table = table.reshape(64)
    blocks = np.rint((blocks @ _DCT.T) / table) * table @ _DCT
    return blocks.reshape(h // 8, w // 8, 8, 8).transpose(0, 2, 1, 3).reshape(h, w) + 128


def simulated_jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """JPEG as public trainers simulate it (DiffJPEG without differentiable rounding), any real `quality` up to 99.99.

    f = 50/q below 50, else 2 - q/50, multiplies the tables; they are neither rounded nor kept above 1. Chroma is the
    mean of 2 x 2 pixels, and repeated on the way back. The strength is that of an encoder (0.1 to 1 dB harsher), the
    pictures differ by 34 to 42 dB. At a quality of 100 the public formula divides by zero: 99.99 is taken.
    """
    quality = min(quality, 99.99)
    factor = np.float32(50 / quality if quality < 50 else 2 - quality / 50)
    h, w = image.shape[:2]
    # The public code fills up to multiples of 16 with black.
    padded = cv2.copyMakeBorder(np.clip(image, 0, 1), 0, -h % 16, 0, -w % 16, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    y, cb, cr = cv2.split(cv2.transform(padded * np.float32(255), _TO_YCC))
    y = _quantize_blocks(y, _LUMA * factor)
    half = (y.shape[1] // 2, y.shape[0] // 2)
    chroma = [
        cv2.resize(
            _quantize_blocks(cv2.resize(plane, half, interpolation=cv2.INTER_AREA), _CHROMA * factor) - 128,
            y.shape[::-1],
            interpolation=cv2.INTER_NEAREST,
        )
        for plane in (cb, cr)
    ]
    rgb = cv2.transform(cv2.merge([y, *chroma]), _TO_RGB)[:h, :w]
    return np.clip(rgb, 0, 255) / np.float32(255)


def usm_sharp(image: np.ndarray, *, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> np.ndarray:
    """Unsharp masking where it is worth it: x + weight (x - blur), blended in by a soft mask of |x - blur| > threshold.

    `radius` is the side of the Gaussian window in pixels, made odd; `threshold` in grey levels.
    """
    size = radius + 1 - radius % 2
    line = cv2.getGaussianKernel(size, 0)
    kernel = line @ line.T
    residual = image - cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    mask = (np.abs(residual) * 255 > threshold).astype(np.float32)
    soft = cv2.filter2D(mask, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    sharp = np.clip(image + np.float32(weight) * residual, 0, 1)
    return soft * sharp + (1 - soft) * image


def quantize(image: np.ndarray) -> np.ndarray:
    """Round to the 256 levels of an 8-bit file, and clip: clamp(round(255 x), 0, 255) / 255."""
    return images.to_float(images.to_uint8(image))

"""Full-reference metrics of 8-bit pictures, in float64 NumPy: each variant in use in this field under its own name.

psnr_rgb, psnr_y, ssim_rgb, ssim_y    as BasicSR computes them; what papers mean by "on Y" unless they say otherwise
psnr_y_pyiqa, ssim_y_pyiqa            as pyiqa does (test_y_channel=True, color_space="ycbcr"): SinSR's, TAD-SR's tables
psnr_y_resshift                       as ResShift's trainer logs it, Y rounded
gmsd                                  gradient magnitude similarity deviation; lower is better
radial_spectrum, spectrum_error       is the right amount of detail there? An own definition, for diagnosis

All take uint8 RGB (h, w, 3), the picture and its reference, and return one float. `border` pixels are cut on all sides
first. Average the values over pictures, never the squared errors.
"""

import math

import numpy as np
from scipy.ndimage import correlate1d

from tadsr_jax.images import luma_601, rgb_to_y

# SSIM's window: 11 taps of a Gaussian with sigma 1.5, sum 1.
WINDOW = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
WINDOW /= WINDOW.sum()
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # keep SSIM's quotients defined where the picture is flat
GMSD_C = 170.0  # the same for GMSD, on the 0..255 scale
POWER_FLOOR = 1e-12  # -120 dB: below every rounding error of an 8-bit picture


def psnr_rgb(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """10 log10(255^2 / MSE) over all pixels and channels; infinite for equal pictures."""
    return _psnr(*_pair(image, gt, border))


def psnr_y(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """The same on BT.601 luma, not rounded."""
    return _psnr(*map(_luma_levels, _pair(image, gt, border)))


def psnr_y_pyiqa(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """10 log10(1 / (MSE + 1e-8)) on BT.601 luma in [0, 1]: within 2e-4 dB of `psnr_y`, but never above 80 dB."""
    a, b = (_luma_levels(picture) / 255 for picture in _pair(image, gt, border))
    return -10 * math.log10(np.mean(np.square(a - b)) + 1e-8)


def psnr_y_resshift(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """PSNR on BT.601 luma rounded to levels: 0.003 to 0.03 dB below `psnr_y`."""
    return _psnr(*(np.rint(_luma_levels(picture)) for picture in _pair(image, gt, border)))


def ssim_rgb(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """Mean structural similarity of the three channels [Wang et al. 2004]; 1 for equal pictures."""
    a, b = _pair(image, gt, border)
    return float(np.mean([_ssim(a[..., c], b[..., c]) for c in range(3)]))


def ssim_y(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """Structural similarity of BT.601 luma, not rounded."""
    return _ssim(*map(_luma_levels, _pair(image, gt, border)))


def ssim_y_pyiqa(image: np.ndarray, gt: np.ndarray, *, border: int = 0) -> float:
    """Structural similarity of rounded BT.601 luma, negative structure counted as none: up to 0.002 from `ssim_y`."""
    luminance, structure = _ssim_maps(*(np.rint(_luma_levels(picture)) for picture in _pair(image, gt, border)))
    return float(np.mean(luminance * np.maximum(structure, 0)))


def gmsd(image: np.ndarray, gt: np.ndarray) -> float:
    """Standard deviation of the similarity of gradients m, on full-swing luma of half size; 0 for equal pictures.

    q = (2 m_a m_b + C) / (m_a^2 + m_b^2 + C),   GMSD = std(q)                     [Xue et al., arXiv 1308.3052]
    """
    a, b = (_gradient(_half(np.rint(luma_601(picture)))) for picture in _pair(image, gt, 0))
    q = (2 * a * b + GMSD_C) / (np.square(a) + np.square(b) + GMSD_C)
    return float(np.std(q, ddof=1))


def radial_spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power by spatial frequency: (rho, dB), rho in cycles per pixel, the middles of bins 1/max(h, w) wide below 0.5.

        P = |FFT(w (Y - mean Y))|^2 / (h w mean(w^2)),   w = Hann window,   dB = 10 log10(mean of P over a ring)

    Y is BT.601 luma in [0, 1]. The window hides the jump between opposite edges, which would look like detail.
    """
    y = _luma_levels(np.asarray(image, np.float64)) / 255
    h, w = y.shape
    window = np.outer(_hann(h), _hann(w))
    power = np.abs(np.fft.fft2(window * (y - y.mean()))) ** 2 / (h * w * np.mean(window**2))
    longest = max(h, w)
    rho = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    ring = np.floor(rho * longest + 1e-9).astype(int).ravel()  # 1e-9: 3 cycles must not become ring 2 by rounding
    rings = longest // 2
    mean_power = (np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1))[:rings]
    return (np.arange(rings) + 0.5) / longest, 10 * np.log10(np.maximum(mean_power, POWER_FLOOR))


def spectrum_error(image: np.ndarray, gt: np.ndarray) -> float:
    """Mean absolute difference to the reference's `radial_spectrum` over 0.25 <= rho < 0.5, in dB.

    Blur and grain both raise it: it says how much fine detail there is, not whether it is in the right place.
    """
    _pair(image, gt, 0)
    (rho, ours), (_, wanted) = radial_spectrum(image), radial_spectrum(gt)
    return float(np.mean(np.abs(ours - wanted)[rho >= 0.25]))


def _pair(image: np.ndarray, gt: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures as float64 levels without their border."""
    image, gt = np.asarray(image), np.asarray(gt)
    for name, picture in (("image", image), ("gt", gt)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            found = f"{picture.dtype} of shape {picture.shape}"
            raise ValueError(f"{name} is {found}; metrics take uint8 RGB (h, w, 3), as read back from a file.")
    if image.shape != gt.shape:
        raise ValueError(f"image is {image.shape[:2]}, but gt is {gt.shape[:2]}; metrics compare pictures of one size.")
    if not 0 <= 2 * border < min(image.shape[:2]):
        raise ValueError(f"border={border} leaves nothing of a picture of {image.shape[:2]}; pass a smaller one.")
    h, w, _ = image.shape
    inner = np.s_[border : h - border, border : w - border]
    return image[inner].astype(np.float64), gt[inner].astype(np.float64)


def _luma_levels(levels: np.ndarray) -> np.ndarray:
    """BT.601 luma of levels, 16..235: (h, w, 3) -> (h, w)."""
    return rgb_to_y(levels / 255) * 255


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = np.mean(np.square(a - b))
    return float("inf") if mse == 0 else 10 * math.log10(255**2 / mse)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    luminance, structure = _ssim_maps(a, b)
    return float(np.mean(luminance * structure))


def _ssim_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM's two factors wherever the whole window fits: (h, w) levels -> two of (h - 10, w - 10).

    (2 mu_a mu_b + C1) / (mu_a^2 + mu_b^2 + C1)   and   (2 cov + C2) / (var_a + var_b + C2), population moments
    """
    if min(a.shape) < WINDOW.size:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW.size} pixels a side, got {a.shape[0]}x{a.shape[1]}.")
    mean_a, mean_b = _blur(a), _blur(b)
    variances = _blur(a * a) - mean_a**2 + _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _blur(x: np.ndarray) -> np.ndarray:
    """SSIM's local mean, valid positions only."""
    margin = WINDOW.size // 2
    return correlate1d(correlate1d(x, WINDOW, axis=0), WINDOW, axis=1)[margin:-margin, margin:-margin]


def _half(x: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels; an odd last row or column is dropped."""
    h, w = x.shape[0] // 2, x.shape[1] // 2
    return x[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean(axis=(1, 3))


def _gradient(x: np.ndarray) -> np.ndarray:
    """Magnitude of the Prewitt gradient, zeros beyond the edges; 1e-12 below the root as in the public code."""
    across, along = np.array([1.0, 0.0, -1.0]), np.full(3, 1 / 3)
    dx = correlate1d(correlate1d(x, across, axis=1, mode="constant"), along, axis=0, mode="constant")
    dy = correlate1d(correlate1d(x, across, axis=0, mode="constant"), along, axis=1, mode="constant")
    return np.sqrt(dx**2 + dy**2 + 1e-12)


def _hann(n: int) -> np.ndarray:
    """Periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)

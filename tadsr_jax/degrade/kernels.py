"""Blur kernels: Gaussians, their generalised and plateau-shaped relatives, and the ringing low-pass of a sinc.

gaussian_kernel   exp(-q/2), exp(-q^beta/2) or 1/(1 + q^beta), round or rotated       sinc_kernel   a circular low-pass
pad_kernel        zeros around a kernel, as the public code stacks kernels of several sizes

All are computed in float64 on integer offsets -(k-1)/2 .. (k-1)/2 (x along columns, y along rows), sum to 1, and are
returned as float32 (k, k), k odd. Source: BasicSR `basicsr/data/degradations.py`.
"""

import numpy as np
import scipy.special

KERNEL_TYPES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def _offsets(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of every tap of a kernel of odd `size`, each (size, size)."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel size is {size}; expected an odd number, 1 or more.")
    line = np.arange(size) - (size - 1) / 2
    return np.meshgrid(line, line)


def gaussian_kernel(
    kind: str, size: int, sigma_x: float, sigma_y: float | None = None, rotation: float = 0.0, beta: float = 1.0
) -> np.ndarray:
    """A kernel of one of `KERNEL_TYPES`, with q the squared distance in units of the (rotated) sigmas.

        u = ( x cos t + y sin t) / sigma_x,   v = (-x sin t + y cos t) / sigma_y,   q = u^2 + v^2
        iso, aniso: exp(-q/2)      generalized: exp(-q^beta / 2)      plateau: 1 / (1 + q^beta)

    Sigmas in pixels, `rotation` t in radians. The `iso` types read `sigma_x` alone.
    """
    if kind not in KERNEL_TYPES:
        raise ValueError(f"kernel type is {kind!r}; expected one of {', '.join(KERNEL_TYPES)}.")
    x, y = _offsets(size)
    if kind.endswith("aniso"):
        cos, sin = np.cos(rotation), np.sin(rotation)
        q = ((x * cos + y * sin) / sigma_x) ** 2 + ((-x * sin + y * cos) / (sigma_y or sigma_x)) ** 2
    else:
        q = (x**2 + y**2) / sigma_x**2
    if kind.startswith("plateau"):
        kernel = 1 / (1 + q**beta)
    else:
        kernel = np.exp(-(q**beta if kind.startswith("generalized") else q) / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """A circular low-pass with `cutoff` w in radians per pixel, up to pi: it rings, and values may be negative.

    w J1(w r) / (2 pi r),   w^2 / (4 pi) in the centre;   r: distance to the centre, J1: Bessel function
    """
    x, y = _offsets(size)
    r = np.hypot(x, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = cutoff * scipy.special.j1(cutoff * r) / (2 * np.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return (kernel / kernel.sum()).astype(np.float32)


def pad_kernel(kernel: np.ndarray, size: int) -> np.ndarray:
    """`kernel` in the middle of (size, size) zeros; unchanged where it is that large already."""
    return np.pad(kernel, max(0, size - kernel.shape[0]) // 2)

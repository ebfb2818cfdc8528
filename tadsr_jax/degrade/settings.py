"""The numbers of the second-order degradation: every probability and range, its x4 value, and what it may be.

A key is checked when `Settings` is made, so a wrong one is told before anything is degraded. Sources of the values:
the released configs of ResShift, SinSR and TAD-SR; other published sets are calls with other values.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tadsr_jax import images
from tadsr_jax.degrade import kernels

Range = tuple[float, float]
RESIZE_MODES = (*images.MODES, "matlab_bicubic")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Keys of `config.data.degradation.realesrgan`: public names, a trailing 2 for the second stage; x4 defaults.

    Ranges are (low, high), drawn uniformly. Sigmas of blur in pixels, of noise in grey levels.
    """

    # first stage
    blur_kernel_size: int = 21
    kernel_prob: tuple = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # of kernels.KERNEL_TYPES
    sinc_prob: float = 0.1
    blur_sigma: Range = (0.2, 3.0)
    betag_range: Range = (0.5, 4.0)  # exponents of generalised Gaussians
    betap_range: Range = (1.0, 2.0)  # and of plateaus
    resize_prob: tuple = (0.2, 0.7, 0.1)  # enlarge, shrink, keep
    resize_range: Range = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5  # otherwise Poisson
    noise_range: Range = (1.0, 30.0)
    poisson_scale_range: Range = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: Range | None = (30.0, 95.0)  # None: no JPEG here
    # second stage
    second_order_prob: float = 0.5  # ResShift's own; Real-ESRGAN always runs the second stage
    second_blur_prob: float = 0.8
    blur_kernel_size2: int = 15
    kernel_prob2: tuple = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob2: float = 0.1
    blur_sigma2: Range = (0.2, 1.5)
    betag_range2: Range = (0.5, 4.0)
    betap_range2: Range = (1.0, 2.0)
    resize_prob2: tuple = (0.3, 0.4, 0.3)
    resize_range2: Range = (0.3, 1.2)
    gaussian_noise_prob2: float = 0.5
    noise_range2: Range = (1.0, 25.0)
    poisson_scale_range2: Range = (0.05, 2.5)
    gray_noise_prob2: float = 0.4
    # end
    final_sinc_prob: float = 0.8
    jpeg_range2: Range | None = (30.0, 95.0)
    # choices
    jpeg: str = "real"  # what cameras and web sites do; "simulated": what the public trainers do
    kernel_sizes: str = "resshift"  # 3 .. size - 2; "realesrgan": 7 .. size
    resize_modes: tuple = images.MODES  # "matlab_bicubic", which antialiases, may be among them
    resize_grid: str = "scale"  # the public misregistration of the first resize; "size": without it
    usm: bool = False  # sharpen gt first, the target too (`degrade.degrade` does it, on the crop)
    resize_back: bool = False  # enlarge lq to the size of gt, bicubic
    quantize: bool = True  # round to the levels of an 8-bit file

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            value = tuple(value) if isinstance(value, list) else value
            accepts = _accepts(field.name)
            if not accepts.test(value):
                raise ValueError(
                    f"config.data.degradation.realesrgan.{field.name} is {value!r}; expected {accepts.words}."
                )
            object.__setattr__(self, field.name, value)


class _Accepts(NamedTuple):
    words: str
    test: object


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)


def _is_range(value, low: float, high: float) -> bool:
    ok = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    return ok and low <= value[0] <= value[1] <= high


def _range(words: str, low: float, high: float = np.inf, optional: bool = False) -> _Accepts:
    end = ", or None for no JPEG" if optional else ""
    return _Accepts(
        f"two numbers, low and high, {words}{end}", lambda v: (optional and v is None) or _is_range(v, low, high)
    )


def _shares(count: int) -> _Accepts:
    def test(value):
        ok = isinstance(value, tuple) and len(value) == count and all(map(_is_number, value))
        return ok and min(value) >= 0 and abs(sum(value) - 1) < 1e-6

    return _Accepts(f"{count} probabilities that add up to 1", test)


def _choice(*values) -> _Accepts:
    return _Accepts(f"one of {', '.join(map(repr, values))}", lambda v: isinstance(v, (str, bool)) and v in values)


_ACCEPTS = {
    "blur_kernel_size": _Accepts("an odd number from 5 to 51", lambda v: type(v) is int and 5 <= v <= 51 and v % 2),
    "kernel_prob": _shares(len(kernels.KERNEL_TYPES)),
    "blur_sigma": _range("above 0 pixels", 1e-3),
    "betag_range": _range("above 0", 1e-3),
    "betap_range": _range("above 0", 1e-3),
    "resize_prob": _shares(3),
    "resize_range": _Accepts(
        "two numbers, low and high, 0 < low <= 1 <= high", lambda v: _is_range(v, 1e-3, 100) and v[0] <= 1 <= v[1]
    ),
    "noise_range": _range("from 0 to 255 grey levels", 0, 255),
    "poisson_scale_range": _range("0 or more", 0),
    "jpeg_range": _range("from 1 to 100", 1, 100, optional=True),
    "jpeg": _choice("real", "simulated"),
    "kernel_sizes": _choice("resshift", "realesrgan"),
    "resize_grid": _choice("scale", "size"),
    "resize_modes": _Accepts(
        f"a list of one or more of {', '.join(RESIZE_MODES)}",
        lambda v: isinstance(v, tuple) and len(v) > 0 and all(m in RESIZE_MODES for m in v),
    ),
    "usm": _choice(True, False),
    "resize_back": _choice(True, False),
    "quantize": _choice(True, False),
}
_PROBABILITY = _Accepts("a probability from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)


def _accepts(name: str) -> _Accepts:
    """What a key may hold; both stages alike."""
    return _ACCEPTS.get(name.removesuffix("2"), _PROBABILITY)

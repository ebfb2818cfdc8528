"""The second-order degradation of Real-ESRGAN, as ResShift, SinSR and TAD-SR train on it: draw first, then apply.

    gt --blur, resize, noise, JPEG-- [blur, resize, noise] --resize, sinc, JPEG in one of two orders--> lq

draw    settings -> all parameters of one example, a Degradation: a list of steps that prints, stores and replays
apply   gt, Degradation -> lq
Source: BasicSR's `realesrgan_dataset.py` and ResShift's `trainer.py`. There, several draws are shared by a batch; here
every example has its own, and the distribution of a pair is the same.
"""

from typing import NamedTuple

import numpy as np

from tadsr_jax import images
from tadsr_jax.degrade import kernels, ops
from tadsr_jax.degrade.settings import Range, Settings

# --- steps: what `draw` lists and `apply` runs ----------------------------------------------------------------------


class Blur(NamedTuple):
    """Filter with a kernel of `kernels.KERNEL_TYPES`, or with a sinc of that cutoff (radians per pixel)."""

    kind: str
    size: int
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    rotation: float = 0.0
    beta: float = 1.0
    cutoff: float = 0.0

    def kernel(self) -> np.ndarray:
        if self.kind == "sinc":
            return kernels.sinc_kernel(self.size, self.cutoff)
        return kernels.gaussian_kernel(self.kind, self.size, self.sigma_x, self.sigma_y, self.rotation, self.beta)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ops.filter2d(x, self.kernel())


class Resize(NamedTuple):
    """To `size` (height, width), or by `scale` (with its own sampling grid, see `images.torch_resize`)."""

    mode: str
    size: tuple[int, int] | None = None
    scale: float | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.mode != "matlab_bicubic":
            return images.torch_resize(x, self.mode, size=self.size, scale=self.scale)
        height, width = self.size or (int(x.shape[0] * self.scale), int(x.shape[1] * self.scale))
        scale = max(height / x.shape[0], width / x.shape[1])
        return np.ascontiguousarray(images.matlab_bicubic(x, scale)[:height, :width])


class GaussianNoise(NamedTuple):
    """Add a field of `seed` with deviation `sigma` in grey levels, one plane where `gray`, and clip."""

    sigma: float
    gray: bool
    seed: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        shape = (*x.shape[:2], 1 if self.gray else 3)
        eps = np.random.default_rng(self.seed).standard_normal(shape, dtype=np.float32)
        return np.clip(ops.gaussian_noise(x, self.sigma, eps), 0, 1)


class PoissonNoise(NamedTuple):
    """Add shot noise, magnified by `scale`, of the picture or of its grey version, and clip."""

    scale: float
    gray: bool
    seed: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        levels, vals = ops.poisson_rate(x, gray=self.gray)
        counts = ops.sample_poisson(levels, vals, np.random.default_rng(self.seed))
        return np.clip(ops.poisson_noise(x, self.scale, counts, levels, vals), 0, 1)


class Jpeg(NamedTuple):
    """Clip, then through an encoder (quality cut to a whole number) or through the simulation of one."""

    quality: float
    simulated: bool = False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ops.simulated_jpeg(x, self.quality) if self.simulated else ops.real_jpeg(x, int(self.quality))


class Quantize(NamedTuple):
    """Round to the 256 levels of an 8-bit file."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ops.quantize(x)


class Clip(NamedTuple):
    """Clamp to [0, 1]."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 1)


Step = Blur | Resize | GaussianNoise | PoissonNoise | Jpeg | Quantize | Clip


class Degradation(NamedTuple):
    """What happens to one picture: steps in order, random fields included (by their seeds). Equal records, equal lq."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


def apply(gt: np.ndarray, degradation: Degradation) -> np.ndarray:
    """Run the steps on `gt`, (h, w, 3) float32 RGB in [0, 1]."""
    for step in degradation.steps:
        gt = step(gt)
    return gt


# --- drawing --------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, gt_shape: tuple[int, ...], *, scale: int, **settings) -> Degradation:
    """Every parameter of one example, in this order: kernels 1, 2 and sinc; first stage; second stage; end."""
    s = Settings(**settings)
    height, width = gt_shape[:2]
    blur1 = _draw_blur(rng, s.blur_kernel_size, s, "")
    blur2 = _draw_blur(rng, s.blur_kernel_size2, s, "2")
    final_sinc = None
    if rng.random() < s.final_sinc_prob:
        size = _draw_size(rng, s.blur_kernel_size2, s.kernel_sizes)
        final_sinc = Blur("sinc", size, cutoff=_uniform(rng, np.pi / 3, np.pi))

    steps: list[Step | None] = [blur1]
    scale1, mode1 = _draw_resize(rng, s, "")
    if s.resize_grid == "scale":
        steps.append(Resize(mode1, scale=scale1) if scale1 != 1 else None)
    else:
        steps.append(_resize_to(mode1, height * scale1, width * scale1))
    steps += [_draw_noise(rng, s, ""), _draw_jpeg(rng, s.jpeg_range, s.jpeg)]

    if rng.random() < s.second_order_prob:
        if rng.random() < s.second_blur_prob:
            steps.append(blur2)
        scale2, mode2 = _draw_resize(rng, s, "2")
        steps.append(_resize_to(mode2, height / scale * scale2, width / scale * scale2))
        steps.append(_draw_noise(rng, s, "2"))

    back = [_resize_to(_pick(rng, s.resize_modes), height // scale, width // scale), final_sinc]
    jpeg = [Clip(), _draw_jpeg(rng, s.jpeg_range2, s.jpeg)]
    steps += back + jpeg if rng.random() < 0.5 else jpeg + back
    if s.resize_back:
        steps.append(_resize_to("bicubic", height, width))
    steps.append(Quantize() if s.quantize else Clip())
    return Degradation(tuple(step for step in steps if step is not None))


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Also where low is above high: the public ranges of beta are split at 1, which some do not contain."""
    return float(low + (high - low) * rng.random())


def _pick(rng: np.random.Generator, values: tuple):
    return values[int(rng.integers(len(values)))]


def _draw_size(rng: np.random.Generator, size: int, kernel_sizes: str) -> int:
    """An odd kernel side; the public `resshift` range never reaches the full size, which is its padding alone."""
    smallest, largest = (3, size - 2) if kernel_sizes == "resshift" else (min(7, size), size)
    return smallest + 2 * int(rng.integers((largest - smallest) // 2 + 1))


def _draw_blur(rng: np.random.Generator, largest: int, s: Settings, stage: str) -> Blur:
    size = _draw_size(rng, largest, s.kernel_sizes)
    if rng.random() < getattr(s, "sinc_prob" + stage):
        # A small sinc with a low cutoff would be a box: below 13 taps the cutoff starts higher.
        return Blur("sinc", size, cutoff=_uniform(rng, np.pi / 3 if size < 13 else np.pi / 5, np.pi))
    kind = kernels.KERNEL_TYPES[_share(rng, getattr(s, "kernel_prob" + stage))]
    sigma = getattr(s, "blur_sigma" + stage)
    sigma_x = sigma_y = _uniform(rng, *sigma)
    rotation = 0.0
    if kind.endswith("aniso"):
        sigma_y, rotation = _uniform(rng, *sigma), _uniform(rng, -np.pi, np.pi)
    beta = 1.0
    if kind.startswith(("generalized", "plateau")):
        low, high = getattr(s, ("betag_range" if kind.startswith("generalized") else "betap_range") + stage)
        beta = _uniform(rng, low, 1) if rng.random() < 0.5 else _uniform(rng, 1, high)
    return Blur(kind, size, sigma_x, sigma_y, rotation, beta)


def _share(rng: np.random.Generator, shares: tuple) -> int:
    """Index drawn with these probabilities."""
    return min(int(np.searchsorted(np.cumsum(shares), rng.random(), side="right")), len(shares) - 1)


def _draw_resize(rng: np.random.Generator, s: Settings, stage: str) -> tuple[float, str]:
    low, high = getattr(s, "resize_range" + stage)
    direction = _share(rng, getattr(s, "resize_prob" + stage))
    scale = _uniform(rng, *((1, high), (low, 1), (1, 1))[direction])
    return scale, _pick(rng, s.resize_modes)


def _resize_to(mode: str, height: float, width: float) -> Resize:
    return Resize(mode, size=(max(1, int(height)), max(1, int(width))))


def _draw_noise(rng: np.random.Generator, s: Settings, stage: str) -> GaussianNoise | PoissonNoise:
    is_gaussian = rng.random() < getattr(s, "gaussian_noise_prob" + stage)
    strength = _uniform(rng, *getattr(s, ("noise_range" if is_gaussian else "poisson_scale_range") + stage))
    gray = bool(rng.random() < getattr(s, "gray_noise_prob" + stage))
    seed = int(rng.integers(2**63))
    return GaussianNoise(strength, gray, seed) if is_gaussian else PoissonNoise(strength, gray, seed)


def _draw_jpeg(rng: np.random.Generator, quality: Range | None, jpeg: str) -> Jpeg | None:
    return Jpeg(_uniform(rng, *quality), jpeg == "simulated") if quality else None

"""The colour fixes: AdaIN and wavelet, on floats and through 8-bit pictures."""

import numpy as np

from tadsr_jax.images import to_float
from tadsr_jax.upscale.color import adain, smooth, wavelet

FIXES = {"adain": adain, "wavelet": wavelet}


def _truncated(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> levels as the public code makes them: cut, not rounded. Ours rounds (`modes.to_levels`)."""
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def run_color_fix(case) -> dict:
    """Batches N, C, H, W of floats; single pictures H, W, C of levels."""
    target, source = (np.moveaxis(case.inputs[name], 1, -1) for name in ("target", "source"))
    over_batch = lambda fix: np.stack([np.moveaxis(fix(x, y), -1, 0) for x, y in zip(target, source, strict=True)])
    results = {name: over_batch(fix) for name, fix in FIXES.items()}
    results["wavelet_low"] = over_batch(lambda x, _: smooth(x))
    results["wavelet_high"] = over_batch(lambda x, _: x - smooth(x))
    if "target_uint8" in case.inputs:
        levels = [to_float(case.inputs[name]) for name in ("target_uint8", "source_uint8")]
        results |= {f"{name}_uint8": _truncated(fix(*levels)) for name, fix in FIXES.items()}
    return results


RUNNERS = {"color_fix": run_color_fix}

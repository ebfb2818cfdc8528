"""From a sharp picture to a degraded one, on the host: NumPy and OpenCV, one `numpy.random.Generator` per example.

realesrgan.py   the second-order chain of Real-ESRGAN: draw all parameters, then apply them
settings.py     its probabilities and ranges      ops.py   its operations      kernels.py   its blur kernels
`config.data.degradation` is {"kind": one of KINDS, and a section of settings a kind}; `validate` checks it, `chosen` is
the kind's own settings, which `degrade` takes. Pictures are (h, w, 3) float32 RGB in [0, 1].
"""

import inspect

import numpy as np

from tadsr_jax import images
from tadsr_jax.degrade import ops, realesrgan
from tadsr_jax.degrade.settings import Settings


def _realesrgan(gt: np.ndarray, rng: np.random.Generator, *, scale: int, **settings) -> tuple[np.ndarray, np.ndarray]:
    if settings.get("usm"):
        gt = ops.usm_sharp(gt)  # the sharpened picture is source and target
    return realesrgan.apply(gt, realesrgan.draw(rng, gt.shape, scale=scale, **settings)), gt


def _bicubic(
    gt: np.ndarray, rng: np.random.Generator, *, scale: int, quantize: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """MATLAB's bicubic by 1/scale, neither clipped nor rounded unless `quantize`: the bicubic task of ResShift."""
    lq = images.matlab_bicubic(gt, 1 / scale)
    return (ops.quantize(lq) if quantize else lq), gt


def _none(gt: np.ndarray, rng: np.random.Generator, *, scale: int) -> tuple[np.ndarray, np.ndarray]:
    return gt, gt


KINDS = {"realesrgan": _realesrgan, "bicubic": _bicubic, "none": _none}


def degrade(
    gt: np.ndarray, rng: np.random.Generator, *, kind: str = "realesrgan", scale: int, **settings
) -> tuple[np.ndarray, np.ndarray]:
    """(lq, gt) from a sharp picture whose sides are multiples of `scale`; `gt` comes back changed only by `usm`."""
    return KINDS[kind](gt, rng, scale=scale, **settings)


def accepted(kind: str) -> tuple[str, ...]:
    """The settings of a kind."""
    if kind == "realesrgan":
        return tuple(inspect.signature(Settings).parameters)
    signature = inspect.signature(KINDS[kind]).parameters.values()
    return tuple(p.name for p in signature if p.kind is p.KEYWORD_ONLY and p.name != "scale")


def chosen(section: dict | None) -> dict:
    """The keywords of `degrade` from `config.data.degradation`: its kind, and the settings of that kind."""
    section = dict(section or {})
    kind = section.get("kind", "realesrgan")
    return {"kind": kind, **(section.get(kind) or {})}


def validate(section: dict, *, scale: int) -> None:
    """ValueError for a `config.data.degradation` that cannot serve: unknown keys, wrong types or ranges."""
    kind = section.get("kind", "realesrgan")
    if kind not in KINDS:
        raise ValueError(f"config.data.degradation.kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    for key, settings in section.items():
        if key == "kind":
            continue
        if key not in KINDS:
            raise ValueError(
                f"config.data.degradation.{key} is no setting; expected kind, and a section for "
                f"{', '.join(KINDS)} (the settings of Real-ESRGAN are config.data.degradation.realesrgan.KEY)."
            )
        _validate_kind(key, dict(settings or {}))
    if kind == "none" and scale != 1:
        raise ValueError(
            f"config.data.degradation.kind is 'none', which leaves a picture as it is, but the scale is {scale}; "
            "use kind='bicubic', or source='pairs' for lq pictures of your own."
        )


def _validate_kind(kind: str, settings: dict) -> None:
    for key in settings:
        if key not in accepted(kind):
            words = f"has the keys {', '.join(accepted(kind))}" if accepted(kind) else "has no settings"
            raise ValueError(f"config.data.degradation.{kind}.{key} is no setting; {kind} {words}.")
    if kind == "realesrgan":
        Settings(**settings)
    elif not isinstance(settings.get("quantize", False), bool):
        raise ValueError(
            f"config.data.degradation.{kind}.quantize is {settings['quantize']!r}; expected True or False."
        )

"""Kinds of picture metrics: PSNR and SSIM variants, GMSD, LPIPS."""

import functools

import jax
import numpy as np

from tadsr_jax.convert.names import to_flax
from tadsr_jax.evaluate import metrics
from tadsr_jax.images import to_float
from tadsr_jax.networks.perceptual import Backbone, head_shapes, lpips_terms

WITH_BORDER = ("psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y", "psnr_y_pyiqa", "ssim_y_pyiqa", "psnr_y_resshift")


def _pairs(case) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pictures `a` and `b` as uint8 (h, w, 3), one pair an entry of the batch."""
    return [tuple(np.moveaxis(x, 0, -1) for x in pair) for pair in zip(case.inputs["a"], case.inputs["b"], strict=True)]


def run_psnr_ssim(case) -> dict:
    border = case.config["crop_border"]
    return {
        name: np.array([getattr(metrics, name)(a, b, border=border) for a, b in _pairs(case)]) for name in WITH_BORDER
    }


def run_gmsd(case) -> dict:
    return {"gmsd": np.array([metrics.gmsd(a, b) for a, b in _pairs(case)])}


_lpips_terms = jax.jit(lpips_terms, static_argnames="net")


def run_lpips(case, *, net: str) -> dict:
    backbone, heads = case.weights("backbone"), case.weights("heads")
    params = {
        "backbone": to_flax(Backbone(net), backbone)["params"],
        "heads": to_flax(head_shapes(net), {name: np.abs(head) for name, head in heads.items()})["params"],
    }
    pictures = (np.moveaxis(case.inputs[name], 1, -1) for name in ("a", "b"))
    a, b = (to_float(x) if x.dtype == np.uint8 else x for x in pictures)
    if case.config.get("normalize", True):
        a, b = 2 * a - 1, 2 * b - 1
    distance, terms = _lpips_terms(params, a, b, net=net)
    return {"distance": distance} | {f"layer{k}": term for k, term in enumerate(terms)}


RUNNERS = {
    "psnr_ssim": run_psnr_ssim,
    "gmsd": run_gmsd,
    "lpips_alex": functools.partial(run_lpips, net="alex"),
    "lpips_vgg": functools.partial(run_lpips, net="vgg"),
}

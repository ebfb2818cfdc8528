"""Cases of the host side: blur kernels, operations of the degradation chain, MATLAB bicubic, whole chains."""

import numpy as np

from tadsr_jax import images
from tadsr_jax.degrade import kernels, ops


def _pictures(case, name="x"):
    """The pictures of an input (N, 3, H, W), as a list of (H, W, 3) float32; uint8 means levels."""
    x = case.inputs[name]
    x = images.to_float(x) if x.dtype == np.uint8 else x
    return [np.ascontiguousarray(picture) for picture in x.transpose(0, 2, 3, 1)]


def _planes(pictures):
    """A list of (H, W, C) -> (N, C, H, W)."""
    return np.stack(pictures).transpose(0, 3, 1, 2)


def _kernel(case):
    config = case.config
    kernel = kernels.gaussian_kernel(
        config["kernel_type"],
        config["kernel_size"],
        config["sigma_x"],
        config["sigma_y"],
        config["rotation"],
        config.get("beta", 1.0),
    )
    return {"kernel": kernels.pad_kernel(kernel, config.get("pad_to", 0))}


def _sinc(case):
    kernel = kernels.sinc_kernel(case.config["kernel_size"], case.config["cutoff"])
    return {"kernel": kernels.pad_kernel(kernel, case.config.get("pad_to", 0))}


def _filter2d(case):
    pictures = _pictures(case)
    kernel = np.broadcast_to(case.inputs["kernel"], (len(pictures), *case.inputs["kernel"].shape[-2:]))
    return {"y": _planes([ops.filter2d(x, k) for x, k in zip(pictures, kernel)])}


def _usm_sharp(case):
    return {"y": _planes([ops.usm_sharp(x, **case.config) for x in _pictures(case)])}


def _resize(case):
    return {"y": _planes([_resized(x, case.config) for x in _pictures(case)])}


def _resized(x, config):
    size = config.get("size")
    size = (size, size) if isinstance(size, int) else tuple(size) if size else None
    return images.torch_resize(x, config["mode"], size=size, scale=config.get("scale_factor"))


def _finished(x, config):
    """The end of the public noise functions: clipped, rounded to 8 bits, both or neither."""
    x = np.rint(x * np.float32(255)) / np.float32(255) if config.get("rounds") else x
    return np.clip(x, 0, 1) if config.get("clip", True) else x


def _gaussian_noise(case):
    inputs, out = case.inputs, []
    for i, x in enumerate(_pictures(case)):
        grey = inputs["gray"][i] > 0
        eps = inputs["noise_gray"][..., None] if grey else inputs["noise_color"][i].transpose(1, 2, 0)
        out.append(_finished(ops.gaussian_noise(x, float(inputs["sigma"][i]), eps), case.config))
    return {"y": _planes(out)}


def _poisson_noise(case):
    inputs, results = case.inputs, {"y": []}
    for i, x in enumerate(_pictures(case)):
        for name, grey in (("color", False), ("gray", True)):
            levels, vals = ops.poisson_rate(x, gray=grey)
            results.setdefault(f"rate_{name}", []).append(images.to_float(levels).transpose(2, 0, 1) * np.float32(vals))
            results.setdefault(f"vals_{name}", []).append(vals)
            if grey == bool(inputs["gray"][i] > 0):
                counts = np.float32(inputs[f"counts_{name}"][i]).transpose(1, 2, 0)
                y = ops.poisson_noise(x, float(inputs["scale"][i]), counts, levels, vals)
                results["y"].append(_finished(y, case.config).transpose(2, 0, 1))
    return {key: np.stack(value) for key, value in results.items()}


def _jpeg(case):
    pairs = list(zip(_pictures(case), np.atleast_1d(case.config["quality"]).tolist()))
    real = [images.to_uint8(ops.real_jpeg(x, int(quality))) for x, quality in pairs]
    return {"diff": _planes([ops.simulated_jpeg(x, quality) for x, quality in pairs]), "real": _planes(real)}


def _matlab_bicubic(case):
    antialias = case.config.get("antialiasing", True)
    y = [images.matlab_bicubic(x, case.config["scale"], antialias=antialias) for x in _pictures(case)]
    return {"y": _planes(y), "y_u8": _planes([images.to_uint8(picture) for picture in y])}


def _step(x, step, inputs):
    """One entry of `config.steps`, on one picture."""
    op = step["op"]
    if op == "filter2d":
        return ops.filter2d(x, inputs[step["kernel"]].reshape(inputs[step["kernel"]].shape[-2:]))
    if op == "resize":
        return _resized(x, step)
    if op == "gaussian_noise":
        eps = inputs[step["noise_gray"]] if step.get("gray") else inputs[step["noise"]]
        eps = eps.reshape(-1, *x.shape[:2]).transpose(1, 2, 0)
        return np.clip(ops.gaussian_noise(x, step["sigma"], eps), 0, 1)
    if op == "poisson_noise":
        counts = inputs[step["counts_gray"]] if step.get("gray") else inputs[step["counts"]]
        counts = np.float32(counts).reshape(-1, *x.shape[:2]).transpose(1, 2, 0)
        levels, vals = ops.poisson_rate(x, gray=bool(step.get("gray")))
        return np.clip(ops.poisson_noise(x, step["scale"], counts, levels, vals), 0, 1)
    if op == "jpeg":
        return ops.simulated_jpeg(x, step["quality"])
    if op == "usm_sharp":
        return ops.usm_sharp(x, **{key: step[key] for key in ("weight", "radius", "threshold") if key in step})
    return {"clamp": lambda: np.clip(x, 0, 1), "quantize": lambda: ops.quantize(x)}[op]()


def _degradation_chain(case):
    (x,) = _pictures(case)
    results = {}
    for k, step in enumerate(case.config["steps"]):
        if step["op"] == "quantize":
            results["lq_raw"] = _planes([x])
        x = _step(x, step, case.inputs)
        results[f"step_{k}"] = _planes([x])
    return results | {"lq": _planes([x])}


def _face_degradation(case):
    (x,) = _pictures(case)
    config = case.config
    h, w = x.shape[:2]
    kernel = kernels.gaussian_kernel("aniso", 41, config["sig_x"], config["sig_y"], config["theta"])
    size = (int(h // config["sf"]), int(w // config["sf"]))
    x = images.torch_resize(ops.filter2d(x, kernel), "bilinear", size=size)
    pre_jpeg = np.clip(ops.gaussian_noise(x, config["nf"], case.inputs["noise"]), 0, 1)
    lq = images.torch_resize(ops.real_jpeg(pre_jpeg, int(config["qf"])), "bilinear", size=(h, w))
    return {"pre_jpeg": _planes([pre_jpeg]), "lq": _planes([ops.quantize(lq)])}


RUNNERS = {
    "blur_kernel": _kernel,
    "sinc_kernel": _sinc,
    "filter2d": _filter2d,
    "usm_sharp": _usm_sharp,
    "resize": _resize,
    "gaussian_noise": _gaussian_noise,
    "poisson_noise": _poisson_noise,
    "jpeg": _jpeg,
    "matlab_bicubic": _matlab_bicubic,
    "degradation_chain": _degradation_chain,
    "face_degradation": _face_degradation,
}

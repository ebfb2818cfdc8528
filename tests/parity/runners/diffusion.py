"""Schedules, sampling loops, tiling, and the whole path from a picture to a picture."""

import json
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.convert import names, settings
from tadsr_jax.diffusion import sample
from tadsr_jax.diffusion.shift import deterministic_coefficients, shift_schedule
from tadsr_jax.families import resshift
from tadsr_jax.upscale import tiles
from tests.parity.runners.layout import nchw, nhwc


def schedule_tables(case) -> dict:
    diffusion = case.config["diffusion"]
    chain = shift_schedule(**settings.schedule_settings(diffusion, cap_start=case.config["eta_start_cap"]))
    s = chain.respaced(settings.respacing(diffusion) or chain.num_steps)
    k, m, j = deterministic_coefficients(s.sqrt_eta)
    return {
        "sqrt_etas": s.sqrt_eta,
        "etas": s.eta,
        "etas_prev": s.eta_previous,
        "alpha": s.alpha,
        "posterior_variance": s.posterior_variance,
        "posterior_variance_clipped": s.posterior_variance_clipped,
        "posterior_log_variance_clipped": np.log(s.posterior_variance_clipped),
        "posterior_mean_coef1": s.eta_previous / s.eta,
        "posterior_mean_coef2": s.alpha / s.eta,
        "weight_loss_mse": s.mse_weight,
        "input_scale": s.input_factor,
        "ddim_k": k,
        "ddim_m": m,
        "ddim_j": j,
        "prior_std": s.kappa * s.sqrt_eta[-1],
        "timestep_map": s.step_numbers,
    }


@lru_cache(maxsize=4)
def public_family(config: str):
    """The family of a case's config (JSON), its chain respaced if that says so; without an autoencoder, on pictures."""
    config = json.loads(config)
    family = resshift.build(**settings.family_settings(config))
    if (kept := settings.respacing(config["diffusion"])) is None:
        return family
    modules, chain = (family.networks["denoiser"], family.networks["autoencoder"]), family.schedule.respaced(kept)
    return resshift.assemble(*modules, chain, scale=family.scale)


def family_of(case):
    keys = ("diffusion", "eta_start_cap", "unet", "autoencoder")
    return public_family(json.dumps({key: case.config[key] for key in keys if key in case.config}, sort_keys=True))


@partial(jax.jit, static_argnames=("mode", "clip", "family"))
def _sample(params, z, lq, mask, noise, step_noise, *, family, mode, clip):
    """(prior, samples, z0), the latter two stacked over iterations. z: z_x for the inverse loop comes as `noise`."""
    schedule, condition = family.schedule, {"lq": lq, "z_y": z, "mask": mask}

    def predict_z0(z_t, t):
        z0 = family.predict_z0(params, z_t, t, condition)
        return jnp.clip(z0, -1, 1) if clip else z0

    if mode == "ddim_inverse":
        _, path = sample.invert(schedule, predict_z0, noise, z)
        return None, path["samples"], path["z0"]
    z_T = schedule.start(z, noise)
    if mode == "one_step":
        z0 = predict_z0(z_T, schedule.num_steps - 1)
        return z_T, z0[None], z0[None]
    if mode == "ddim":
        _, path = sample.deterministic(schedule, predict_z0, z_T, z)
    else:
        _, path = sample.stochastic(schedule, predict_z0, z_T, lambda i: step_noise[i])
    return z_T, path["samples"], path["z0"]


def sampler(case) -> dict:
    inputs = {key: nhwc(value) for key, value in case.inputs.items()}
    family = family_of(case)
    prior, samples, z0 = _sample(
        names.to_flax(family.networks["denoiser"], case.weights("unet"))["params"],
        inputs["z_y"],
        inputs["lq"],
        inputs.get("mask"),
        inputs["z_x"] if case.config["mode"] == "ddim_inverse" else inputs["noise"],
        inputs.get("step_noise"),
        family=family,
        mode=case.config["mode"],
        clip=case.config["clip_denoised"],
    )
    made = {"samples": nchw(samples), "pred_xstart": nchw(z0)}
    return made if prior is None else made | {"prior": nchw(prior)}


def image_to_image(case) -> dict:
    config, family = case.config, family_of(case)
    scale = config["diffusion"]["sf"]
    unet = names.to_flax(family.networks["denoiser"], case.weights("unet"))["params"]
    frozen = {"autoencoder": names.to_flax(family.networks["autoencoder"], case.weights("autoencoder"))["params"]}
    lq = case.inputs["lq"].astype(np.float32) / 127.5 - 1
    lq = lq if lq.ndim == 4 else lq[None]
    mask_of_case = case.inputs.get("mask")
    known = lq
    if mask_of_case is not None:
        mask = np.broadcast_to(mask_of_case[..., None].astype(np.float32) / 127.5 - 1, (*lq.shape[:3], 1))
        known = np.concatenate([lq, mask], axis=-1)
    patch_number = iter(range(10**6))

    def patch(known):
        p = next(patch_number)
        h, w = known.shape[1:3]
        known = tiles.pad_to_multiple(known, config["padding_offset"])
        lq, mask = known[..., :3], None if mask_of_case is None else known[..., 3:]
        step_noise = nhwc(case.inputs["step_noise"][p]) if "step_noise" in case.inputs else None
        z_y = family.encode(frozen, resshift.upsample(jnp.asarray(lq), scale))
        noise = nhwc(case.inputs["noise"][p])
        _, samples, _ = _sample(unet, z_y, lq, mask, noise, step_noise, family=family, mode=config["mode"], clip=False)
        image = np.asarray(jnp.clip(family.decode(frozen, samples[-1]), -1, 1))
        return image[:, : h * scale, : w * scale]

    size, stride = config["chop_size"], config["chop_stride"]
    if size and max(lq.shape[1:3]) > size:
        image = tiles.average(patch, known, size=size, stride=stride, scale=scale)
    else:
        image = patch(known)
    hr = image * 0.5 + 0.5
    if mask_of_case is not None:  # known pixels are pasted back
        unknown = mask * 0.5 + 0.5
        hr = hr * unknown + (lq * 0.5 + 0.5) * (1 - unknown)
    levels = np.rint(np.clip(hr, 0, 1) * 255).astype(np.uint8)
    return {"hr": nchw(hr), "hr_uint8": levels if case.inputs["lq"].ndim == 4 else levels[0]}


def tiling(case) -> dict:
    config = case.config
    size, stride, scale = config["pch_size"], config["stride"], config["sf"]
    x = np.asarray(nhwc(case.inputs["x"]))
    rows, columns = (tiles.starts(length, size=size, stride=stride) for length in x.shape[1:3])
    places = [(row, column) for row in rows for column in columns]
    at_once, n = config.get("extra_bs", 1), x.shape[0]
    calls, numbers = [], iter(range(10**6))

    def patches(stacked):
        """The case's patch function on tiles stacked along the batch, k counting them all in visiting order."""
        k = np.concatenate([np.full(n, next(numbers)) for _ in range(len(stacked) // n)])[:, None, None, None]
        return np.repeat(np.repeat(stacked, scale, 1), scale, 2) * 0.5 + 0.1 * k

    def recorded(stacked):
        calls.append([stacked.shape[0], stacked.shape[3], *stacked.shape[1:3]])
        return patches(stacked)

    result = tiles.average(recorded, x, size=size, stride=stride, scale=scale, at_once=at_once)
    positions = [[h * scale, (h + size) * scale, w * scale, (w + size) * scale] for h, w in places]
    count = np.zeros((x.shape[1] * scale, x.shape[2] * scale), np.float32)
    for top, bottom, left, right in positions:
        count[top:bottom, left:right] += 1
    return {"positions": np.array(positions), "calls": np.array(calls), "count": count, "result": nchw(result)}


RUNNERS = {"schedule": schedule_tables, "sampler": sampler, "image_to_image": image_to_image, "tiling": tiling}

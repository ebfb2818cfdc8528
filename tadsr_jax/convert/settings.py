"""Public configurations as settings of our families.

    {"diffusion": ..., "unet": ..., "autoencoder": ...}  --family_settings-->  keywords of `families.resshift.build`

read              a configuration from a JSON file              respacing, sampling   how it wants to be sampled
family_settings   a configuration in our words                  schedule_settings     of its diffusion alone
A configuration holds the arguments of the public constructors (`create_gaussian_diffusion`, `UNetModelSwin`,
`VQModelTorch`) under their public names, and `eta_start_cap`. Settings are plain: bundle.json can hold them.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import flax.linen as nn

from tadsr_jax.config import bind
from tadsr_jax.diffusion.shift import shift_schedule
from tadsr_jax.networks import unet_swin, vq

SECTIONS = ("diffusion", "unet", "autoencoder", "eta_start_cap")  # of a configuration
MODES = ("p_sample", "ddim", "one_step")  # optional "mode" of a configuration: which public loop samples
# How a public command cuts pictures into pieces. Our own tiling replaces it, so these change nothing.
WITHOUT_EFFECT = ("padding_offset", "chop_size", "chop_stride")
DIFFUSION = (
    *("sf", "steps", "min_noise_level", "etas_end", "kappa", "schedule_name", "schedule_kwargs", "predict_type"),
    *("normalize_input", "latent_flag", "scale_factor", "timestep_respacing", "weighted_mse"),
)


def read(path: str | Path) -> dict:
    """A configuration from a JSON file; one that stands under "config" in a larger object is taken out of it."""
    try:
        config = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}).") from None
    if isinstance(config, dict) and isinstance(config.get("config"), dict):
        config = config["config"]
    if not isinstance(config, dict):
        raise ValueError(f"{path}: {type(config).__name__} instead of an object with {', '.join(SECTIONS)}.")
    return config


def family_settings(config: Mapping) -> dict:
    """Keywords of `families.resshift.build`, every number spelt out, from a public configuration.

    Without "autoencoder" latents are pictures. "eta_start_cap" is true where it is left out (SinSR, TAD-SR, the first
    code base of ResShift). One ValueError lists everything that is unknown, contradictory or not supported.
    """
    sections = {
        "denoiser": lambda: _denoiser(config),
        "autoencoder": lambda: _autoencoder(config),
        "diffusion": lambda: schedule_settings(
            _section(config, "diffusion"), cap_start=config.get("eta_start_cap", True)
        ),
    }
    made, faults = {}, []
    scale = config["diffusion"].get("sf") if isinstance(config.get("diffusion"), Mapping) else 1
    if type(scale) is not int or scale < 1:
        faults.append(f"diffusion.sf is {scale!r}; expected a whole number, 1 or more")
    if unknown := sorted(set(config) - {*SECTIONS, *WITHOUT_EFFECT, "mode"}):
        faults.append(f"unknown keys: {', '.join(unknown)} (accepted: {', '.join((*SECTIONS, 'mode'))})")
    for name, make in sections.items():
        try:
            made[name] = make()
        except (ValueError, TypeError, ZeroDivisionError) as error:  # a string where a number belongs is a TypeError
            faults.append(f"{name}: {str(error).rstrip('.')}")
    if not faults:
        faults += _contradictions(scale, **made)
    if faults:
        raise ValueError(f"The configuration cannot be used: {'; '.join(faults)}.")
    return {"scale": scale, **made}


def schedule_settings(diffusion: Mapping, *, cap_start: bool) -> dict:
    """Keywords of `diffusion.shift.shift_schedule` for the whole chain, `timestep_respacing` left aside."""
    if unknown := sorted(set(diffusion) - set(DIFFUSION)):
        raise ValueError(f"unknown keys: {', '.join(unknown)} (accepted: {', '.join(DIFFUSION)})")
    needed = ("steps", "min_noise_level", "etas_end", "kappa", "schedule_kwargs")
    if missing := [key for key in needed if key not in diffusion]:
        raise ValueError(f"missing: {', '.join(missing)}")
    for key, only in (("schedule_name", ("exponential",)), ("scale_factor", (1, None))):
        if (value := diffusion.get(key, only[0])) not in only:
            raise ValueError(f"{key} is {value!r}; only {only[0]!r} is supported")
    if not isinstance(cap_start, bool):
        raise ValueError(f"eta_start_cap is {cap_start!r}; expected true or false")
    if list(diffusion["schedule_kwargs"] or ()) != ["power"]:
        raise ValueError(f"schedule_kwargs is {diffusion['schedule_kwargs']!r}; expected {{'power': number}}")
    respacing(diffusion)
    scaling = "latent" if diffusion.get("latent_flag", True) else "pixel"
    return {
        "num_steps": diffusion["steps"],
        "kappa": diffusion["kappa"],
        "min_noise_level": diffusion["min_noise_level"],
        "etas_end": diffusion["etas_end"],
        "power": diffusion["schedule_kwargs"]["power"],
        "cap_start": cap_start,
        "predict": diffusion.get("predict_type", "xstart"),
        "input_scaling": scaling if diffusion.get("normalize_input") else "none",
    }


def respacing(diffusion: Mapping) -> int | None:
    """How many steps of the chain `timestep_respacing` keeps; None where it keeps them all."""
    wanted, steps = diffusion.get("timestep_respacing"), diffusion["steps"]
    if wanted in (None, ""):
        return None
    if isinstance(wanted, bool) or not re.fullmatch(r"\d+", str(wanted)) or int(wanted) < 1:
        raise ValueError(f"timestep_respacing is {wanted!r}; expected a number of steps, or null for all of them")
    return int(wanted) if int(wanted) < steps else None


def sampling(config: Mapping) -> tuple[int, str]:
    """(steps, "stochastic" or "deterministic") that the configuration's "mode" and respacing ask for.

    Without a mode it is ResShift's own loop: stochastic, all steps.
    """
    mode, kept = config.get("mode", MODES[0]), respacing(config["diffusion"])
    if mode not in MODES:
        raise ValueError(f"The configuration's mode is {mode!r}; expected one of {', '.join(MODES)}.")
    if mode == "one_step":
        if kept:
            raise ValueError(
                f"The configuration's mode is 'one_step' with timestep_respacing {kept}: one step starts at the last "
                "step of the whole chain here; set timestep_respacing to null."
            )
        return 1, "deterministic"
    return kept or config["diffusion"]["steps"], "stochastic" if mode == "p_sample" else "deterministic"


def _section(config: Mapping, name: str) -> dict:
    if not isinstance(config.get(name), Mapping):
        raise ValueError(f"expected an object under {name!r}, not {config.get(name)!r}")
    return dict(config[name])


def _denoiser(config: Mapping) -> dict:
    """The U-Net's fields.

    SinSR's class counts the 3 channels of the LQ among its inputs, and has the LQ at the size of the latent. Outputs
    are latents, so three inputs more than outputs say that it is meant.
    """
    unet = _section(config, "unet")
    size = unet.get("image_size", 64)
    if unet.get("in_channels") == unet.get("out_channels", 3) + 3 and unet.get("lq_size", size) == size:
        unet |= {"in_channels": unet["in_channels"] - 3, "lq_size": size}
    return {"kind": "swin", **_fields(unet_swin.from_public, unet)}


def _autoencoder(config: Mapping) -> dict:
    if "autoencoder" not in config:
        return {"kind": "space_to_depth", "factor": 1}  # the identity
    return {"kind": "vq", **_fields(vq.from_public, _section(config, "autoencoder"))}


def _fields(from_public: Callable[..., nn.Module], arguments: Mapping) -> dict:
    """What the public arguments make of a network: all that says what it computes, as JSON knows it."""
    how = ("parent", "name", "dtype", "remat")  # ours, and no public arguments
    if given := sorted({"dtype", "remat"} & arguments.keys()):
        raise ValueError(f"unknown keys: {', '.join(given)}")
    module = from_public(**arguments)
    fields = {field.name: getattr(module, field.name) for field in dataclasses.fields(module) if field.name not in how}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _contradictions(scale: int, *, denoiser: Mapping, autoencoder: Mapping, diffusion: Mapping) -> list[str]:
    """What does not fit together although each section is right by itself."""
    faults = []
    try:
        shift_schedule(**bind(shift_schedule, "diffusion", diffusion))
    except ValueError as error:  # it speaks in our words, which are near
        faults.append(str(error).removeprefix("config.").rstrip("."))
    if autoencoder["kind"] != "vq":
        return faults
    channels, factor = autoencoder["embed_dim"], 2 ** (len(autoencoder["ch_mult"]) - 1)
    for key in ("in_channels", "out_channels"):
        if denoiser[key] != channels:
            faults.append(
                f"unet.{key} is {denoiser[key]}, but latents have {channels} channels (autoencoder.embed_dim)"
            )
    size, lq_size = denoiser["image_size"], denoiser["lq_size"]
    if denoiser["cond_lq"] and lq_size * scale != size * factor:
        faults.append(
            f"unet.lq_size is {lq_size}, but at sf {scale} a latent of {size} belongs to an LQ of "
            f"{size * factor / scale:g}"
        )
    return faults


def cap_matters(config: Mapping) -> bool:
    """Whether the schedule starts elsewhere with `eta_start_cap` than without."""
    diffusion = config["diffusion"]
    return min(diffusion["min_noise_level"] / diffusion["kappa"], diffusion["min_noise_level"]) > math.sqrt(0.001)

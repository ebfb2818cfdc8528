"""Whole models between the public world and ours: weights files into a bundle, and a network back into a file.

    U-Net file, autoencoder file  --resshift-->  BUNDLE/  --(bundles.load_network), write-->  a file for PyTorch

Everything is read and checked before anything is written, and weights keep the types they came in.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from tadsr_jax import bundles
from tadsr_jax.convert import names, presets, settings, torch_file, torch_save
from tadsr_jax.families import FAMILIES
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.controlnet import ControlNet
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.networks.kl import AutoencoderKL
from tadsr_jax.networks.ram import RAM
from tadsr_jax.networks.unet_sd import SDUNet
from tadsr_jax.networks.unet_swin import SwinUNet
from tadsr_jax.networks.vq import VQModel
from tadsr_jax.releases import RELEASES
from tadsr_jax.types import Family

PUBLIC = {
    SwinUNet: "UNetModelSwin",
    VQModel: "VQModelTorch",
    TimeAwareDiscriminator: "ProjectedDiscriminator",
    SDUNet: "UNet2DConditionModel",
    ControlNet: "ControlNetModel",
    AutoencoderKL: "AutoencoderKL",
    CLIPTextModel: "CLIPTextModel",
    RAM: "RAM",  # its image encoder and tagging head; the public class has more, and computes the constant buffers
}


class Choice(NamedTuple):
    """What is to be made of the files."""

    about: dict  # entries of bundle.json: preset, recipe, public_config, steps, sampler
    config: dict
    notes: list[str]


def resshift(
    unet: str | Path,
    autoencoder: str | Path | None = None,
    *,
    output: str | Path,
    preset: str | None = None,
    config: str | Path | Mapping | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    overwrite: bool = False,
) -> dict:
    """Make a bundle of public weights of ResShift, SinSR or TAD-SR; a report of what it is made of, ready for JSON.

    unet, autoencoder   weights files: .pth, .ckpt, .safetensors
    preset              a name in `presets.PRESETS`; without it and without `config`, the name of the U-Net's file says
    config              a JSON file, or an object, with the public arguments (`settings`), for models of other sizes
    steps, sampler      what `tadsr upscale` does by default, instead of what preset or config say
    overwrite           replace the bundle at `output`; what is no bundle is never replaced
    Raises ValueError, and nothing is written: all missing, surplus, misshapen and repeated weights of both files at
    once; a file that is unreadable or wants to run something; settings that make no model.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    about, config, notes = _choose(unet, preset, config, steps, sampler)
    chosen = settings.family_settings(config)
    family = FAMILIES["resshift"](**chosen)
    files = _files(unet, autoencoder, family, about.get("preset"))
    params = _read(files, family, notes)
    sources = {name: _source(path, notes) for name, path in files.items()}
    about |= {"scale": family.scale, "color_fix": "none", "sources": sources}
    bundles.save(output, family="resshift", settings=chosen, params=params, info=about)
    written = bundles.describe(output)["networks"]
    return {
        "bundle": str(output),
        **{key: about[key] for key in ("preset", "scale", "steps", "sampler") if key in about},
        "networks": {
            name: {
                "source": str(path),
                "source_sha256": sources[name]["sha256"],
                "tensors": len(jax.tree.leaves(params[name])),
                **written[name],
                "tree_sha256": bundles.tree_sha256(params[name]),
            }
            for name, path in files.items()
        },
        "notes": notes,
        "next": shlex.join(["tadsr", "upscale", "photo.png", "--weights", str(output)]),
    }


def write(path: str | Path, variables: Mapping, *, module: nn.Module | None = None, overwrite: bool = False) -> dict:
    """Write a network as a file for PyTorch, under the public names; a report of it, ready for JSON.

    variables   {"params": tree, and for the discriminator "spectral": tree}; arrays keep their types
    module      what they belong to: files of the Swin U-Net also hold constant buffers, so that a strict
                load_state_dict succeeds there. A network without a public counterpart gets the names of our paths.
    Raises ValueError for a network without weights, an unknown suffix, or a file that exists.
    """
    path = Path(path)
    torch_save.check_suffix(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another name, or give --overwrite.")
    arrays = state_dict(variables, module=module)
    if not arrays:
        raise ValueError(f"There is nothing to write to {path}: {type(module).__name__} has no weights.")
    torch_save.write(path, arrays)
    weights = {name: array for name, array in arrays.items() if not names.is_constant(name)}
    public, notes = PUBLIC.get(type(module)), []
    if module is not None and public is None:
        notes.append(f"{type(module).__name__} has no public counterpart: names are paths of this package")
    return {
        "file": str(path),
        "sha256": bundles.file_sha256(path),
        "network": public,
        "tensors": len(weights),
        "buffers": len(arrays) - len(weights),
        "parameters": int(sum(array.size for array in weights.values())),
        "dtype": _dtypes(weights),
        "notes": notes,
    }


def state_dict(variables: Mapping, *, module: nn.Module | None = None) -> dict[str, np.ndarray]:
    """{public name: array in PyTorch layout} in the order of public files, their constant buffers included."""
    arrays = names.to_torch(variables)
    buffers = {} if module is None else names.constant_buffers(module)
    for name, buffer in buffers.items():
        if name.endswith("attn_mask"):  # `model.half()` turns it with the norms; single layers in half leave it alone
            buffers[name] = buffer.astype(arrays[name.replace("attn_mask", "norm1.weight")].dtype)
    arrays |= buffers
    return {name: arrays[name] for name in sorted(arrays, key=names.public_order)}


def check_output(folder: Path, *, overwrite: bool) -> None:
    """ValueError unless a bundle may be written there."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if bundles.is_bundle(folder):
        if not overwrite:
            raise ValueError(f"{folder} holds a bundle already; choose another folder, or give --overwrite.")
    elif folder.exists():
        raise ValueError(f"{folder} exists and is no bundle; choose a new folder for the bundle.")


def _choose(unet, preset, config, steps, sampler) -> Choice:
    """The configuration and how to sample, from what is given."""
    notes = []
    if preset is not None and config is not None:
        raise ValueError("--preset and --config are both given; a preset is a configuration by name, so give one.")
    if config is None:
        name = presets.by_file(unet) if preset is None else presets.find(preset)
        if name not in presets.PRESETS:
            raise ValueError(
                f"{unet}: the name of the file is not that of a public U-Net; say what it holds with --preset "
                f"({', '.join(presets.PRESETS)}) or --config."
            )
        known = presets.PRESETS[name]
        about, config = {"preset": name, "recipe": known.recipe}, known.config
        defaults = known.steps, known.sampler
    else:
        about, config = {}, settings.read(config) if isinstance(config, str | Path) else dict(config)
        settings.family_settings(config)  # says all that is wrong with it
        defaults = settings.sampling(config)
        if unused := sorted({*settings.WITHOUT_EFFECT} & config.keys()):
            notes.append(f"{', '.join(unused)} of the configuration have no effect: `tadsr upscale` tiles differently")
        if "eta_start_cap" not in config and settings.cap_matters(config):
            notes.append(
                "eta_start_cap is not in the configuration and was taken as true (SinSR, TAD-SR); ResShift's journal "
                "version (v3, bicsr, faces, inpainting) needs false"
            )
    steps, sampler = steps or defaults[0], sampler or defaults[1]
    if not 1 <= steps <= config["diffusion"]["steps"]:
        raise ValueError(f"--steps is {steps}; this model has 1 to {config['diffusion']['steps']}.")
    if sampler not in bundles.SAMPLERS:
        raise ValueError(f"--sampler is {sampler!r}; expected one of {', '.join(bundles.SAMPLERS)}.")
    return Choice(about | {"public_config": config, "steps": steps, "sampler": sampler}, config, notes)


def _files(unet, autoencoder, family: Family, preset: str | None) -> dict[str, Path]:
    """{network of the bundle: its file}."""
    needed = isinstance(family.networks["autoencoder"], VQModel)
    if needed and autoencoder is None:
        what = f"preset {preset}" if preset else "the configuration"
        which = "FILE"
        if preset:
            key = presets.autoencoder_of(preset)
            which = f"{RELEASES[key].file} (`tadsr download {key}` fetches it)"
        raise ValueError(f"{what} has an autoencoder, and no file is given for it: add --autoencoder {which}.")
    if not needed and autoencoder is not None:
        raise ValueError(f"--autoencoder is {autoencoder}, but the configuration has no autoencoder: leave it out.")
    return {"student": Path(unet)} | ({"autoencoder": Path(autoencoder)} if needed else {})


def _source(path: Path, notes: list[str]) -> dict:
    """What bundle.json says about a file; of one that is called as a public release, its terms."""
    source = {"file": path.name, "sha256": bundles.file_sha256(path)}
    if (key := presets.by_file(path)) is None:
        return source
    release = RELEASES[key]
    if release.sha256 not in (None, source["sha256"]):
        notes.append(f"{path.name} is called as the release {key}, but its SHA-256 is not that of the release")
        return source
    return source | {"release": key, "repository": release.repository, "licence": release.licence}


def _read(files: Mapping[str, Path], family: Family, notes: list[str]) -> dict:
    """Parameters of the bundle's networks as the files hold them; what is wrong with any of them is one ValueError."""
    params, faults = {name: {} for name in bundles.expected_shapes(family)}, []
    for name, path in files.items():
        module = bundles.module_of(family, name)
        try:
            arrays = torch_file.read(path)
            if name == "autoencoder":
                arrays, left_out = names.without_leftovers(arrays)
                if left_out:
                    sorts = sorted({names.without_prefix(entry).split(".")[0] for entry in left_out})
                    what = f"{len(left_out)} entries of its training ({'.*, '.join(sorts)}.*)"
                    notes.append(f"left out of {path.name}: {what}")
            params[name] = names.to_flax(module, arrays, source=f"The weights of {path}", keep_dtype=True)["params"]
        except ValueError as error:
            faults.append(str(error))
            continue
        notes += _oddities(path, arrays)
        if odd := names.differing_buffers(module, arrays):
            notes.append(
                f"{len(odd)} constant buffers of {path.name} are not those of this configuration ({odd[0]}, ...): "
                "check its image_size and window_size"
            )
    if faults:
        raise ValueError(" ".join(faults))
    return params


def _oddities(path: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Notes on weights that fit and still are not what was meant: rounded ones, and such as are no numbers."""
    weights = {name: array for name, array in arrays.items() if not names.is_constant(name)}
    rounded = [name for name, array in weights.items() if array.dtype == np.float64]
    broken = [name for name, array in weights.items() if not np.isfinite(array).all()]
    told = {"are float64 and were rounded to float32": rounded, "hold NaN or infinite numbers": broken}
    return [
        f"{len(tensors)} tensors of {path.name} {what} ({torch_file.printable(tensors[0])}, ...)"
        for what, tensors in told.items()
        if tensors
    ]


def _dtypes(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(sorted({array.dtype.name for array in arrays.values()}))

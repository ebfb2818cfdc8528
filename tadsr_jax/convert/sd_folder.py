"""What people of Stable Diffusion have, as networks and back: folders of diffusers, and the files of RAM and DINO.

    FOLDER/{unet, controlnet, vae, text_encoder, scheduler}/  --read_part-->  module, params, config  --write_part-->

parts_of    which parts folders have; what is missing, and where that is published
read_part   a network of SD 2, SeeSR, AddSR or TAD-SeeSR, or the schedule      write_part   the way back, bit by bit
read_config   what its configuration makes, before the weights are read
read_ram, read_dino, read_dinov2   the networks around it, of one file each
A tagger, which the public code keeps in RAM's files, is a part here as well: tagger/, written as the others are.
Everything is read and checked before it is used; nothing in a file is executed.
"""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax

from tadsr_jax import folders
from tadsr_jax.convert import lora, names, sd_files, torch_file
from tadsr_jax.convert.sd_names import modern_vae_names
from tadsr_jax.convert.torch_file import StateDict
from tadsr_jax.diffusion import ddpm
from tadsr_jax.diffusion.ddpm import DDPMSchedule
from tadsr_jax.networks import abstract_variables, clip_text, configured, controlnet, dino, kl, unet_sd
from tadsr_jax.networks.dino import VisionTransformer
from tadsr_jax.networks.ram import RAM


class Part(NamedTuple):
    """A part of a folder. Of the scheduler, `module` is None and `params` the `DDPMSchedule`."""

    module: nn.Module | None
    params: dict | DDPMSchedule
    config: dict  # what its config.json says


def modern_text_names(state_dict: Mapping) -> StateDict:
    """A state dict of a CLIPTextModel under the names of its files, whether or not they begin with "text_model."."""
    heads = ("embeddings.", "encoder.", "final_layer_norm.")
    today = lambda name: f"text_model.{name}" if name.startswith(heads) else name
    renamed = [today(names.without_prefix(name)) for name in (*state_dict, *getattr(state_dict, "repeated", ()))]
    repeated = [name for name, times in Counter(renamed).items() if times > 1]
    return StateDict(zip(renamed, state_dict.values()), repeated)


def tagger(**config) -> RAM:
    """A RAM from the configuration that is written of one here: its fields."""
    return configured(RAM, "tagger", {key: value for key, value in config.items() if not key.startswith("_")})


class Kind(NamedTuple):
    """How a part is called, made and stored."""

    public: str  # the class in the public library
    build: Callable  # of its configuration
    stem: str = "diffusion_pytorch_model"
    modern: Callable = lambda state_dict: state_dict  # today's names of its weights
    config: str = "config.json"


KINDS = {
    "unet": Kind("UNet2DConditionModel", unet_sd.from_public),
    "controlnet": Kind("ControlNetModel", controlnet.from_public),
    "vae": Kind("AutoencoderKL", kl.from_public, modern=modern_vae_names),
    "text_encoder": Kind("CLIPTextModel", clip_text.from_public, stem="model", modern=modern_text_names),
    "scheduler": Kind("DDPMScheduler", ddpm.from_public, config="scheduler_config.json"),
    "tagger": Kind("RAM", tagger, stem="model"),
}
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # files of a tokenizer, one of the two forms
PARTS = (*KINDS, "tokenizer")
# Checkpoints of the public training scripts hold teacher and student, numbered; of the student:
NUMBERED = {"controlnet": "controlnet_2", "unet": "unet_3"}
READMES = "behind the links in the READMEs of cswry/SeeSR, NJU-PCALab/AddSR and LearningHx/TAD-SR"
ORIGINS = {  # of parts
    f"SeeSR, AddSR and TAD-SeeSR, {READMES}": ("unet", "controlnet"),
    "SD-2-base, stabilityai/stable-diffusion-2-base at Hugging Face": ("vae", "text_encoder", "scheduler", "tokenizer"),
    "RAM, xinyu1205/recognize-anything at Hugging Face: give its file ram_swin_large_14m.pth as --ram": ("tagger",),
}
# Public keys of configurations that are made here: `_class_name`, unless they are
TEXT_ENCODER = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
SD2_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}


def parts_of(*given: str | Path, needed: Collection[str] = ()) -> dict[str, Path]:
    """{part: its folder} of what the folders hold, of several the first one that has it.

    A folder may be a whole model, or one part by itself. A part is there when it has its configuration and its weights.
    Raises ValueError that lists everything which is `needed` and missing, and where it is published.
    """
    places = [Path(folder) for folder in given]
    if strange := [place for place in places if not place.is_dir()]:
        raise ValueError(f"{', '.join(map(str, strange))}: no such folder; expected one with {', '.join(PARTS)}.")
    found, faults = {}, {}
    for part in PARTS:
        for place in (place for folder in places for place in _places(folder, part)):
            if not (fault := _fault(place, part)):
                found[part] = place
                break
            faults.setdefault(part, fault)
    if missing := [part for part in needed if part not in found]:
        told = ", ".join(f"{part} ({faults.get(part, f'there is no folder {part}/')})" for part in missing)
        by_origin = {origin: [part for part in missing if part in parts] for origin, parts in ORIGINS.items()}
        origins = "; ".join(f"{', '.join(parts)} with {origin}" for origin, parts in by_origin.items() if parts)
        where = ", ".join(map(str, places))
        raise ValueError(f"{where}: missing {told}; found {', '.join(found) or 'no other part'}. Published: {origins}.")
    return found


def read_config(folder: str | Path, kind: str) -> tuple[nn.Module | DDPMSchedule, dict]:
    """(what the configuration of a part makes, that configuration); weights are not read. Raises as `read_part`."""
    known = _kind(kind)
    path = parts_of(folder, needed=(kind,))[kind] / known.config
    config = sd_files.read_json(path)
    return _built(known, config, path), config


def read_part(folder: str | Path, kind: str, *, dtype=None) -> Part:
    """The part `kind` (one of KINDS) of a folder, or the one that the folder is: module, parameters, configuration.

    Weights may be .safetensors or .bin, in shards too, in float32 or half of it; the names of old autoencoders, and
    text encoders without their prefix, are understood. Parameters are arrays of NumPy in the types of the file, or in
    `dtype`. Raises ValueError for a part that is not there, a configuration that is not possible here, and weights
    that are unreadable or do not fit it, all of them in one line.
    """
    module, config = read_config(folder, kind)
    if kind == "scheduler":
        return Part(None, module, config)
    file = sd_files.find_weights(parts_of(folder, needed=(kind,))[kind])
    arrays = KINDS[kind].modern(sd_files.read_weights(file))
    params = names.to_flax(_abstract(module), arrays, source=f"The weights of {file}", keep_dtype=True)["params"]
    if dtype is not None:
        params = jax.tree.map(lambda array: array.astype(dtype, copy=False), params)
    return Part(module, params, config)


def write_part(
    folder: str | Path,
    kind: str,
    module: nn.Module | None,
    params: Mapping | DDPMSchedule,
    config: Mapping | None = None,
    *,
    shard_bytes: int = sd_files.SHARD_BYTES,
    overwrite: bool = False,
) -> Path:
    """Write FOLDER/KIND as the public libraries have it, whole or not at all; that folder.

    module, params, config   as in `Part`; without a configuration, one is made of the module's fields
    shard_bytes              of weights in one file; more become shards
    overwrite                replace a part that is there; a folder that is something else never is
    Arrays keep their types. Raises ValueError where the configuration is that of another network, for weights that do
    not fit, and for a folder that is in use.
    """
    known, folder = _kind(kind), Path(folder) / kind
    _check_output(folder, kind, overwrite=overwrite)
    config = _config_of(kind, module) if config is None else dict(config)
    made = params if kind == "scheduler" else module
    if differing := _differing(made, _built(known, config, "The configuration")):
        raise ValueError(f"The configuration makes another {known.public} than the given one: {'; '.join(differing)}.")
    arrays = {}
    if kind != "scheduler":
        arrays = names.to_torch({"params": params})
        names.to_flax(_abstract(module), arrays, source="The parameters", keep_dtype=True)  # says what does not fit
    with folders.whole(folder) as fresh:
        if arrays:
            sd_files.write_weights(fresh, known.stem, arrays, shard_bytes=shard_bytes)
        sd_files.write_json(fresh / known.config, config)
    return folder


def read_ram(
    ram_file: str | Path, dape_file: str | Path | None = None, *, network: RAM | None = None
) -> tuple[RAM, dict]:
    """(RAM, float32 parameters) of RAM's file (ram_swin_large_14m.pth), and with DAPE.pth, of SeeSR's DAPE.

    `network` is that of other sizes than the published; there are as many classes as the file has labels.
    """
    weights = torch_file.read(ram_file)
    if lora.is_updates(weights):
        raise ValueError(
            f"{ram_file}: it looks like DAPE.pth, updates of RAM's weights without them: give it as --dape, and "
            "ram_swin_large_14m.pth as --ram."
        )
    network = _of_classes(RAM() if network is None else network, weights)
    updates = None if dape_file is None else torch_file.read(dape_file)
    try:
        weights = lora.ram(weights, updates, network=network)
    except ValueError as error:
        raise ValueError(f"{dape_file or ram_file}: {error}") from None
    return network, names.to_flax(network, weights, source=f"The weights of {ram_file}")["params"]


def _of_classes(network: RAM, weights: Mapping) -> RAM:
    """The network with as many classes as a RAM file; as it is where the file does not say, or it has no head."""
    labels = names.without_prefixes(weights).get("label_embed")
    is_told = network.num_class is not None and labels is not None and labels.ndim == 2
    return network.clone(num_class=len(labels)) if is_told and len(labels) != network.num_class else network


def read_dino(file: str | Path, *, network: VisionTransformer | None = None) -> tuple[VisionTransformer, dict]:
    """(network, float32 parameters) of DINO's ViT-S/16, dino_deitsmall16_pretrain.pth, with AddSR's taps."""
    return _read_transformer(file, network or VisionTransformer(**dino.SIZES["dino_vits16"]))


def read_dinov2(file: str | Path, *, network: VisionTransformer | None = None) -> tuple[VisionTransformer, dict]:
    """(network, float32 parameters) of DINOv2's ViT-S/14, dinov2_vits14_pretrain.pth, for its class token."""
    return _read_transformer(file, network or VisionTransformer(**dino.SIZES["dinov2_vits14"], taps=()))


def _read_transformer(file, network: VisionTransformer) -> tuple[VisionTransformer, dict]:
    return network, names.to_flax(network, torch_file.read(file), source=f"The weights of {file}")["params"]


_abstract = functools.lru_cache(maxsize=8)(abstract_variables)  # to trace a network of SD takes a second


def _kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    return KINDS[kind]


def _places(folder: Path, part: str) -> list[Path]:
    """Where in a folder a part may be, as far as there is something."""
    below = [folder / name for name in (part, NUMBERED.get(part)) if name and (folder / name).is_dir()]
    return [*below, folder] if _is_itself(folder, part) else below


def _is_itself(folder: Path, part: str) -> bool:
    """Whether a folder is that part by itself, as its files say; its own name does where its configuration does not."""
    if part == "tokenizer":
        return not _fault(folder, part)
    path = folder / KINDS[part].config
    if part == "scheduler" or not path.is_file():
        return path.is_file()
    config = sd_files.read_json(path)
    public = config.get("_class_name", config.get("architectures"))
    return folder.name == part if public is None else public in (KINDS[part].public, [KINDS[part].public])


def _fault(place: Path, part: str) -> str | None:
    """What a folder lacks to be that part."""
    if part == "tokenizer":
        complete = any(all((place / name).is_file() for name in form) for form in TOKENIZERS)
        return None if complete else f"{place} has no {' or '.join(' and '.join(form) for form in TOKENIZERS)}"
    if not (place / KINDS[part].config).is_file():
        return f"{place} has no {KINDS[part].config}"
    if part != "scheduler" and sd_files.find_weights(place) is None:
        return f"{place} has no {KINDS[part].stem}.safetensors, nor other weights"
    return None


def _built(kind: Kind, config: Mapping, source) -> nn.Module | DDPMSchedule:
    """What a configuration makes."""
    try:
        made = kind.build(**config)
        if isinstance(made, nn.Module):
            _abstract(made)
        return made
    except Exception as error:  # whatever a stranger's numbers can make a constructor raise
        told = " ".join(str(error).split())  # those of other libraries have several lines
        raise ValueError(f"{source}: it makes no {kind.public} here: {told}") from None


def _fields(made: nn.Module | DDPMSchedule) -> dict:
    """What of a module or a schedule its public configuration determines."""
    if isinstance(made, DDPMSchedule):
        return {"abar": made.abar.tolist(), "steps_offset": made.steps_offset}
    ours = ("parent", "name", "dtype", "remat")
    return {key: getattr(made, key) for key in made.__dataclass_fields__ if key not in ours}


def _differing(made, wanted) -> list[str]:
    """In what a module or a schedule differs from the one that is wanted."""
    found = _fields(made)
    told = lambda value: "other numbers" if isinstance(value, list) else repr(value)
    differing = [(key, value) for key, value in _fields(wanted).items() if found.get(key) != value]
    return [f"{key} is {told(found.get(key))}, not {told(value)}" for key, value in differing]


def _config_of(kind: str, module: nn.Module | None) -> dict:
    """A public configuration of a module; of a schedule, the one of SD 2."""
    if kind == "scheduler":
        return SD2_SCHEDULER
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in _fields(module).items()}
    if not fields.get("use_image_cross_attention", True):
        del fields["use_image_cross_attention"]  # a key of SeeSR, which the plain network does not know
    if kind == "vae":
        fields |= {key: [block] * len(module.block_out_channels) for key, block in kl.BLOCKS.items()}
    return (TEXT_ENCODER if kind == "text_encoder" else {"_class_name": KINDS[kind].public}) | fields


def _check_output(folder: Path, kind: str, *, overwrite: bool) -> None:
    """ValueError unless a part may be written there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / KINDS[kind].config).is_file():
        raise ValueError(f"{folder} exists and is no {kind}; choose another folder.")
    if not overwrite:
        raise ValueError(f"{folder} exists; choose another folder, or give --overwrite.")

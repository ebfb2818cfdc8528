"""A model of the SeeSR family as a folder in the layout of diffusers, and what such a folder says of itself.

    BUNDLE/  --to_diffusers-->  FOLDER/{unet, controlnet, vae, text_encoder, scheduler, tokenizer, tagger}/

to_diffusers   of a bundle on disk          write_folder   of one in memory
read_index     model_index.json             joined         {part: tree} -> {network of a bundle: tree}
Weights keep their types, bit by bit, under public names; configurations are those that the bundle was made with. The
tagger is one more folder, which only this package reads: `convert.seesr` needs nothing else to make the bundle again.
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from tadsr_jax import bundles, folders, tokenizer
from tadsr_jax.convert import sd_files, sd_folder
from tadsr_jax.convert.seesr_presets import PRESETS, TERMS
from tadsr_jax.families.seesr_input import LABELS, THRESHOLDS
from tadsr_jax.types import Bundle, Family, PyTree

NETWORKS = {  # part of a folder -> network of a bundle
    "unet": "student",
    "controlnet": "student",
    "vae": "autoencoder",
    "text_encoder": "text_encoder",
    "tagger": "tagger",
}
UPDATES = "tagger_updates"  # DAPE's, which are in the tagger's weights and are somebody's as well
STUDENT = ("unet", "controlnet")
INDEX = "model_index.json"
PIPELINE = "FlaxSuperResolutionPipeline"  # the class of `tadsr_jax.pipelines`, which opens such folders
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "controlnet": ["diffusers", "ControlNetModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tagger": ["tadsr_jax", "RAM"],
}
# What model_index.json says beyond its parts: settings of the family that no part's configuration has,
OF_NETWORKS = ("scale", "no_words", "smallest")
RULES = (*OF_NETWORKS, "added_words")
CHOICES = ("preset", "steps")  # how to sample,
SOURCES = "sources"  # and whose the parts are: {part: its TERMS}, as far as that is known


def joined(trees: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Parameters of the parts of a folder as those of the networks of a bundle."""
    student = {part: trees[part] for part in STUDENT}
    return {"student": student} | {NETWORKS[part]: trees[part] for part in NETWORKS if part not in STUDENT}


def divided(network: str, params: PyTree) -> dict[str, PyTree]:
    """The other direction: {part: tree} of one network of a bundle."""
    if network == "student":
        return {part: params[part] for part in STUDENT}
    return {part: params for part, name in NETWORKS.items() if name == network}


def read_index(folder: str | Path) -> dict:
    """RULES, CHOICES and SOURCES that model_index.json of a folder has; what others wrote has none.

    Raises ValueError for values of another type.
    """
    path = Path(folder) / INDEX
    index = sd_files.read_json(path) if path.is_file() else {}
    known = {key: index[key] for key in (*RULES, *CHOICES, SOURCES) if key in index}
    for key, value in known.items():
        if key in ("added_words", "preset"):
            what, is_right = "a text", isinstance(value, str)
        elif key == "no_words":
            what, is_right = "token ids", isinstance(value, list) and bool(value) and all(map(_is_whole, value))
        elif key == SOURCES:
            what, is_right = f"{', '.join(TERMS)} of parts", isinstance(value, dict) and value == _terms(value)
        else:
            what, is_right = "a whole number, 1 or more", _is_whole(value) and value > 0
        if not is_right:
            raise ValueError(f"{path}: {key!r} is {value!r}; expected {what}.")
    return known


def to_diffusers(bundle: str | Path, output: str | Path, *, overwrite: bool = False) -> dict:
    """Write a bundle, or that of a training run, as a folder of diffusers; a report of it, ready for JSON.

    The folder appears whole or not at all. Raises ValueError for a bundle of another family or one that is damaged, and
    for an output that is in use; `overwrite` replaces such a folder, what is something else is never replaced.
    """
    source = bundles.find(Path(bundle))
    if (family := bundles.describe(source)["family"]) != "seesr":
        raise ValueError(f"{source}: its family is {family!r}; only seesr has the layout of diffusers.")
    check_output(Path(output), overwrite=overwrite)  # before gigabytes are read
    model, read = bundles.open_bundle(source)
    return {"source": str(bundle)} | write_folder(model, output, read=read, overwrite=overwrite)


def write_folder(
    bundle: Bundle, output: str | Path, *, read: Callable[[str], PyTree] | None = None, overwrite: bool = False
) -> dict:
    """Write a bundle in memory as a folder of diffusers; a report of it.

    read   name of a network -> its parameters, where they are not all in memory; each is asked for once
    """
    output, read = Path(output), read or bundle.params.__getitem__
    check_output(output, overwrite=overwrite)
    modules, configs, report = modules_of(bundle.family), _configurations(bundle.info), {}
    with folders.whole(output) as fresh:
        for network in dict.fromkeys(NETWORKS.values()):
            for part, tree in divided(network, read(network)).items():
                folder = sd_folder.write_part(fresh, part, modules[part], tree, configs.get(part))
                report[part] = _written(folder, tree)
        sd_folder.write_part(fresh, "scheduler", None, bundle.family.schedule, configs.get("scheduler"))
        _write_texts(fresh, bundle.texts)
        index = _index(bundle, [part for part in CLASSES if (fresh / part).is_dir()])
        sd_files.write_json(fresh / INDEX, index)
    return {
        "folder": str(output),
        "parts": report,
        "texts": sorted(bundle.texts),
        "next": shlex.join(["tadsr", "convert", "seesr", "--model", str(output), "-o", "BUNDLE"]),
    }


def check_output(folder: Path, *, overwrite: bool) -> None:
    """ValueError unless a folder of diffusers may be written there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} exists and is no folder with a {INDEX}; choose another one.")
    if not overwrite:
        raise ValueError(f"{folder} holds a model already; choose another folder, or give --overwrite.")


def modules_of(family: Family) -> dict:
    """{part: its module}."""
    denoiser = family.networks["denoiser"]
    others = {part: family.networks[name] for part, name in NETWORKS.items() if name != "student"}
    return others | {"unet": denoiser.unet, "controlnet": denoiser.controlnet}


def _configurations(info: Mapping) -> dict:
    """{part: its public configuration}, of a bundle that was made of public files."""
    configs = info.get("public_config", {})
    if not isinstance(configs, Mapping) or not all(isinstance(config, Mapping) for config in configs.values()):
        raise ValueError(f"The bundle's 'public_config' is {configs!r}; expected an object of objects.")
    return configs


def _index(bundle: Bundle, parts: list[str]) -> dict:
    """model_index.json."""
    settings = bundle.info["settings"]
    rules = {key: settings[key] for key in RULES if key in settings}
    preset = bundle.info.get("preset", bundle.info.get("recipe"))
    chosen = {"preset": preset, "steps": bundle.info.get("steps", 1)} if preset in PRESETS else {}
    sources = {SOURCES: _terms(bundle.info.get(SOURCES))}
    return {"_class_name": PIPELINE, **{part: CLASSES[part] for part in parts}, **rules, **chosen, **sources}


def _terms(sources) -> dict[str, dict[str, str]]:
    """{part: its repository and licence} of what bundle.json or model_index.json says of sources."""
    said = {part: sources.get(part) for part in (*NETWORKS, UPDATES)} if isinstance(sources, Mapping) else {}
    known = {
        part: {key: of[key] for key in TERMS if isinstance(of.get(key), str)}
        for part, of in said.items()
        if isinstance(of, Mapping)
    }
    return {part: terms for part, terms in known.items() if terms}


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """The tokenizer's files in a folder of its own, the tags beside the tagger."""
    places = dict.fromkeys(tokenizer.FILES, "tokenizer") | dict.fromkeys((LABELS, THRESHOLDS), "tagger")
    for name in (name for name in texts if name in places):
        (folder / places[name]).mkdir(exist_ok=True)
        (folder / places[name] / name).write_bytes(texts[name].encode())


def _is_whole(value) -> bool:
    return type(value) is int and value >= 0


def _written(folder: Path, tree: PyTree) -> dict:
    leaves = jax.tree.leaves(tree)
    weights = [path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"]
    return {
        "files": {f"{folder.name}/{path.name}": bundles.file_sha256(path) for path in weights},
        "tensors": len(leaves),
        "parameters": int(sum(leaf.size for leaf in leaves)),
        "dtype": ", ".join(sorted({leaf.dtype.name for leaf in leaves})),
    }

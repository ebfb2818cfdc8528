"""Weights from elsewhere: what config.init names, read and checked against the model of the config."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from tadsr_jax import bundles, tokenizer
from tadsr_jax.convert import lpips as lpips_files
from tadsr_jax.convert import names, torch_file
from tadsr_jax.networks import synthetic_params
from tadsr_jax.types import Family, PyTree, Recipe

BEGINNINGS = ("teacher", "student")  # keys of config.init: what a recipe reads one of
NEEDED = {  # key -> what to give, where a run cannot do without
    "data.path": "your training pictures (config.data.source is {source!r}): --config.data.path=FOLDER",
    "init.lpips_backbone": "VGG-16 for config.losses.perceptual (vgg16-397923af.pth of torchvision): "
    "--config.init.lpips_backbone=FILE",
    "init.dino": "DINO's ViT-S/16 for the discriminator (dino_deitsmall16_pretrain.pth): --config.init.dino=FILE",
    "init.dinov2": "DINOv2's ViT-S/14 for the discriminator (dinov2_vits14_pretrain.pth): --config.init.dinov2=FILE",
    "init.lpips_heads": "the LPIPS heads for config.losses.perceptual (weights/v0.1/vgg.pth of the lpips package): "
    "--config.init.lpips_heads=FILE",
}
PUBLIC = {  # the same for the public models of a family
    "resshift": {
        "init.teacher": "the weights to distil from (resshift_realsrx4_s15_v1.pth of the ResShift releases, or a "
        "bundle that configs/teacher_x4.py trained): --config.init.teacher=FILE",
        "init.autoencoder": "the VQ autoencoder (autoencoder_vq_f4.pth of the ResShift releases, or a bundle): "
        "--config.init.autoencoder=FILE",
    },
    "seesr": {
        "init.teacher": "SeeSR, as a bundle with all its networks (`tadsr convert seesr` makes one of its public "
        "files): --config.init.teacher=FOLDER",
    },
}


def check_needs(config: dict, family: Family, recipe: Recipe, *, trains_teacher: bool) -> None:
    """All that is not set and has no default, in one message: whoever starts a full-size run looks for files once."""
    init, missing = config["init"], []
    if config["data"].get("source") != "demo" and config["data"].get("path") is None:
        missing.append("data.path")
    if not init.get("synthetic"):
        if "teacher" in recipe.frozen and not init.get("teacher") and not trains_teacher:
            missing.append("init.teacher")
        shapes = bundles.expected_shapes(family)
        for name in family.fixed:
            if jax.tree.leaves(shapes[name]) and not (source_of(name, init) or trains_teacher):
                missing.append(f"init.{name}")
        missing += [f"init.{key}" for key in _of_method(recipe) if not init.get(key)]
    if missing:
        needs = "; ".join(f"config.{key}, {_need(key, config['family'])}" for key in missing)
        raise ValueError(f"needed, but not set: {needs}.".format(source=config["data"].get("source")))


def _need(key: str, family: str) -> str:
    """What to give for a key, and how."""
    name = key.removeprefix("init.")
    known = NEEDED | PUBLIC.get(family, {})
    return known.get(key, f"a bundle that holds the {name}: --config.init.{name}=FOLDER")


def _of_method(recipe: Recipe) -> list[str]:
    """Keys of config.init for networks that belong to the method."""
    return [*(("lpips_backbone", "lpips_heads") if "lpips" in recipe.frozen else ()), *recipe.reads]


def source_of(name: str, init: dict) -> str | None:
    """What config.init names for a network that never learns: its own file, or a bundle, which brings one."""
    return init.get(name) or _beginning(init)


def _beginning(init: dict) -> str | None:
    """The bundle that a run begins with, where it is one."""
    named = (init[key] for key in BEGINNINGS if init.get(key))
    return next((path for path in named if Path(path).is_dir()), None)


def read_weights(config: dict, family: Family, recipe: Recipe) -> dict:
    """Read what config.init names. What a teacher that is trained first will bring is left out.

    With `synthetic`, networks that nothing is named for are drawn at random: the whole job can be tried without files.
    """
    init, weights = config["init"], {}
    read, shapes = network_reader(family), bundles.expected_shapes(family)
    for key in BEGINNINGS:
        if init.get(key):
            weights[key] = read("denoiser", init[key], f"config.init.{key}")
    for name in family.fixed:
        if not jax.tree.leaves(shapes[name]):
            if init.get(name):
                raise ValueError(f"config.init.{name} is {init[name]!r}, but this {name} has no weights; leave it out.")
            weights[name] = {}
        elif source := source_of(name, init):
            weights[name] = read(name, source, f"config.init.{name}")
    if "lpips" in recipe.frozen:
        weights["lpips"] = lpips_files.load(init["lpips_backbone"], init["lpips_heads"])
    for name, module in recipe.reads.items():
        if init.get(name):
            arrays = torch_file.read(init[name])
            weights[name] = names.to_flax(module, arrays, source=f"config.init.{name}={init[name]}")["params"]
    if init.get("synthetic"):
        modules = {name: family.networks[name] for name in family.fixed} | recipe.reads
        modules["teacher" if "teacher" in recipe.frozen else "student"] = family.networks["denoiser"]
        for number, (name, module) in enumerate(modules.items()):
            if name not in weights:
                weights[name] = synthetic_params(module, config["seed"] + number)
    return weights


def read_texts(config: dict, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """The texts of a run's bundle: those of the bundle that it begins with, but the tokenizer that it learns with.

    before   those of the teacher that it trains first
    """
    source = _beginning(config["init"])
    texts = bundles.load_texts(source) if source else dict(before or {})
    if reader := config["data"].get("tokenizer"):
        kept = {name: text for name, text in texts.items() if name not in tokenizer.FILES}
        texts = kept | tokenizer.files_of(reader)
    return texts


def read_sources(config: dict, before: Mapping[str, dict] | None = None) -> dict[str, dict]:
    """{key of config.init: what the bundle there says of its own sources}: licences, repositories, checksums.

    before   those of the teacher that the run trains first
    """
    named = {key: value for key, value in config["init"].items() if key != "synthetic" and value}
    described = {key: bundles.describe(path) for key, path in named.items() if Path(path).is_dir()}
    return dict(before or {}) | {key: info["sources"] for key, info in described.items() if info.get("sources")}


def check_init(config: dict, family: Family, recipe: Recipe) -> None:
    """ValueError for keys of config.init that mean nothing, or nothing here, and for what they name."""
    init, recipe_name = dict(config["init"]), config["recipe"]
    synthetic = init.pop("synthetic", None)
    if synthetic not in (None, True, False):
        raise ValueError(f"config.init.synthetic is {synthetic!r}; expected True or False.")
    every = (*BEGINNINGS, *family.fixed, "lpips_backbone", "lpips_heads", *recipe.reads)
    read = {*family.fixed, "teacher" if "teacher" in recipe.frozen else "student", *_of_method(recipe)}
    for key, value in init.items():
        if key not in every:
            raise ValueError(f"config.init.{key} is unknown; expected {', '.join((*every, 'synthetic'))}.")
        if value is not None and key not in read:
            raise ValueError(
                f"config.init.{key} is {value!r}, which recipe {recipe_name!r} with these losses does not read; "
                f"it reads {', '.join(sorted(read))}."
            )
        if value is not None and not isinstance(value, str | os.PathLike):
            raise ValueError(f"config.init.{key} is {value!r}; expected the path of a weights file or of a bundle.")
        if value is not None and not Path(value).exists():
            raise ValueError(
                f"config.init.{key} is {value!r}, which does not exist; expected a weights file or a bundle."
            )


def network_reader(family: Family) -> Callable[[str, str, str], PyTree]:
    """A function (network, path, key) -> parameters, float32, of a public file or of a bundle of the same model.

    A bundle is opened once, and of its networks, which can be gigabytes, those alone are read that are asked for.
    """
    opened = functools.cache(bundles.open_bundle)

    def read(network: str, path: str, key: str) -> PyTree:
        if not Path(path).is_dir():
            arrays = torch_file.read(path)
            if network == "autoencoder":
                arrays, _ = names.without_leftovers(arrays)
            return names.to_flax(family.networks[network], arrays, source=f"{key}={path}")["params"]
        bundle, stored = opened(path)
        check_same_model(f"{key}={path}", family, bundle.family)
        params = stored("student" if network == "denoiser" else network)
        return jax.tree.map(lambda array: np.asarray(array, np.float32), params)

    return read


def check_same_model(key: str, ours: Family, theirs: Family) -> None:
    """Two families that compute the same; how (dtype, rematerialisation) may differ."""
    described = lambda family: {
        **{name: _what_it_computes(module) for name, module in family.networks.items()},
        "scale": family.scale,
        "schedule": {k: np.asarray(v).tolist() for k, v in vars(family.schedule).items()},
        "no_words": family.no_words,
    }
    here, there = described(ours), described(theirs)
    for part in here:
        if here[part] != there[part]:
            raise ValueError(f"{key} has another {part} than this config: {_difference(here[part], there[part])}.")


def _difference(here, there) -> str:
    """'kappa is 2.0 there, 0.2 here', of two dicts of fields or two values."""
    if not isinstance(here, dict) or here.keys() != there.keys():
        return f"{there} there, {here} here"
    return "; ".join(f"{name} is {there[name]} there, {here[name]} here" for name in here if here[name] != there[name])


def _what_it_computes(module) -> dict:
    """The fields of a network without those that only say how."""
    fields = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    return {key: value for key, value in fields.items() if key not in ("parent", "name", "dtype", "remat")}

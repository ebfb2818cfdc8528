"""Weights from elsewhere: what config.init names, read and checked against the model of the config."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np

from tadsr_jax import bundles, tokenizer
from tadsr_jax.convert import lpips as lpips_files
from tadsr_jax.convert import names, torch_file
from tadsr_jax.networks import synthetic_params
from tadsr_jax.types import Family, Recipe

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
    named = [init[key] for key in ("teacher", "student") if init.get(key) and Path(init[key]).is_dir()]
    return init.get(name) or next(iter(named), None)


def read_weights(config: dict, family: Family, recipe: Recipe) -> dict:
    """Read what config.init names. What a teacher that is trained first will bring is left out.

    With `synthetic`, networks that nothing is named for are drawn at random: the whole job can be tried without files.
    """
    init = dict(config["init"])
    synthetic = init.pop("synthetic", None)
    if synthetic not in (None, True, False):
        raise ValueError(f"config.init.synthetic is {synthetic!r}; expected True or False.")
    _check_named(init, config["recipe"], family, recipe)
    weights, shapes = {}, bundles.expected_shapes(family)
    for key in ("teacher", "student"):
        if init.get(key):
            weights[key] = read_network("denoiser", init[key], family, f"config.init.{key}")
    for name in family.fixed:
        if not jax.tree.leaves(shapes[name]):
            if init.get(name):
                raise ValueError(f"config.init.{name} is {init[name]!r}, but this {name} has no weights; leave it out.")
            weights[name] = {}
        elif source := source_of(name, init):
            weights[name] = read_network(name, source, family, f"config.init.{name}")
    if "lpips" in recipe.frozen:
        weights["lpips"] = lpips_files.load(init["lpips_backbone"], init["lpips_heads"])
    for name, module in recipe.reads.items():
        if init.get(name):
            arrays = torch_file.read(init[name])
            weights[name] = names.to_flax(module, arrays, source=f"config.init.{name}={init[name]}")["params"]
    if synthetic:
        modules = {name: family.networks[name] for name in family.fixed} | recipe.reads
        modules["teacher" if "teacher" in recipe.frozen else "student"] = family.networks["denoiser"]
        for number, (name, module) in enumerate(modules.items()):
            if name not in weights:
                weights[name] = synthetic_params(module, config["seed"] + number)
    return weights


def read_texts(config: dict) -> dict[str, str]:
    """The texts of a run's bundle: those of the bundle that it begins with, or the tokenizer that it learns with."""
    for source in (config["init"].get(key) for key in ("teacher", "student")):
        if source and Path(source).is_dir() and (texts := bundles.load_texts(source)):
            return texts
    reader = config["data"].get("tokenizer")
    return tokenizer.files_of(reader) if reader else {}


def _check_named(init: dict, recipe_name: str, family: Family, recipe: Recipe) -> None:
    """ValueError for keys of config.init that mean nothing, or nothing here, and for what they name."""
    every = ("teacher", "student", *family.fixed, "lpips_backbone", "lpips_heads", *recipe.reads)
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


def read_network(network: str, path: str, family: Family, key: str) -> dict:
    """A network's parameters from a public file, or from a bundle of the same model."""
    if not Path(path).is_dir():
        arrays = torch_file.read(path)
        if network == "autoencoder":
            arrays, _ = names.without_leftovers(arrays)
        return names.to_flax(family.networks[network], arrays, source=f"{key}={path}")["params"]
    bundle = bundles.load(path)
    check_same_model(f"{key}={path}", family, bundle.family)
    return bundle.params["student" if network == "denoiser" else network]


def check_same_model(key: str, ours: Family, theirs: Family) -> None:
    """Two families that compute the same; how (dtype, rematerialisation) may differ."""
    described = lambda family: {
        **{name: _what_it_computes(module) for name, module in family.networks.items()},
        "scale": family.scale,
        "schedule": {k: np.asarray(v).tolist() for k, v in vars(family.schedule).items()},
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

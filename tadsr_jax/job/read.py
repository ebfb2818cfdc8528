"""`read`: a config becomes a Job, or a ValueError of one line; `check_workdir`: whether it may go on in a folder."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from flax.traverse_util import flatten_dict

from tadsr_jax import checkpoints, data, loop
from tadsr_jax.config import bind, plain
from tadsr_jax.job.parts import parts
from tadsr_jax.job.weights import (
    BEGINNINGS,
    check_init,
    check_needs,
    check_same_model,
    read_sources,
    read_texts,
    read_weights,
)
from tadsr_jax.sharding import make_mesh
from tadsr_jax.types import Family, Recipe

# Changing these in the middle would make another model; of networks, how they compute may change.
FIXED = ("family", "recipe", "scale", "seed", "networks", "diffusion")
HOW = ("dtype", "remat")

# Arguments that `read` and `run` provide, so that a config cannot.
PROVIDED = {
    "train": (
        "workdir",
        "name",
        "recipe",
        "optimizers",
        "rate",
        "frozen",
        "initial",
        "open_stream",
        "evaluate",
        "mesh",
    ),
    "validation": ("scale", "degradation", "seed", "multiple"),
}


class Job(NamedTuple):
    """A config, read: everything that training needs, with nothing compiled and nothing written."""

    config: dict
    family: Family
    recipe: Recipe
    optimizers: dict
    rate: optax.Schedule  # the student's
    mesh: jax.sharding.Mesh
    pairs: list[dict]  # validation pictures
    weights: dict  # what config.init names, read and checked: {"teacher": tree, "autoencoder": tree, ...}
    texts: dict[str, str]  # of the bundle, see `bundles`
    sources: dict[str, dict]  # what the bundles that config.init names say of theirs
    teacher: "Job | None"  # the job that trains the teacher first


def read(config) -> Job:
    """Build everything from the config; ValueError of one line for whatever is wrong with it."""
    config = plain(config)
    family, recipe, optimizers, rate = parts(config)
    mesh = make_mesh(**bind(make_mesh, "config.mesh", config["mesh"], given=("devices",)))
    bind(loop.run, "config.train", config["train"], given=PROVIDED["train"])
    trains_teacher = bool("teacher" in recipe.frozen and config.get("teacher") and not config["init"].get("teacher"))
    check_init(config, family, recipe)
    check_needs(config, family, recipe, trains_teacher=trains_teacher)
    _check_batch(config, family, mesh)
    data.check(scale=config["scale"], seed=config["seed"], **config["data"])
    teacher = None
    if trains_teacher:
        teacher = _read_teacher(config["teacher"])
        check_same_model("config.teacher", family, teacher.family)
    texts = read_texts(config, teacher and teacher.texts)
    _check_texts(config, family, texts)
    sources = read_sources(config, teacher and teacher.sources)
    weights = read_weights(config, family, recipe)
    pairs = _validation_pairs(config, family)
    return Job(config, family, recipe, optimizers, rate, mesh, pairs, weights, texts, sources, teacher)


def _read_teacher(section) -> Job:
    if not isinstance(section, dict):
        raise ValueError(
            f"config.teacher is {section!r}; expected a whole config, as of configs/teacher_x4.py, or None."
        )
    try:
        return read(section)
    except ValueError as error:
        raise ValueError(str(error).replace("config.", "config.teacher.")) from None


def _check_texts(config: dict, family: Family, texts: dict[str, str]) -> None:
    """ValueError for texts that the model cannot be told with: ids beyond its vocabulary would be read as others."""
    if family.request is None:
        return
    try:
        family.request(texts, steps=1)
    except ValueError as error:
        named = {"data.tokenizer": config["data"].get("tokenizer")}
        named |= {f"init.{key}": config["init"].get(key) for key in BEGINNINGS}
        told = ", ".join(f"config.{key}={value}" for key, value in named.items() if value)
        raise ValueError(f"{told or 'config.teacher'}: {error}") from None


def _validation_pairs(config: dict, family: Family) -> list[dict]:
    """The pictures of config.validation, degraded as those of config.data."""
    settings = bind(data.validation_pairs, "config.validation", config["validation"], given=PROVIDED["validation"])
    degradation = config["data"].get("degradation")
    try:
        return data.validation_pairs(
            **settings, scale=family.scale, degradation=degradation, seed=config["seed"], multiple=family.multiple
        )
    except ValueError as error:  # sources speak of config.data, which most of them serve
        raise ValueError(str(error).replace("config.data.", "config.validation.")) from None


def _check_batch(config: dict, family: Family, mesh) -> None:
    batch, crop = config["data"].get("batch_size"), config["data"].get("gt_size")
    parts = config["train"].get("accumulate", 1)
    if type(batch) is int and (batch < 1 or batch % (mesh.size * parts)):
        raise ValueError(
            f"config.data.batch_size is {batch}; it must be a multiple of {mesh.size * parts} "
            f"({mesh.size} devices x config.train.accumulate={parts})."
        )
    unit = family.multiple * family.scale
    for key, size in (("data", crop), ("validation", config["validation"].get("gt_size"))):
        if type(size) is int and size % unit:
            raise ValueError(
                f"config.{key}.gt_size is {size}; the networks need a multiple of {unit}: "
                f"use {max(size // unit, 1) * unit}."
            )


def check_workdir(job: Job, workdir: Path) -> None:
    """ValueError where `workdir` cannot be written, or was begun with another model than the config's."""
    workdir = Path(workdir)
    there = next(place for place in (workdir, *workdir.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise ValueError(
            f"--workdir is {workdir}, but {there} is no folder; expected a folder, or a name for a new one."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"--workdir is {workdir}, but {there} cannot be written; choose another, or change its rights."
        )
    if job.teacher:
        check_workdir(job.teacher, workdir / "teacher")
    begun = workdir / "config.json"
    if not checkpoints.exist(workdir / "checkpoints") or not begun.is_file():
        return
    before, now = (_fixed(config) for config in (json.loads(begun.read_text()), job.config))
    changed = [key for key in {**now, **before} if now.get(key) != before.get(key)]
    if changed:
        said = "; ".join(f"config.{key} is {now.get(key)!r} now, {before.get(key)!r} there" for key in changed[:3])
        more = f"; and {len(changed) - 3} more" if changed[3:] else ""
        raise ValueError(
            f"--workdir is {workdir}, begun with another config: {said}{more}. Give it back, or another --workdir."
        )


def _fixed(config: dict) -> dict:
    """{"networks.denoiser.widths": [32, 32], ...}: what must stay in a workdir."""
    kept = json.loads(json.dumps({key: config.get(key) for key in FIXED}))
    flat = flatten_dict(kept, sep=".", keep_empty_nodes=True)
    return {key: value for key, value in flat.items() if key.split(".")[-1] not in HOW}

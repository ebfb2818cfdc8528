"""What a run left in its workdir, read again without its pictures or training packages; and the bundle of a state.

saved            WORKDIR/config.json and a checkpoint -> Saved          abstract_state   the shapes of a run's state
bundle_of        a state as the model that it is                        write_bundle     that model as a folder
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tadsr_jax import bundles, checkpoints, train
from tadsr_jax.config import plain
from tadsr_jax.job.parts import family_settings, parts
from tadsr_jax.job.weights import check_same_model, network_reader, read_sources, read_texts, source_of
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks import parts as parts_of
from tadsr_jax.types import Batch, Bundle, Family, PyTree, Recipe, TrainState

WEIGHTS = ("ema", "raw")  # the average of the student, or the student itself


class Saved(NamedTuple):
    """A checkpoint, with what is needed to understand it."""

    config: dict
    family: Family
    recipe: Recipe
    state: TrainState  # leaves are NumPy arrays
    fixed: dict[str, PyTree]  # the networks that never learn
    rest: PyTree | None  # the whole student, where it learns in part
    texts: dict[str, str]
    sources: dict[str, dict]  # what the bundles that config.init names say of theirs
    step: int


def saved(workdir: Path, *, step: int | None = None) -> Saved:
    """The checkpoint of `step` in a workdir, by default the latest; ValueError of one line where there is none.

    Nothing is written, so the run may be going on; it does not matter on how many devices it trained.
    """
    workdir = Path(workdir)
    config = _config(workdir)
    try:
        family, recipe, optimizers, _ = parts(config)
        shapes = abstract_state(config, family, recipe, optimizers)
    except Exception as error:  # what another version wrote can lack anything
        what = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{workdir / 'config.json'} is not a config of this version of tadsr_jax: {what}") from None
    step = _step(workdir, step)
    state = checkpoints.read(workdir / "checkpoints", shapes, step)
    return Saved(config, family, recipe, state, *_fixed(workdir, config, family, recipe), step)


def _config(workdir: Path) -> dict:
    path = workdir / "config.json"
    if not workdir.is_dir():
        raise ValueError(f"{workdir} is no folder; expected the workdir of a training run, as runs/small.")
    if not path.is_file():
        raise ValueError(f"{workdir} is no workdir: it holds no config.json. Give the --workdir of a training run.")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: {type(config).__name__} instead of a config's sections.")
    return plain(config)


def _step(workdir: Path, step: int | None) -> int:
    there = checkpoints.steps(workdir / "checkpoints")
    if not there:
        raise ValueError(f"{workdir} holds no checkpoint yet; the run saves one every config.train.save_every steps.")
    if step is None:
        return there[-1]
    if step not in there:
        raise ValueError(f"step is {step!r}, which {workdir} does not hold; it has {', '.join(map(str, there))}.")
    return step


def _fixed(workdir: Path, config: dict, family: Family, recipe: Recipe) -> tuple[dict, PyTree | None, dict, dict]:
    """The networks that never learn, the whole student where it learns in part, texts and sources.

    A run never changes them, so the copies in one of its bundles are they: bundles move with the workdir. Before the
    first is written, what the config or that of its teacher names.
    """
    own, teachers = workdir / "bundle", workdir / "teacher" / "bundle"
    for folder in (own, teachers):
        try:
            bundle = bundles.load(folder)
            check_same_model(str(folder), family, bundle.family)
        except (ValueError, OSError):
            continue  # not there yet, or not whole
        fixed = {name: bundle.params[name] for name in family.fixed}
        rest = bundle.params["student"] if recipe.trained else None
        inherited = bundle.info.get("sources", {}).get("inherited", {})
        if folder == own:
            return fixed, rest, bundle.texts, inherited
        return fixed, rest, read_texts(config, bundle.texts), read_sources(config, inherited)
    read, shapes = network_reader(family), bundles.expected_shapes(family)
    find = lambda name: read(*_named(name, workdir, config))
    fixed = {name: find(name) if jax.tree.leaves(shapes[name]) else {} for name in family.fixed}
    rest = find("teacher") if recipe.trained else None
    return fixed, rest, read_texts(config), read_sources(config)


def _named(name: str, workdir: Path, config: dict) -> tuple[str, str, str]:
    """(network, path, key) of a network that never learns: what the config of a run names for it."""
    for key, section in (("config.init", config), ("config.teacher.init", config.get("teacher") or {})):
        source = source_of(name, section.get("init", {}))
        if source and not Path(source).exists():
            raise ValueError(
                f"{workdir / 'config.json'}: {key} names {source!r} for the {name}, which does not exist here, "
                "and the run has no bundle yet; write into that config.json where the file is now."
            )
        if source:
            return ("denoiser" if name == "teacher" else name, source, key)
    raise ValueError(f"{workdir / 'config.json'}: config.init names no {name}, and the run has no bundle yet.")


def abstract_state(config: dict, family: Family, recipe: Recipe, optimizers: dict) -> TrainState:
    """The state of a run as shapes and types: nothing is computed."""
    shapes = bundles.expected_shapes(family)
    known = shapes | {"teacher": shapes["student"]}
    known |= {name: abstract_variables(module)["params"] for name, module in recipe.reads.items()}
    frozen = {name: known[name] for name in recipe.frozen if name in known}  # LPIPS serves the loss alone
    make = partial(train.init_state, family=family, recipe=recipe, optimizers=optimizers)
    student = parts_of.picked(shapes["student"], recipe.trained) if recipe.trained else shapes["student"]
    return jax.eval_shape(make, jax.random.key(0), student=student, frozen=frozen, batch=example(config))


def example(config: dict) -> Batch:
    """A batch of one, for its shapes."""
    size, scale = config["data"]["gt_size"], config["scale"]
    lq, gt = jnp.zeros((1, size // scale, size // scale, 3)), jnp.zeros((1, size, size, 3))
    # The teacher's pictures are stored with the data; where a folder lacks them, the first batch says so.
    return Batch(lq=lq, gt=gt, extra={"tch": gt} if config["data"].get("source") == "prepared" else {})


def whole_student(recipe: Recipe, rest: PyTree | None, params: PyTree) -> PyTree:
    """The student's parameters: those that learn, in their places in the whole where it learns in part."""
    return parts_of.merged(rest, params) if recipe.trained else params


def bundle_of(
    config: dict,
    family: Family,
    recipe: Recipe,
    state: TrainState,
    fixed: dict,
    rest: PyTree | None = None,
    texts: dict[str, str] | None = None,
    inherited: dict[str, dict] | None = None,
    *,
    weights: str = "ema",
) -> Bundle:
    """The student of a state as a model ready to use: its average, which is what a run is for, or the "raw" one.

    fixed       the family's networks that never learn      rest   the whole student, where it learns in part
    inherited   the sources of the bundles that config.init names, whose licences go on
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; expected one of {', '.join(WEIGHTS)}.")
    sources = {key: value for key, value in config["init"].items() if value}
    sources["pictures"] = config["data"].get("path") or config["data"]["source"]
    info = {
        "family": config["family"],
        "settings": family_settings(config),
        "recipe": config["recipe"],
        "scale": family.scale,
        "steps": recipe.sample_steps,
        "longest": recipe.longest or family.longest,
        "sampler": family.sampler,
        "color_fix": family.color_fix,
        "checkpoint": {"step": int(state.step), "weights": weights},
        "config": config,
        "sources": sources | ({"inherited": inherited} if inherited else {}),
    }
    student = state.ema if weights == "ema" else state.params["student"]
    params = {"student": jax.device_get(whole_student(recipe, rest, student)), **jax.device_get(fixed)}
    return Bundle(family=family, params=params, info=info, texts=texts or {})


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """The one place that makes a folder of a `bundle_of`."""
    info = dict(bundle.info)
    return bundles.save(
        folder,
        family=info.pop("family"),
        settings=info.pop("settings"),
        params=bundle.params,
        info=info,
        texts=bundle.texts,
    )

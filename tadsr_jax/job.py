"""A training job: a config becomes a Job (`read`), and a Job becomes a trained model (`run`).

`read` is the only reader of configs. It builds every part, reads every weights file and checks every number before
anything is compiled or written. `run` trains the teacher first where the config has one, then trains, then writes
bundle, report and comparison.
"""

import dataclasses
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from flax.traverse_util import flatten_dict

from tadsr_jax import bundles, checkpoints, data, images, train
from tadsr_jax.config import bind, plain
from tadsr_jax.convert import lpips as lpips_files
from tadsr_jax.convert import names, torch_file
from tadsr_jax.evaluate import report as reports
from tadsr_jax.families import FAMILIES
from tadsr_jax.logs import clock, say
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.networks.perceptual import lpips
from tadsr_jax.recipes import RECIPES
from tadsr_jax.sharding import make_mesh, place
from tadsr_jax.types import Batch, Bundle, Family, Recipe, TrainState

SECTIONS = ("family", "recipe", "scale", "seed", "networks", "diffusion", "losses", "data", "validation", "optimizer",
            "mesh", "train", "init", "teacher")  # fmt: skip
INITS = {"teacher": ("student", "autoencoder", "lpips_backbone", "lpips_heads"), "sinsr": ("teacher", "autoencoder"),
         "tadsr": ("teacher", "autoencoder")}  # fmt: skip
NEEDED = {  # key -> what to give, where a run cannot do without
    "data.path": "your training pictures (config.data.source is {source!r}): --config.data.path=FOLDER",
    "init.teacher": "the weights to distil from (resshift_realsrx4_s15_v1.pth of the ResShift releases, or a bundle "
    "that configs/teacher_x4.py trained): --config.init.teacher=FILE",
    "init.autoencoder": "the VQ autoencoder (autoencoder_vq_f4.pth of the ResShift releases, or a bundle): "
    "--config.init.autoencoder=FILE",
    "init.lpips_backbone": "VGG-16 for config.losses.perceptual (vgg16-397923af.pth of torchvision): "
    "--config.init.lpips_backbone=FILE",
    "init.lpips_heads": "the LPIPS heads for config.losses.perceptual (weights/v0.1/vgg.pth of the lpips package): "
    "--config.init.lpips_heads=FILE",
}
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
    "losses": ("family", "lpips"),
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
    teacher: "Job | None"  # the job that trains the teacher first


def read(config) -> Job:
    """Build everything from the config; ValueError of one line for whatever is wrong with it."""
    config = plain(config)
    family, recipe, optimizers, rate = parts(config)
    mesh = make_mesh(**bind(make_mesh, "config.mesh", config["mesh"], given=("devices",)))
    bind(train.run, "config.train", config["train"], given=PROVIDED["train"])
    trains_teacher = bool("teacher" in recipe.frozen and config.get("teacher") and not config["init"].get("teacher"))
    _check_needs(config, family, recipe, trains_teacher=trains_teacher)
    _check_batch(config, family, mesh)
    data.check(scale=config["scale"], seed=config["seed"], **config["data"])
    teacher = None
    if trains_teacher:
        teacher = _read_teacher(config["teacher"])
        _check_same_model("config.teacher", family, teacher.family)
    weights = _weights(config, family, recipe)
    pairs = _validation_pairs(config, family)
    return Job(config, family, recipe, optimizers, rate, mesh, pairs, weights, teacher)


def parts(config: dict) -> tuple[Family, Recipe, dict, optax.Schedule]:
    """Family, recipe, optimisers and the student's rate: what a plain config says without pictures and weights."""
    _check_sections(config)
    build = FAMILIES[config["family"]]
    family = build(**bind(build, "config.networks", family_settings(config)))
    recipe = _recipe(config, family)
    return family, recipe, *_optimizers(config, recipe)


def _read_teacher(section) -> Job:
    if not isinstance(section, dict):
        raise ValueError(
            f"config.teacher is {section!r}; expected a whole config, as of configs/teacher_x4.py, or None."
        )
    try:
        return read(section)
    except ValueError as error:
        raise ValueError(str(error).replace("config.", "config.teacher.")) from None


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


def _check_sections(config: dict) -> None:
    for key in config:
        if key not in SECTIONS:
            raise ValueError(f"config.{key} is unknown; expected {', '.join(SECTIONS)}.")
    for key, known in (("family", FAMILIES), ("recipe", RECIPES)):
        if not isinstance(config.get(key), str) or config[key] not in known:
            raise ValueError(f"config.{key} is {config.get(key)!r}; expected one of {', '.join(known)}.")
    for key in SECTIONS[4:-1]:
        if not isinstance(config.get(key), dict):
            raise ValueError(f"config.{key} is {config.get(key)!r}; expected a section.")
    _check_numbers("config", config, {"scale": 1, "seed": 0})
    if config["seed"] >= 2**32:
        raise ValueError(f"config.seed is {config['seed']}; expected a whole number below 2^32.")
    train_numbers = {"accumulate": 1, "log_every": 1, "evaluate_every": 0, "save_every": 1, "keep": 1, "max_skipped": 1}
    _check_numbers("config.train", {"steps": None} | config["train"], {"steps": 1} | train_numbers)
    decay = config["train"].get("ema_decay", 0)
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise ValueError(f"config.train.ema_decay is {decay!r}; expected a number from 0 to below 1.")
    if config["validation"].get("count", 1) is not None:
        _check_numbers("config.validation", config["validation"], {"count": 1})


def _check_numbers(section: str, settings: dict, smallest: dict[str, int]) -> None:
    """Whole numbers that are too small; those that are left out have defaults."""
    for key, least in smallest.items():
        value = settings.get(key, least)
        if type(value) is not int or value < least:
            raise ValueError(f"{section}.{key} is {value!r}; expected a whole number, {least} or more.")


def _check_needs(config: dict, family: Family, recipe: Recipe, *, trains_teacher: bool) -> None:
    """All that is not set and has no default, in one message: whoever starts a full-size run looks for files once."""
    init, missing = config["init"], []
    if config["data"].get("source") != "demo" and config["data"].get("path") is None:
        missing.append("data.path")
    if "teacher" in recipe.frozen and not init.get("teacher") and not trains_teacher:
        missing.append("init.teacher")
    has_autoencoder = init.get("autoencoder") or trains_teacher or _bundle(init)
    if jax.tree.leaves(bundles.expected_shapes(family)["autoencoder"]) and not has_autoencoder:
        missing.append("init.autoencoder")
    if "lpips" in recipe.frozen:
        missing += [f"init.{key}" for key in ("lpips_backbone", "lpips_heads") if not init.get(key)]
    if missing:
        needs = "; ".join(f"config.{key}, {NEEDED[key]}" for key in missing)
        raise ValueError(f"needed, but not set: {needs}.".format(source=config["data"].get("source")))


def _bundle(init: dict) -> str | None:
    """The bundle among what config.init names; it brings its autoencoder."""
    return next((init[key] for key in ("teacher", "student") if init.get(key) and Path(init[key]).is_dir()), None)


def family_settings(config: dict) -> dict:
    """The keywords of a family's `build`; a bundle stores them."""
    return {"scale": config["scale"], "diffusion": config["diffusion"]} | config["networks"]


def _recipe(config: dict, family: Family) -> Recipe:
    make = RECIPES[config["recipe"]]
    options = bind(make, "config.losses", config["losses"], given=PROVIDED["losses"])
    if options.get("perceptual"):
        options["lpips"] = lpips
    if options.get("discriminator"):
        bind(TimeAwareDiscriminator, "config.losses.discriminator", options["discriminator"])
    return make(family, **options)


def _optimizers(config: dict, recipe: Recipe) -> tuple[dict, optax.Schedule]:
    """({player: optimiser}, the student's learning rate)."""
    section = dict(config["optimizer"])
    full_rate = section.pop("first_step_full_rate", None)
    if full_rate is None:
        full_rate = config["losses"].get("variant") == "released"
    players = ("student", *recipe.adds)
    for player in players:
        if not isinstance(section.get(player), dict):
            raise ValueError(
                f"config.optimizer.{player} is {section.get(player)!r}; recipe {config['recipe']!r} trains it."
            )
    for key in section:
        if key not in ("student", "discriminator"):
            raise ValueError(
                f"config.optimizer.{key} is unknown; expected student, discriminator, first_step_full_rate."
            )
    rates, made = {}, {}
    for player in players:
        rule = bind(_options_of_a_player, f"config.optimizer.{player}", section[player])
        _check_optimizer(f"config.optimizer.{player}", rule)
        adam = {key: rule.pop(key) for key in ("betas", "eps", "weight_decay", "clip") if key in rule}
        try:
            rates[player] = train.learning_rate(
                **rule, total_steps=config["train"]["steps"], first_step_full_rate=full_rate and player == "student"
            )
        except ValueError as error:  # it does not know whose rate it makes
            raise ValueError(str(error).replace("config.optimizer.", f"config.optimizer.{player}.")) from None
        made[player] = train.optimizer(rates[player], **adam)
    return made, rates["student"]


def _check_optimizer(section: str, rule: dict) -> None:
    """ValueError for numbers that make no optimiser."""
    bounds = {"lr": "above 0", "clip": "above 0", "eps": "above 0", "lr_min": "0 or more", "weight_decay": "0 or more"}
    for key, bound in bounds.items():
        value = rule.get(key)
        if value is not None and not (value > 0 or (bound == "0 or more" and value == 0)):
            raise ValueError(f"{section}.{key} is {value!r}; expected a number {bound}.")
    _check_numbers(section, rule, {"warmup_steps": 0})
    if not all(0 <= beta < 1 for beta in rule.get("betas", ())):
        raise ValueError(f"{section}.betas is {rule['betas']!r}; expected two numbers from 0 to below 1.")


def _options_of_a_player(
    *, lr: float, warmup_steps: int = 0, schedule: str = "constant", lr_min: float = 0.0,
    milestones: tuple[int, ...] = (),
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, clip: float | None = None,
):  # fmt: skip
    """What a player's section of config.optimizer may say: for `train.learning_rate` and for `train.optimizer`."""


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


# ---- weights from elsewhere ------------------------------------------------------------------------------------------


def _weights(config: dict, family: Family, recipe: Recipe) -> dict:
    """Read what config.init names. What a teacher that is trained first will bring is left out."""
    init, known = config["init"], INITS[config["recipe"]]
    for key, value in init.items():
        if key not in known:
            raise ValueError(f"config.init.{key} is unknown; recipe {config['recipe']!r} reads {', '.join(known)}.")
        if value is not None and not isinstance(value, str | os.PathLike):
            raise ValueError(f"config.init.{key} is {value!r}; expected the path of a weights file or of a bundle.")
        if value is not None and not Path(value).exists():
            raise ValueError(
                f"config.init.{key} is {value!r}, which does not exist; expected a weights file or a bundle."
            )
    weights = {}
    for key in ("teacher", "student"):
        if init.get(key):
            weights[key] = _network("denoiser", init[key], family, f"config.init.{key}")
    source = init.get("autoencoder") or _bundle(init)
    if not jax.tree.leaves(bundles.expected_shapes(family)["autoencoder"]):
        weights["autoencoder"] = {}
    elif source:
        weights["autoencoder"] = _network("autoencoder", source, family, "config.init.autoencoder")
    if "lpips" in recipe.frozen:
        weights["lpips"] = lpips_files.load(init["lpips_backbone"], init["lpips_heads"])
    return weights


def _network(network: str, path: str, family: Family, key: str) -> dict:
    """A network's parameters from a public file, or from a bundle of the same model."""
    if not Path(path).is_dir():
        return names.to_flax(family.networks[network], torch_file.read(path), source=f"{key}={path}")["params"]
    bundle = bundles.load(path)
    _check_same_model(f"{key}={path}", family, bundle.family)
    return bundle.params["student" if network == "denoiser" else network]


def _check_same_model(key: str, ours: Family, theirs: Family) -> None:
    """Two families that compute the same; how (dtype, rematerialisation) may differ."""
    described = lambda family: {
        **{name: _what_it_computes(module) for name, module in family.networks.items()},
        "scale": family.scale,
        "schedule": {k: np.asarray(v).tolist() for k, v in vars(family.schedule).items()},
    }
    here, there = described(ours), described(theirs)
    for part in here:
        if here[part] != there[part]:
            raise ValueError(f"{key} has another {part} than this config: {there[part]} there, {here[part]} here.")


def _what_it_computes(module) -> dict:
    """The fields of a network without those that only say how."""
    fields = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    return {key: value for key, value in fields.items() if key not in ("parent", "name", "dtype", "remat")}


# ---- running ---------------------------------------------------------------------------------------------------------


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


def _write_json(path: Path, content) -> None:
    """All of it or nothing, at any moment."""
    fresh = path.with_name(f"{path.name}.writing")
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(fresh, path)


def run(job: Job, workdir: Path, *, name: str = "") -> dict:
    """Train, or go on; then write bundle, report and comparison. Returns the report."""
    config, family, recipe, workdir = job.config, job.family, job.recipe, Path(workdir)
    name = name or config["recipe"]
    weights, before = dict(job.weights), 0.0
    if job.teacher:
        bundle, before = _trained_teacher(job.teacher, workdir / "teacher")
        weights |= {"teacher": bundle.params["student"], "autoencoder": bundle.params["autoencoder"]}
    workdir.mkdir(parents=True, exist_ok=True)
    if not checkpoints.exist(workdir / "checkpoints"):
        _write_json(workdir / "config.json", config)
    frozen = {key: place(weights[key], job.mesh) for key in recipe.frozen}
    sampler = reports.Sampler(family, job.pairs, seed=config["seed"])
    state, seconds = train.run(
        workdir,
        name=name,
        recipe=recipe,
        optimizers=job.optimizers,
        rate=job.rate,
        frozen=frozen,
        initial=partial(_initial, job, weights, frozen),
        open_stream=lambda consumed: data.training_stream(
            scale=config["scale"], seed=config["seed"], start=consumed, **config["data"]
        ),
        evaluate=_evaluator(job, frozen, sampler),
        mesh=job.mesh,
        **config["train"],
    )
    return _finish(job, workdir, name, state, frozen, sampler, seconds=before + seconds)


def _trained_teacher(job: Job, workdir: Path) -> tuple[Bundle, float]:
    """The teacher's bundle and the seconds that it took; trained now, unless a bundle of the same config is there."""
    report = workdir / "report.json"
    try:
        bundle, seconds = bundles.load(workdir / "bundle"), json.loads(report.read_text())["seconds"]
        if bundle.info.get("config") == json.loads(json.dumps(job.config)):
            return bundle, seconds
    except (ValueError, KeyError, OSError):
        pass  # not there yet, or not whole: made again from the checkpoint
    seconds = run(job, workdir, name="teacher")["seconds"]
    return bundles.load(workdir / "bundle"), seconds


def _initial(job: Job, weights: dict, frozen: dict) -> TrainState:
    """The state before the first step: the student is the teacher, the given weights, or drawn anew."""
    key = jax.random.key(job.config["seed"])
    student = weights.get("teacher", weights.get("student"))
    if student is None:
        student = jax.jit(job.family.init)(key)["denoiser"]
    size, scale = job.config["data"]["gt_size"], job.config["scale"]
    example = Batch(lq=jnp.zeros((1, size // scale, size // scale, 3)), gt=jnp.zeros((1, size, size, 3)))
    make = partial(train.init_state, family=job.family, recipe=job.recipe, optimizers=job.optimizers)
    return jax.jit(make)(key, student=student, frozen=frozen, batch=example)


def _steps_to_sample(job: Job) -> int:
    """A teacher samples with all its steps, a student with one."""
    return job.family.schedule.num_steps if job.config["recipe"] == "teacher" else 1


def _evaluator(job: Job, frozen: dict, sampler):
    """state -> (figures of student and average, one sheet of pictures), for the training loop."""
    family, pairs, steps = job.family, job.pairs, _steps_to_sample(job)
    gt = reports.truth(pairs)
    fixed = {"LQ": reports.enlarged_lq(pairs, family.scale), "bicubic": reports.bicubic(pairs, family.scale)}

    def evaluate(state: TrainState) -> tuple[dict, dict]:
        if "teacher" in frozen and "teacher" not in fixed:
            fixed["teacher"] = sampler(frozen["teacher"], frozen["autoencoder"], steps=family.schedule.num_steps)
        columns, figures = dict(fixed), {}
        for who, params in (("student", state.params["student"]), ("ema", state.ema)):
            pictures = sampler(params, frozen["autoencoder"], steps=steps)
            made = reports.scores(pictures, gt, names=("psnr_y", "ssim_y"))
            figures |= {f"{metric}/{who}": value for metric, value in made.items()}
        sheet = reports.comparison(columns | {f"EMA, {steps} step(s)": pictures, "HR": gt})
        return figures, {"validation": sheet}

    return evaluate


def _finish(job: Job, workdir: Path, name: str, state: TrainState, frozen: dict, sampler, *, seconds: float) -> dict:
    """Bundle, report.json and comparison.png of the averaged student. `seconds`: what training took."""
    started = time.monotonic()
    config, family, pairs = job.config, job.family, job.pairs
    ema = jax.device_get(state.ema)
    steps, all_steps = _steps_to_sample(job), family.schedule.num_steps
    about = {"recipe": config["recipe"], "scale": family.scale, "steps": steps, "config": config}
    params = {"student": ema, "autoencoder": jax.device_get(frozen["autoencoder"])}
    bundles.save(
        workdir / "bundle", family=config["family"], settings=family_settings(config), params=params, info=about
    )

    student = sampler(state.ema, frozen["autoencoder"], steps=steps)
    teacher = undistilled = None
    if "teacher" in frozen:
        teacher = sampler(frozen["teacher"], frozen["autoencoder"], steps=all_steps)
        undistilled = sampler(frozen["teacher"], frozen["autoencoder"], steps=1)
    device = job.mesh.devices.flat[0]
    made = {
        "recipe": config["recipe"],
        **reports.report(pairs, scale=family.scale, student=student, teacher=teacher, undistilled=undistilled),
        "student_sha256": bundles.tree_sha256(ema),
        "steps": int(state.step),
        "skipped": int(state.skipped),
        "seconds": round(seconds + time.monotonic() - started, 1),
        "device": f"{job.mesh.size} x {device.device_kind} ({device.platform}), {os.cpu_count()} host cores",
        "versions": bundles.versions(),
    }
    columns = {"LQ": reports.enlarged_lq(pairs, family.scale), "bicubic": reports.bicubic(pairs, family.scale)}
    if teacher:
        columns |= {f"teacher, {all_steps} steps": teacher, "student, 1 step": student}
    else:
        columns |= {f"{name}, {steps} steps": student}
    sheet = reports.comparison(columns | {"HR": reports.truth(pairs)})
    images.write(workdir / "comparison.png", images.to_float(sheet))
    _write_json(workdir / "report.json", made)
    scored = "  ".join(f"{who} {value:.2f}" for who, value in made["psnr_y"].items())
    say(f"{name}: {int(state.step)} steps, {clock(made['seconds'])} -> {workdir}; PSNR-Y: {scored}")
    return made


def overview(job: Job) -> str:
    """The parameters that a job trains, and those it reads, one line a network."""
    shapes = {"student": jax.eval_shape(job.family.init, jax.random.key(0))["denoiser"]}
    return parameter_overview.get_parameter_overview(shapes["student"], include_stats=False, max_lines=40)

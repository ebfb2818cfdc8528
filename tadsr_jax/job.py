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

from tadsr_jax import bundles, data, images, train
from tadsr_jax.config import bind, plain
from tadsr_jax.convert import lpips as lpips_files
from tadsr_jax.convert import names, torch_file
from tadsr_jax.evaluate import report as reports
from tadsr_jax.families import FAMILIES
from tadsr_jax.logs import clock, say
from tadsr_jax.networks.perceptual import lpips
from tadsr_jax.recipes import RECIPES
from tadsr_jax.sharding import make_mesh, place
from tadsr_jax.types import Batch, Family, Recipe, TrainState

SECTIONS = ("family", "recipe", "scale", "seed", "networks", "diffusion", "losses", "data", "validation", "optimizer",
            "mesh", "train", "init", "teacher")  # fmt: skip
INITS = {"teacher": ("student", "autoencoder", "lpips_backbone", "lpips_heads"), "sinsr": ("teacher", "autoencoder"),
         "tadsr": ("teacher", "autoencoder")}  # fmt: skip


# Arguments that `read` and `run` provide, so that a config cannot.
PROVIDED = {
    "train": ("workdir", "name", "recipe", "optimizers", "rate", "frozen", "initial", "open_stream", "evaluate", "mesh"),
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
    _check_sections(config)
    build = FAMILIES[config["family"]]
    family = build(**bind(build, "config.networks", family_settings(config)))
    recipe = _recipe(config, family)
    optimizers, rate = _optimizers(config, recipe)
    mesh = make_mesh(**bind(make_mesh, "config.mesh", config["mesh"], given=("devices",)))
    bind(train.run, "config.train", config["train"], given=PROVIDED["train"])
    data.check(scale=config["scale"], seed=config["seed"], **config["data"])
    _check_batch(config, family, mesh)
    teacher = None
    if "teacher" in recipe.frozen and config.get("teacher") and not config["init"].get("teacher"):
        teacher = read(config["teacher"])
        _check_same_model("config.teacher", family, teacher.family)
    weights = _weights(config, family, recipe, comes_first=teacher is not None)
    pairs = _validation_pairs(config, family)
    return Job(config, family, recipe, optimizers, rate, mesh, pairs, weights, teacher)


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
    for key, smallest in (("scale", 1), ("seed", 0)):
        if type(config.get(key)) is not int or config[key] < smallest:
            raise ValueError(f"config.{key} is {config.get(key)!r}; expected a whole number, {smallest} or more.")
    for key in SECTIONS[4:-1]:
        if not isinstance(config.get(key), dict):
            raise ValueError(f"config.{key} is {config.get(key)!r}; expected a section.")
    for key, smallest in (("steps", 1), ("accumulate", 1), ("log_every", 1), ("evaluate_every", 0), ("save_every", 1)):
        value = config["train"].get(key, smallest)
        if type(value) is not int or value < smallest:
            raise ValueError(f"config.train.{key} is {value!r}; expected a whole number, {smallest} or more.")


def family_settings(config: dict) -> dict:
    """The keywords of a family's `build`; a bundle stores them."""
    return {"scale": config["scale"], "diffusion": config["diffusion"]} | config["networks"]


def _recipe(config: dict, family: Family) -> Recipe:
    make = RECIPES[config["recipe"]]
    options = bind(make, "config.losses", config["losses"], given=PROVIDED["losses"])
    if options.get("perceptual"):
        options["lpips"] = lpips
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
            raise ValueError(f"config.optimizer.{player} is {section.get(player)!r}; recipe {config['recipe']!r} trains it.")
    for key in section:
        if key not in ("student", "discriminator"):
            raise ValueError(f"config.optimizer.{key} is unknown; expected student, discriminator, first_step_full_rate.")
    rates, made = {}, {}
    for player in players:
        rule = bind(_options_of_a_player, f"config.optimizer.{player}", section[player])
        adam = {key: rule.pop(key) for key in ("betas", "eps", "weight_decay", "clip") if key in rule}
        rates[player] = train.learning_rate(
            **rule, total_steps=config["train"]["steps"], first_step_full_rate=full_rate and player == "student"
        )
        made[player] = train.optimizer(rates[player], **adam)
    return made, rates["student"]


def _options_of_a_player(
    *, lr: float, warmup_steps: int = 0, schedule: str = "constant", lr_min: float = 0.0, milestones: tuple[int, ...] = (),
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
                f"config.{key}.gt_size is {size}; the networks need a multiple of {unit}: use {max(size // unit, 1) * unit}."
            )


# ---- weights from elsewhere ------------------------------------------------------------------------------------------


def _weights(config: dict, family: Family, recipe: Recipe, *, comes_first: bool) -> dict:
    """Read what config.init names; say what is missing, and what for. `comes_first`: a teacher is trained before."""
    init, known = config["init"], INITS[config["recipe"]]
    for key, value in init.items():
        if key not in known:
            raise ValueError(f"config.init.{key} is unknown; recipe {config['recipe']!r} reads {', '.join(known)}.")
        if value is not None and not Path(value).exists():
            raise ValueError(f"config.init.{key} is {value!r}, which does not exist; expected a weights file or a bundle.")
    weights = {}
    for key in ("teacher", "student"):
        if init.get(key):
            weights[key] = _network("denoiser", init[key], family, f"config.init.{key}")
    bundle = next((init[key] for key in ("teacher", "student") if init.get(key) and Path(init[key]).is_dir()), None)
    source = init.get("autoencoder") or bundle
    if not jax.tree.leaves(bundles.expected_shapes(family)["autoencoder"]):
        weights["autoencoder"] = {}
    elif source:
        weights["autoencoder"] = _network("autoencoder", source, family, "config.init.autoencoder")
    elif not comes_first:
        raise ValueError(
            "config.init.autoencoder is not set; give the VQ autoencoder (autoencoder_vq_f4.pth of the ResShift releases, "
            ".pth or .safetensors) or a bundle: --config.init.autoencoder=FILE."
        )
    if "teacher" in recipe.frozen and "teacher" not in weights and not comes_first:
        raise ValueError(
            "config.init.teacher is not set; give the weights to distil from (resshift_realsrx4_s15_v1.pth of the ResShift "
            "releases, or a bundle that configs/teacher_x4.py trained): --config.init.teacher=FILE."
        )
    if "lpips" in recipe.frozen:
        files = [init.get("lpips_backbone"), init.get("lpips_heads")]
        if not all(files):
            raise ValueError(
                "config.losses.perceptual needs config.init.lpips_backbone (vgg16-397923af.pth of torchvision) and "
                "config.init.lpips_heads (weights/v0.1/vgg.pth of the lpips package)."
            )
        weights["lpips"] = lpips_files.load(*files)
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
    described = lambda family: {  # noqa: E731
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


def run(job: Job, workdir: Path, *, name: str = "") -> dict:
    """Train, or go on; then write bundle, report and comparison. Returns the report."""
    started = time.monotonic()
    config, family, recipe, workdir = job.config, job.family, job.recipe, Path(workdir)
    name = name or config["recipe"]
    weights = dict(job.weights)
    if job.teacher:
        run(job.teacher, workdir / "teacher", name="teacher")
        bundle = bundles.load(workdir / "teacher" / "bundle")
        weights |= {"teacher": bundle.params["student"], "autoencoder": bundle.params["autoencoder"]}
    frozen = {key: place(weights[key], job.mesh) for key in recipe.frozen}
    sampler = reports.Sampler(family, job.pairs, seed=config["seed"])
    state = train.run(
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
    return _finish(job, workdir, name, state, frozen, sampler, started)


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


def _finish(job: Job, workdir: Path, name: str, state: TrainState, frozen: dict, sampler, started: float) -> dict:
    """Bundle, report.json and comparison.png of the averaged student."""
    config, family, pairs = job.config, job.family, job.pairs
    ema = jax.device_get(state.ema)
    steps, all_steps = _steps_to_sample(job), family.schedule.num_steps
    about = {"recipe": config["recipe"], "scale": family.scale, "steps": steps, "config": config}
    params = {"student": ema, "autoencoder": jax.device_get(frozen["autoencoder"])}
    bundles.save(workdir / "bundle", family=config["family"], settings=family_settings(config), params=params, info=about)

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
        "seconds": round(time.monotonic() - started, 1),
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
    fresh = workdir / "report.json.writing"
    fresh.write_text(json.dumps(made, indent=1) + "\n")
    os.replace(fresh, workdir / "report.json")
    scored = "  ".join(f"{who} {value:.2f}" for who, value in made["psnr_y"].items())
    say(f"{name}: {int(state.step)} steps, {clock(made['seconds'])} -> {workdir}; PSNR-Y: {scored}")
    return made


def overview(job: Job) -> str:
    """The parameters that a job trains, and those it reads, one line a network."""
    shapes = {"student": jax.eval_shape(job.family.init, jax.random.key(0))["denoiser"]}
    return parameter_overview.get_parameter_overview(shapes["student"], include_stats=False, max_lines=40)

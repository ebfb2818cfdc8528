"""`run`: a Job becomes a trained model with its bundle, report and comparison, or goes on to become one."""

import json
import os
import time
from functools import partial
from pathlib import Path

import jax

from tadsr_jax import bundles, checkpoints, data, loop, pictures, train
from tadsr_jax.evaluate import report as reports
from tadsr_jax.job.read import Job
from tadsr_jax.job.saved import abstract_state, bundle_of, example, whole_student, write_bundle
from tadsr_jax.logs import clock, say
from tadsr_jax.networks import parts, storage
from tadsr_jax.sharding import place
from tadsr_jax.types import Bundle, Family, Recipe, TrainState


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
        weights |= {"teacher": bundle.params["student"]} | {key: bundle.params[key] for key in family.fixed}
    workdir.mkdir(parents=True, exist_ok=True)
    if not checkpoints.exist(workdir / "checkpoints"):
        _write_json(workdir / "config.json", config)
    if recipe.trained:
        weights.setdefault("student", weights["teacher"])
    frozen = _placed(stored({key: weights[key] for key in recipe.frozen}, family, recipe), job.mesh)
    sampler = reports.Sampler(family, job.pairs, seed=config["seed"], texts=job.texts)
    state, seconds = loop.run(
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
    return _finish(job, workdir, name, state, weights, frozen, sampler, seconds=before + seconds)


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
    if job.recipe.trained:
        student = parts.picked(weights["student"], job.recipe.trained)
    make = partial(train.init_state, family=job.family, recipe=job.recipe, optimizers=job.optimizers)
    return jax.jit(make)(key, student=student, frozen=frozen, batch=example(job.config))


def stored(trees: dict, family: Family, recipe: Recipe) -> dict:
    """The trees of networks that never learn, as these read them: `networks.storage`. One tree remains one."""
    denoiser = family.networks["denoiser"]
    modules = {**family.networks, **recipe.reads, "teacher": denoiser, "student": denoiser}
    made = {}
    for name, tree in trees.items():
        if id(tree) not in made:
            made[id(tree)] = storage.rounded(modules[name], tree) if name in modules else tree
    return {name: made[id(tree)] for name, tree in trees.items()}


def _placed(trees: dict, mesh) -> dict:
    """The trees on the devices, once each: student and teacher may be one."""
    placed = {id(tree): place(tree, mesh) for tree in trees.values()}
    return {name: placed[id(tree)] for name, tree in trees.items()}


def _fixed(family: Family, weights: dict) -> dict:
    """Parameters of the family's networks that never learn."""
    return {name: weights[name] for name in family.fixed}


def _evaluator(job: Job, frozen: dict, sampler):
    """state -> (figures of student and average, one sheet of pictures), for the training loop."""
    family, pairs, steps = job.family, job.pairs, job.recipe.sample_steps
    gt = reports.truth(pairs)
    whole = partial(whole_student, job.recipe, frozen.get("student"))
    known = {"LQ": reports.enlarged_lq(pairs, family.scale), "bicubic": reports.bicubic(pairs, family.scale)}
    fixed = _fixed(family, frozen)

    def evaluate(state: TrainState) -> tuple[dict, dict]:
        if "teacher" in frozen and "teacher" not in known:
            known["teacher"] = sampler(frozen["teacher"], fixed, steps=family.longest)
        columns, figures = dict(known), {}
        for who, params in (("student", state.params["student"]), ("ema", state.ema)):
            pictures = sampler(whole(params), fixed, steps=steps)
            made = reports.scores(pictures, gt, names=("psnr_y", "ssim_y"))
            figures |= {f"{metric}/{who}": value for metric, value in made.items()}
        sheet = reports.comparison(columns | {f"EMA, {steps} step(s)": pictures, "HR": gt})
        return figures, {"validation": sheet}

    return evaluate


def _finish(
    job: Job, workdir: Path, name: str, state: TrainState, weights: dict, frozen: dict, sampler, *, seconds: float
) -> dict:
    """Bundle, report.json and comparison.png of the averaged student. `seconds`: what training took.

    weights   what `frozen` was before it was stored to be read: the bundle's
    """
    started = time.monotonic()
    config, family, pairs = job.config, job.family, job.pairs
    steps, all_steps = job.recipe.sample_steps, family.longest
    rest, texts, inherited = weights.get("student"), job.texts, job.sources
    bundle = bundle_of(config, family, job.recipe, state, _fixed(family, weights), rest, texts, inherited)
    write_bundle(workdir / "bundle", bundle)

    fixed = _fixed(family, frozen)
    student = sampler(whole_student(job.recipe, frozen.get("student"), state.ema), fixed, steps=steps)
    teacher = undistilled = None
    if "teacher" in frozen:
        teacher = sampler(frozen["teacher"], fixed, steps=all_steps)
        undistilled = sampler(frozen["teacher"], fixed, steps=steps)
    device = job.mesh.devices.flat[0]
    made = {
        "recipe": config["recipe"],
        **reports.report(pairs, scale=family.scale, student=student, teacher=teacher, undistilled=undistilled),
        "student_sha256": bundles.tree_sha256(bundle.params["student"]),
        "steps": int(state.step),
        "skipped": int(state.skipped),
        "seconds": round(seconds + time.monotonic() - started, 1),
        "device": f"{job.mesh.size} x {device.device_kind} ({device.platform}), {os.cpu_count()} host cores",
        "versions": bundles.versions(),
    }
    columns = {"LQ": reports.enlarged_lq(pairs, family.scale), "bicubic": reports.bicubic(pairs, family.scale)}
    if teacher:
        count = "1 step" if steps == 1 else f"{steps} steps"
        columns |= {f"teacher, {all_steps} steps": teacher, f"student, {count}": student}
    else:
        columns |= {f"{name}, {steps} steps": student}
    sheet = reports.comparison(columns | {"HR": reports.truth(pairs)})
    pictures.write(workdir / "comparison.png", sheet)
    _write_json(workdir / "report.json", made)
    scored = "  ".join(f"{who} {value:.2f}" for who, value in made["psnr_y"].items())
    say(f"{name}: {int(state.step)} steps, {clock(made['seconds'])} -> {workdir}; PSNR-Y: {scored}")
    return made


def overview(job: Job) -> str:
    """The student's parameters in a table, and how many there are in each network of the job."""
    from clu import parameter_overview  # of the `train` extra, which whoever only reads a run need not have

    shapes = bundles.expected_shapes(job.family)
    known = job.weights | shapes | {"teacher": shapes["student"]}
    frozen = {name: known[name] for name in job.recipe.frozen}
    state = abstract_state(job.config, job.family, job.recipe, job.optimizers)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    lines = [f"{name}: {count(tree):,} parameters, learning" for name, tree in state.params.items()]
    lines += [f"{name}: {count(tree):,} parameters, fixed" for name, tree in frozen.items()]
    table = parameter_overview.get_parameter_overview(state.params["student"], include_stats=False, max_lines=40)
    return "\n".join([table, *lines])

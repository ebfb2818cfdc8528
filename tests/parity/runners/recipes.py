"""Losses, their gradients, and whole training steps of the recipes, against the public trainers.

The cases work on latents: encoding is the identity here, and z_y an input. Recorded noises and times take the places of
those that a recipe draws.
"""

import dataclasses
import json
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax import train
from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables
from tadsr_jax.recipes import RECIPES
from tadsr_jax.types import Batch, Family, TrainState
from tests.parity.runners.diffusion import family_of
from tests.parity.runners.layout import nchw, nhwc


@lru_cache(maxsize=8)
def on_latents(family):
    """The family with latents in the place of pictures: gt is z_gt, and extra["z_y"] is z_y."""
    return dataclasses.replace(
        family,
        encode=lambda frozen, image: image,
        condition=lambda frozen, lq, extra: {"lq": lq, "z_y": extra["z_y"], "mask": None},
        # Compiled by themselves, once for all cases of a U-Net; the rest of a loss is cheap enough to run unjitted.
        predict_z0=jax.jit(family.predict_z0),
        features=jax.jit(family.features),
    )


def batch_of(inputs: dict) -> Batch:
    z_gt, offset, lq, eps = (nhwc(inputs[key]) for key in ("z_gt", "z_y_offset", "lq", "noise"))
    return Batch(lq=lq, gt=z_gt, extra={"z_y": z_gt + offset, "eps": eps})


def tadsr_recipe(family, config: dict, first: int):
    """The recipe of a case whose student starts at index `first`."""
    options = config["train"]
    return RECIPES["tadsr"](
        family,
        variant="released" if options.get("variant") == "released" else "paper",
        score=options.get("hsd_weight", 1.0) if options.get("use_score_distil") else 0.0,
        adversarial=options.get("GAN_weight", 0.0) if options.get("use_GAN_loss") else 0.0,
        score_kind="hsd" if options.get("distill_type") == "HSD" else "sds",
        score_target="teacher" if options.get("score_distill_target") == "teacher" else "gt",
        score_input_scaling=options.get("score_input_scaling"),
        # The cases' z_T has the noise of the last index in both variants, wherever the student starts.
        student_times=None if first == family.schedule.num_steps - 1 else (first,),
        start_noise="last",
        discriminator=config["discriminator"],
    )


def sinsr_recipe(family, config: dict):
    options = config["train"]
    return RECIPES["sinsr"](
        family,
        inverse=1.0 if options.get("learn_xT") else 0.0,
        gt=float(options.get("finetune_use_gt") or 0.0),
        covariance=float(options.get("xT_cov_loss") or 0.0),
        uncertainty=float(options.get("uncertainty_hyper") or 0.0),
        uncertainty_passes=options.get("uncertainty_num_aux", 2),
    )


RECORDED = {"score_t": "t_hsd", "disc_t": "t_dis", "score_eps": "noise_hsd", "disc_eps": "noise_dis"}


def recorded_draws(inputs: dict) -> dict:
    """The case's noises and times under the names of the recipes' draws."""
    given = {}
    for ours, theirs in RECORDED.items():
        if theirs in inputs:
            given[ours] = jnp.asarray(inputs[theirs], jnp.int32) if ours.endswith("_t") else nhwc(inputs[theirs])
    if passes := sorted(key for key in inputs if key.startswith("noise_aux")):
        given["pass_eps"] = jnp.stack([nhwc(inputs[key]) for key in passes])
    return given


class Setting(NamedTuple):
    """What a compiled function is specific to: the family, the case's config as JSON, the student's first index."""

    family: Family
    config: str
    first: int

    def recipe(self, given: dict):
        """The recipe, with the recorded draws `given` in the places of its own."""
        config = json.loads(self.config)
        method = config["train"].get("method", "tadsr" if "discriminator" in config else "sinsr")
        recipe = (
            tadsr_recipe(self.family, config, self.first) if method == "tadsr" else sinsr_recipe(self.family, config)
        )
        return recipe._replace(draw=lambda *arguments: recipe.draw(*arguments) | given)


def setting_of(case, prefix: str = "") -> Setting:
    family = on_latents(family_of(case))
    first = int(case.inputs[f"{prefix}tt"][0]) if f"{prefix}tt" in case.inputs else family.schedule.num_steps - 1
    return Setting(family, json.dumps(case.config, sort_keys=True), first)


@lru_cache(maxsize=8)
def discriminator_shapes(setting: Setting):
    """Abstract variables of the case's discriminator, which depend on the U-Net's features."""
    config, family = json.loads(setting.config), setting.family
    unet = family.networks["denoiser"]
    z = jax.ShapeDtypeStruct((1, unet.image_size, unet.image_size, unet.in_channels), jnp.float32)
    side = unet.image_size * unet.lq_ratio
    batch = Batch(lq=jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), gt=z, extra={"z_y": z, "eps": z})
    recipe = tadsr_recipe(family, config | {"train": {"use_GAN_loss": True, "GAN_weight": 1.0}}, setting.first)

    def init(key, params, batch):
        frozen = {"teacher": params}
        draws = recipe.draw(key, frozen, batch)
        return recipe.adds["discriminator"](key, recipe.generate(params, frozen, batch, draws), draws)

    return jax.eval_shape(init, jax.random.key(0), abstract_variables(unet)["params"], batch)


def variables_of(case, part: str, setting: Setting) -> dict:
    """The part's variables; the discriminator's power-iteration vectors are stored with the case."""
    if part != "discriminator":
        return names.to_flax(setting.family.networks["denoiser"], case.weights(part))
    stored = {name: case.arrays[f"buffers/{name}"] for name in case.spec["buffers"]}
    return names.to_flax(discriminator_shapes(setting), case.weights(part) | stored)


def players(case, setting: Setting):
    """student, frozen, discriminator (or None), stats (or None)."""
    student = variables_of(case, "student", setting)["params"]
    frozen = {"teacher": variables_of(case, "teacher", setting)["params"]}
    if "discriminator" not in case.config:
        return student, frozen, None, None
    variables = dict(variables_of(case, "discriminator", setting))
    return student, frozen, variables.pop("params"), variables


def gradient_outputs(case, part: str, term: str, grads, stats) -> dict:
    """The recorded views of a gradient: norms a parameter in the list's order, the norm over all, whole gradients."""
    public = names.to_torch({"params": grads, **(stats if part == "discriminator" else {})})
    wanted = [name for name in case.shapes(part) if name in public]
    norms = np.array([np.linalg.norm(np.asarray(public[name], np.float64)) for name in wanted])
    made = {f"grad_norms/{term}": norms, f"grad_norm/{term}": np.sqrt(np.sum(norms**2))}
    return made | {f"grad/{term}/{name}": public[name] for name in wanted}


def _evaluate(student, frozen, discriminator, stats, batch, given, *, setting):
    """Both losses once: values a sample, and the gradient of the batch mean of every term."""
    recipe = setting.recipe(given)
    draws = recipe.draw(jax.random.key(0), frozen, batch)
    outputs, pullback = jax.vjp(lambda p: recipe.generate(p, frozen, batch, draws), student)
    logs, grads = {}, {}
    if recipe.discriminator_loss:
        judged = lambda p: recipe.discriminator_loss(p, stats, outputs, frozen, batch, draws)
        grads["loss_d"], (logs, stats) = jax.grad(judged, has_aux=True)(discriminator)

    def terms(outputs):
        return recipe.student_loss(outputs, discriminator, stats, frozen, batch, draws)[1]

    of_terms, new_stats = terms(outputs)
    back = {name: jax.grad(lambda o, name=name: jnp.mean(terms(o)[0][name]))(outputs) for name in of_terms}
    grads |= {name: pullback(cotangent)[0] for name, cotangent in back.items()}
    return {
        "logs": logs | of_terms,
        "grads": grads,
        "back": back,
        "stats": new_stats,
        "outputs": outputs,
        "draws": draws,
    }


def evaluate(case) -> dict:
    """`_evaluate` under the case's names; the terms' weights, which our logs leave out, are put in."""
    setting = setting_of(case)
    out = _evaluate(*players(case, setting), batch_of(case.inputs), recorded_draws(case.inputs), setting=setting)
    options = case.config["train"]
    hsd, gan = options.get("hsd_weight", 1.0), options.get("GAN_weight", 1.0)
    rename = {"hsd": ("mse_hsd", hsd), "sds": ("mse_sds", hsd), "gan": ("GAN_loss", gan), "loss_d": ("loss_D", 1.0)}
    rename |= {"mse_inverse": ("mse_xT", 1.0), "covariance": ("mse_xT_cov", 1.0)}
    made = {"logits_real": out["logs"].pop("logit_real", None), "logits_fake": out["logs"].pop("logit_fake", None)}
    for name, values in out["logs"].items():
        term, weight = rename.get(name, (name, 1.0))
        made[term] = weight * values
        part = "discriminator" if name == "loss_d" else "student"
        made |= gradient_outputs(
            case, part, term, jax.tree.map(lambda g, w=weight: w * g, out["grads"][name]), out["stats"]
        )
    for name in ("hsd", "sds"):
        if name in out["back"]:  # the loss is mean(g z0), so g is its gradient times the number of entries
            made["score_diff"] = nchw(out["back"][name]["z0"] * out["back"][name]["z0"].size)
    made |= {"student_out": nchw(out["outputs"]["z0"]), "pred_zstart": nchw(out["outputs"]["z0"])}
    made |= {"z_start_teacher": nchw(out["draws"]["z_tea"]), "z_t": nchw(out["draws"]["z_T"])}
    return made | buffers_after(out["stats"])


def buffers_after(stats) -> dict:
    return {f"buffers_after/{name}": value for name, value in names.to_torch(stats or {}).items()}


def _optimizers(setting: Setting):
    """The case's optimisers; the student's count starts where `first_iteration` says."""
    options = json.loads(setting.config)["train"]
    warmup, *milestones = options["milestones"]
    rule = train.learning_rate(
        lr=options["lr"], warmup_steps=warmup, milestones=tuple(milestones), first_step_full_rate=True
    )
    rate = lambda count: rule(count + options["first_iteration"] - 1)
    make = partial(
        train.optimizer, betas=tuple(options["betas"]), eps=options["eps"], weight_decay=options["weight_decay"]
    )
    return {"student": make(rate), "discriminator": make(lambda count: options["lr"])}, rate


def steps(case) -> dict:
    """Whole training steps from fresh optimisers."""
    setting = setting_of(case, "step0/")
    optimizers, rate = _optimizers(setting)
    student, frozen, discriminator, stats = players(case, setting)
    params = {"student": student} | ({"discriminator": discriminator} if discriminator else {})
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(0)),
        params=params,
        stats={"discriminator": stats} if stats else {},
        opt_state={name: optimizers[name].init(params[name]) for name in params},
        ema=student,
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )
    options = case.config["train"]
    weights = {"hsd": options.get("hsd_weight"), "sds": options.get("hsd_weight"), "gan": options.get("GAN_weight")}
    rename = {"hsd": "mse_hsd", "sds": "mse_sds", "gan": "GAN_loss", "loss_d": "loss_D", "mse_inverse": "mse_xT"}
    made = {}
    for number in range(options["steps"]):
        prefix = f"step{number}/"
        inputs = {key.removeprefix(prefix): value for key, value in case.inputs.items() if key.startswith(prefix)}
        setting = setting_of(case, prefix)
        made[f"lr/{number}"] = rate(number)
        recipe = setting.recipe(recorded_draws(inputs))
        state, logs = train.train_step(
            state, frozen, batch_of(inputs), recipe=recipe, optimizers=optimizers, ema_decay=options["ema_rate"]
        )
        for name, value in logs.items():
            made[f"{rename.get(name, name)}/{number}"] = value * weights.get(name, 1.0)
    public = {"student": {"params": state.params["student"]}, "ema": {"params": state.ema}}
    if discriminator:
        public["discriminator"] = {"params": state.params["discriminator"], **state.stats["discriminator"]}
    for part, variables in public.items():
        made |= {f"{part}/{name}": value for name, value in names.to_torch(variables).items()}
    return made | buffers_after(state.stats.get("discriminator"))


RUNNERS = {"tadsr_losses": evaluate, "sinsr_losses": evaluate, "train_step": steps}

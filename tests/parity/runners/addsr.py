"""Losses and gradients of AddSR's training, against one iteration of the public trainer."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.convert import names
from tadsr_jax.diffusion import ddpm
from tadsr_jax.networks import abstract_variables, dino, parts, unet_sd
from tadsr_jax.networks.discriminators import ConditionalDiscriminator
from tadsr_jax.recipes import addsr
from tadsr_jax.types import Batch
from tests.parity.runners.compiled import QUICKLY, cached
from tests.parity.runners.layout import nchw, nhwc
from tests.parity.runners.sd_discriminators import backbone_and_heads, unit_vectors
from tests.parity.runners.seesr import denoiser_params, family_of, frozen_params, gradients

NO_HOLE = -1000  # a centre so far outside that nothing of the picture is cut out
FIELDS = ("version", "dim", "depth", "heads", "patch", "image_size", "taps")  # of a vision transformer


class Setting(NamedTuple):
    """What a case's config makes, once for all cases that have it."""

    networks: dict[str, nn.Module]  # by the case's names, less the player
    evaluate: Callable  # _evaluate, jitted


def setting_of(config: dict) -> Setting:
    """Both branches are one program."""
    return _setting({key: config[key] for key in config if key not in ("branch", "trainable")})


@cached
def _setting(**config) -> Setting:
    family, networks = family_of(config)
    networks["dino"] = dino.from_public(**config["dino"])
    networks["dinov2"] = dino.from_public(version=2, **config["dinov2"])
    fields = {name: {key: getattr(networks[name], key) for key in FIELDS} for name in ("dino", "dinov2")}
    fields["dinov2"]["image_size"] = config["dinov2_image_size"]
    options = {"variant": "released", "discriminator": {"cmap_dim": config["cmap_dim"]}} | fields
    # A recipe a term: their gradients are recorded apart, and only one needs the discriminator.
    recipes = {
        "dis": addsr.recipe(family, adversarial=0, **options),
        "gan": addsr.recipe(family, distillation=0, adversarial=config["gan_weight"], **options),
    }
    return Setting(networks, jax.jit(functools.partial(_evaluate, family, recipes), compiler_options=QUICKLY))


def players(case, setting: Setting) -> tuple:
    """student (what is trained of it), frozen, discriminator, and the vectors of its spectral norms."""
    networks = setting.networks
    backbone, heads = backbone_and_heads(unit_vectors(case.weights("discriminator")))
    frozen = {
        "student": denoiser_params(case, networks, "_stu"),
        "teacher": denoiser_params(case, networks, "_tea"),
        **frozen_params(case, networks),
        "dino": names.to_flax(networks["dino"], backbone)["params"],
        "dinov2": names.to_flax(networks["dinov2"], case.weights("dinov2"))["params"],
    }
    network = ConditionalDiscriminator(case.config["cmap_dim"])
    maps = [jax.ShapeDtypeStruct((1, 2, 2, networks["dino"].dim), jnp.float32)] * len(networks["dino"].taps)
    condition = jax.ShapeDtypeStruct((1, case.config["c_dim"]), jnp.float32)
    variables = dict(names.to_flax(abstract_variables(network, maps, condition), heads))
    return parts.picked(frozen["student"], unet_sd.is_trained), frozen, variables.pop("params"), variables


def recorded_draws(case) -> dict:
    """The case's noises and times under the names of the recipe's draws; pictures are judged as they are."""
    inputs, n = case.inputs, len(case.inputs["noise"])
    as_it_is = {
        "translation": jnp.zeros((n, 2), jnp.int32),
        "centre": jnp.full((n, 2), NO_HOLE, jnp.int32),
        "cropped": jnp.zeros((), bool),
        "corner": jnp.zeros((2,), jnp.int32),
    }
    # The public index counts 499, 749, 999.
    first = 2 - np.asarray(inputs["student_index"]) if "student_index" in inputs else np.zeros(n, np.int32)
    return {
        "eps": nhwc(inputs["noise"]),
        "teacher_eps": nhwc(inputs["noise"]),
        "two_step": jnp.asarray(case.config["branch"] == "two_step"),
        "first": jnp.asarray(first, jnp.int32),
        "teacher_t": jnp.asarray(inputs["timesteps_tea"], jnp.int32).reshape(-1, n),
        **dict.fromkeys(addsr.VIEWS, as_it_is),
    }


def batch_of(case, setting: Setting, tagger) -> Batch:
    """The case's pictures; their image states, because those that it gives to the tagger are not of these pictures."""
    inputs = case.inputs
    states = jax.jit(setting.networks["ram"].apply)
    extra = {"text": jnp.asarray(inputs["encoder_hidden_states"])}
    for name, key in (("image_states", "ram_values"), ("gt_image_states", "ram_values_HR")):
        extra[name] = states({"params": tagger}, nhwc(inputs[key]))
    lq = nhwc(inputs["conditioning_pixel_values"]) * 2 - 1
    return Batch(lq=lq, gt=nhwc(inputs["pixel_values"]), extra=extra)


def _evaluate(family, recipes, student, frozen, discriminator, stats, batch, given, vae_noise) -> dict:
    """Both losses once, with all that the trainer computes on its way, and the gradients of everything."""
    schedule, judging = family.schedule, recipes["gan"]
    drawn = [recipe.draw(jax.random.key(0), frozen, batch) for recipe in recipes.values()]
    draws = drawn[0] | drawn[1] | {"z": family.encode(frozen, batch.gt, vae_noise)} | given
    outputs, pullback = jax.vjp(lambda p: judging.generate(p, frozen, batch, draws), student)

    def judged(discriminator, stats, picture):
        """The discriminator's loss, with `picture` in the place of the ground truth."""
        shown = batch.replace(gt=picture)
        return judging.discriminator_loss(discriminator, stats, outputs, frozen, shown, draws)

    grads_d, (logs_d, stats) = jax.grad(judged, has_aux=True)(discriminator, stats, batch.gt)

    def answered(name):
        """Loss, logs, and gradients of a term with respect to the student's outputs and the discriminator."""
        loss = lambda o, d: recipes[name].student_loss(o, d, stats, frozen, batch, draws)
        (value, (logs, _)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(outputs, discriminator)
        return value, logs, *grads

    loss_dis, of_dis, back_dis, _ = answered("dis")
    loss_gan, of_gan, back_gan, leak = answered("gan")
    _, of_picture = jax.vjp(functools.partial(addsr.picture_of, family, frozen), outputs["z0"])
    of_z0 = lambda grads: grads["z0"] + of_picture(grads["image"])[0]
    # The third look of the discriminator is the first of another call, at the picture in the ground truth's place.
    third_look = judged(discriminator, stats, outputs["image"])[1][0]["logit_real"]

    t = jnp.asarray(ddpm.FEW_STEPS)[draws["first"]]
    z_t = schedule.add_noise(draws["z"], t, draws["eps"])
    z0 = family.predict_z0(parts.merged(frozen["student"], student), z_t, t, draws["condition"])
    second = addsr.refined(family, frozen, z0, draws["condition"], weight=1.0, signed=True)
    t_second = jnp.asarray(ddpm.FEW_STEPS)[draws["first"] + 1]
    teacher = (draws[name] for name in ("teacher_t", "teacher_eps", "teacher_condition"))
    maps = {
        "noisy_latents": z_t,
        "x0_stu_SecStep": second["picture"],
        "noisy_latents_second": schedule.add_noise(draws["z"], t_second, draws["eps"]),
        "z0_stu": outputs["z0"],
        "x0_stu": outputs["image"],
        "z0_tea": addsr.teacher_latents(family, frozen["teacher"], outputs["z0"], *teacher),
        "dz0.gan": of_z0(back_gan),
        "dz0.dis": of_z0(back_dis),
    }
    values = {
        "t_TA": jnp.where(draws["two_step"], t, schedule.num_steps),
        "timesteps_stu": t,
        "timesteps_stu_second": t_second,
        "ram_states_second": second["image_states"],
        "cls_lr": draws["class_token"],
        "weight": schedule.signal(draws["teacher_t"]).reshape(-1),
        "loss_real": jnp.mean(jax.nn.relu(1 - logs_d["logit_real"])),
        "loss_fake": jnp.mean(jax.nn.relu(1 + logs_d["logit_fake"])),
        "loss_D": jnp.mean(logs_d["loss_d"]),
        "logits_real": logs_d["logit_real"],
        "logits_fake": third_look,
        "gan_loss": jnp.mean(of_gan["gan"]),
        "loss": loss_dis + loss_gan,
    }
    for number, value in enumerate(of_dis["distillation"], 1):
        values[f"dis_loss{number}"] = value
    of_student = pullback(jax.tree.map(jnp.add, back_dis, back_gan))[0]
    grads = {"D": grads_d, "D_leak": leak, "G": of_student}
    return {"maps": maps, "values": values, "grads": grads}


def addsr_losses(case) -> dict:
    setting = setting_of(case.config)
    student, frozen, discriminator, stats = players(case, setting)
    made = setting.evaluate(
        student,
        frozen,
        discriminator,
        stats,
        batch_of(case, setting, frozen["tagger"]),
        recorded_draws(case),
        nhwc(case.inputs["vae_noise"]),
    )
    outputs = made["values"] | {name: nchw(array) for name, array in made["maps"].items()}
    of_student, of_judge = made["grads"]["G"], lambda name: {"params": made["grads"][name], **stats}
    outputs |= gradients("grad_D", "grad_D_norm", of_judge("D"))
    outputs |= gradients("grad_D_leak", "grad_D_leak_norm", of_judge("D_leak"))
    outputs |= gradients("grad_G", "grad_G_norm_unet", {"params": of_student["unet"]})
    return outputs | gradients("grad_G_controlnet", "grad_G_norm_controlnet", {"params": of_student["controlnet"]})


RUNNERS = {"addsr_losses": addsr_losses}

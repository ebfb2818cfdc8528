"""AddSR: one to four steps, by adversarial distillation of pictures, with a condition that the prediction refines.

    z_t = q(z_gt, eps, t)    z_s = G(z_t, t, c)    x_s = clip(decode(z_s), -1, 1)    c' = refined(c, z_s)

    one step     t = 999, c the low-quality picture
    two steps    a first pass at 999, 749 or 499, of which nothing is learnt, makes c'; then z_s = G(z_t', t', c') at
                 the next lower time t', from the same latent and noise

    L     = distillation TA(s) L_dis + adversarial L_G                                   [AddSR, arXiv 2404.01717]
    L_dis = mean_k sqrt(abar_k) mean((x_k - x_s)^2), pictures in [0, 1]                   losses.distillation
    L_G   = -mean D(x_s, y)                                                               losses.hinge_generator
    L_D   = mean relu(1 - D(x_gt, y)) + mean relu(1 + D(sg[x_s], y))                      losses.hinge_discriminator
    TA(s) = 0.5 2.1^(s - 1) at the s-th of the times 999, 749, 499, 249                   losses.time_adaptive_weight

x_k is what the teacher, which is shown the ground truth, makes of z_s with the noise of a random time k; y the class
token of the low-quality picture (DINOv2); D reads maps of a frozen DINO, of pictures that DiffAugment moved and cut.
The student learns in part (`unet_sd.is_trained`): its parameters are those leaves, `frozen["student"]` the whole tree.
Where the released code departs from the paper or from its own sampling, that is an option; VARIANTS sets them all.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from tadsr_jax import losses
from tadsr_jax.diffusion.ddpm import FEW_STEPS
from tadsr_jax.families import seesr_sampling
from tadsr_jax.families.seesr import Words
from tadsr_jax.networks import configured, diffaugment, parts
from tadsr_jax.networks import dino as vits
from tadsr_jax.networks.discriminators import ConditionalDiscriminator
from tadsr_jax.networks.unet_sd import is_trained
from tadsr_jax.recipes import objectives, targets
from tadsr_jax.types import Recipe

# What the public training code does against the paper, and against the public sampling code.
VARIANTS = {
    "paper": {"psr_weight": seesr_sampling.REFINEMENT, "psr_range": "unit", "ta_step": "own"},
    "released": {
        "psr_weight": 1.0,  # the prediction alone, which sampling mixes with the low-quality picture
        "psr_range": "signed",  # in [-1, 1], to networks that take pictures in [0, 1]
        "ta_step": "first",  # of the pass without gradient; one step alone counts as the fourth
    },
}
RANGES, STEPS, NOISES, STARTS = ("unit", "signed"), ("own", "first"), ("same", "fresh"), ("gt", "lq")
VIEWS = ("view_real", "view_fake", "view_gan")  # each look of the discriminator has an augmentation of its own


def backbones(*, dino: dict | None = None, dinov2: dict | None = None) -> dict[str, vits.VisionTransformer]:
    """The frozen transformers that the discriminator reads, by their names in `frozen`; ViT-S but for these fields."""
    sizes = {"dino": vits.SIZES["dino_vits16"], "dinov2": vits.SIZES["dinov2_vits14"] | {"taps": ()}}
    given = {"dino": dino, "dinov2": dinov2}
    return {
        name: configured(vits.VisionTransformer, f"config.losses.{name}", sizes[name] | (given[name] or {}))
        for name in sizes
    }


def picture_of(family: Words, frozen, z0):
    """The picture of a latent, clipped to [-1, 1]."""
    return jnp.clip(family.decode(frozen, z0), -1, 1)


def refined(family: Words, frozen, z0, condition: dict, *, weight: float, signed: bool = False) -> dict:
    """The condition of the next pass, which the prediction has refined (PSR), as in sampling    [AddSR].

    `signed`: the prediction in [-1, 1], which networks that take pictures in [0, 1] are shown as it is.
    """
    x = picture_of(family, frozen, z0)
    return seesr_sampling.refine(family, frozen, x if signed else x / 2 + 0.5, condition, share=weight)


def teacher_latents(family: Words, params, z0, t, eps, condition: dict):
    """What a teacher makes of z0 with noise of the times t (k, b): (k, b, h, w, c); eps the same shape or one less.

    A loop, so that the program holds the teacher once.
    """
    eps = jnp.broadcast_to(eps, (*t.shape, *z0.shape[1:]))

    def predict(draws):
        return family.predict_z0(params, family.schedule.add_noise(z0, *draws), draws[0], condition)

    return lax.map(predict, (t, eps))


def recipe(
    family: Words,
    *,
    variant: str = "paper",
    distillation: float = 1.0,
    adversarial: float = 0.02,
    two_step: float = 0.5,
    start: str = "gt",
    psr_weight: float | None = None,
    psr_range: str | None = None,
    ta_weight: str = "exponential",
    ta_step: str | None = None,
    teacher_condition: str = "gt",
    teacher_passes: int = 4,
    teacher_noise: str = "same",
    discriminator: dict | None = None,
    dino: dict | None = None,
    dinov2: dict | None = None,
) -> Recipe:
    """AddSR's distillation. Weights of 0 take a term out of the program; the defaults are the paper's.

    Batches: lq may be of the size of gt, enlarged already; `extra` may have the words as "tokens" (or as states,
    "text"), and the tagger's states of lq and gt as "image_states" and "gt_image_states".

    variant             "paper" or "released": presets for the options that are None here
    distillation, adversarial   weights of the two terms
    two_step            how often a batch has two steps, 0 to 1
    start               the latent that the student's passes start from with noise: of "gt", or of "lq"
    psr_weight          share of the prediction in the second step's picture, 0 to 1
    psr_range           the prediction's range there: "unit", as in sampling, or "signed"
    ta_weight           "exponential", or "linear": 0.2 s + 0.5
    ta_step             s of two steps: the "own" one, that is learnt from, or the "first" (and 4 for a step alone)
    teacher_condition   the picture that the teacher is shown: "gt", or "lq"
    teacher_passes      random times at which it is asked
    teacher_noise       its noise: the "same" as the student's, or "fresh"
    discriminator       fields of `networks.discriminators.ConditionalDiscriminator`: cmap_dim, dtype
    dino, dinov2        fields of `networks.dino.VisionTransformer` where they are not ViT-S's
    """
    schedule = family.schedule
    objectives.check_weights(distillation=distillation, adversarial=adversarial)
    if schedule.num_steps <= FEW_STEPS[0]:
        raise ValueError(f"config.diffusion.num_steps is {schedule.num_steps}; AddSR's times need 1000 steps.")
    preset = VARIANTS[targets.choice("variant", variant, VARIANTS)]
    psr_weight = preset["psr_weight"] if psr_weight is None else psr_weight
    for name, value in (("two_step", two_step), ("psr_weight", psr_weight)):
        if not 0 <= value <= 1:
            raise ValueError(f"config.losses.{name} is {value}; expected 0 to 1.")
    signed = targets.choice("psr_range", psr_range or preset["psr_range"], RANGES) == "signed"
    ta_step = targets.choice("ta_step", ta_step or preset["ta_step"], STEPS)
    targets.choice("ta_weight", ta_weight, losses.TIME_ADAPTIVE)
    targets.choice("start", start, STARTS)
    targets.choice("teacher_condition", teacher_condition, targets.CONDITIONS)
    targets.choice("teacher_noise", teacher_noise, NOISES)
    if teacher_passes < 1:
        raise ValueError(f"config.losses.teacher_passes is {teacher_passes}; expected 1 or more (published: 4).")
    network = configured(ConditionalDiscriminator, "config.losses.discriminator", discriminator or {})
    vit = backbones(dino=dino, dinov2=dinov2)
    size = vit["dino"].image_size

    def draw(key, frozen, batch):
        batch = targets.enlarged(batch)
        key_z, key_eps, key_branch, key_first, key_t, key_m, *keys = jax.random.split(key, 6 + len(VIEWS))
        condition, of_teacher = targets.conditions(family, frozen, batch, teacher=teacher_condition)
        shape = jax.eval_shape(family.encode, frozen, batch.gt).shape
        noise = jax.random.normal(key_z, shape)
        draws = {
            "condition": condition,
            "z": family.encode(frozen, batch.gt if start == "gt" else batch.lq, noise),
            "eps": jax.random.normal(key_eps, shape),
            "two_step": jax.random.bernoulli(key_branch, float(two_step)),
            "first": jax.random.randint(key_first, shape[:1], 0, len(FEW_STEPS) - 1),
        }
        if distillation:
            draws["teacher_condition"] = of_teacher
            draws["teacher_t"] = jax.random.randint(key_t, (teacher_passes, shape[0]), 0, schedule.num_steps)
            draws["teacher_eps"] = draws["eps"]
            if teacher_noise == "fresh":
                draws["teacher_eps"] = jax.random.normal(key_m, (teacher_passes, *shape))
        if adversarial:
            enlarged = vits.enlarge(condition["picture"], vit["dinov2"].image_size)
            seen = vit["dinov2"].apply({"params": frozen["dinov2"]}, enlarged)
            draws["class_token"] = seen.class_token.astype(jnp.float32)
            draws |= {view: diffaugment.draw(key, batch.gt.shape, size=size) for view, key in zip(VIEWS, keys)}
        return draws

    def last_step(draws):
        """Index in FEW_STEPS of the pass that is learnt from."""
        return jnp.where(draws["two_step"], draws["first"] + 1, 0)

    def predict(params, draws, step, condition):
        """G(z_t, t, c) at the times of these indices."""
        t = jnp.asarray(FEW_STEPS)[step]
        return family.predict_z0(params, schedule.add_noise(draws["z"], t, draws["eps"]), t, condition)

    def generate(student, frozen, batch, draws):
        params, told = parts.merged(frozen["student"], student), draws["condition"]
        fixed = lax.stop_gradient(params)

        def after_first_pass():
            z0 = predict(fixed, draws, draws["first"], told)
            return refined(family, frozen, z0, told, weight=psr_weight, signed=signed)

        condition = lax.cond(draws["two_step"], after_first_pass, lambda: told)
        z0 = predict(params, draws, last_step(draws), condition)
        return {"z0": z0, "image": picture_of(family, frozen, z0)}

    def weight(draws):
        """TA(s), (b,)."""
        step = last_step(draws)
        if ta_step == "first":
            step = jnp.where(draws["two_step"], draws["first"], len(FEW_STEPS) - 1)
        return losses.time_adaptive_weight(step + 1, form=ta_weight)

    def teacher_pictures(z0, frozen, draws):
        """x_k in [0, 1], (k, b, h, w, 3)."""
        given = (draws[name] for name in ("teacher_t", "teacher_eps", "teacher_condition"))
        latents = teacher_latents(family, frozen["teacher"], z0, *given)
        return lax.map(partial(picture_of, family, frozen), latents) / 2 + 0.5

    def maps(picture, frozen, view):
        """The frozen transformer's maps of pictures in [-1, 1], augmented."""
        x = diffaugment.augment(picture, view) / 2 + 0.5
        x = vits.normalize(diffaugment.view(x, view, size=size))
        return vit["dino"].apply({"params": frozen["dino"]}, x).maps

    def init_discriminator(key, outputs, draws):
        side = size // vit["dino"].patch
        seen = jnp.zeros((1, side, side, vit["dino"].dim))
        return network.init(key, [seen] * len(vit["dino"].taps), draws["class_token"][:1], update_stats=False)

    def discriminator_loss(params, stats, outputs, frozen, batch, draws):
        real = maps(batch.gt, frozen, draws["view_real"])
        fake = maps(outputs["image"], frozen, draws["view_fake"])
        return objectives.judged(network, params, stats, real, fake, draws["class_token"])

    def student_loss(outputs, discriminator, stats, frozen, batch, draws):
        terms = {}
        if distillation:
            signal = schedule.signal(draws["teacher_t"])[..., 0, 0, 0]
            x_k = teacher_pictures(lax.stop_gradient(outputs["z0"]), frozen, draws)
            distance = losses.distillation(outputs["image"] / 2 + 0.5, x_k, signal)
            terms["distillation"] = distillation, weight(draws) * distance
        if adversarial:
            fake = maps(outputs["image"], frozen, draws["view_gan"])
            gan, stats = objectives.answered(network, discriminator, stats, fake, draws["class_token"])
            terms["gan"] = adversarial, gan
        return objectives.weighted(terms, stats)

    return Recipe(
        adds={"discriminator": init_discriminator} if adversarial else {},
        frozen=("student", "teacher", "autoencoder", "text_encoder", "tagger", *(vit if adversarial else ())),
        draw=draw,
        generate=generate,
        student_loss=student_loss,
        discriminator_loss=discriminator_loss if adversarial else None,
        sample_steps=len(FEW_STEPS),
        longest=len(FEW_STEPS),
        trained=is_trained,
        reads=vit if adversarial else {},
    )

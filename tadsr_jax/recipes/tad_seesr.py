"""TAD-SeeSR: TAD-SR for SeeSR's networks, one step from many by regression, score distillation and a discriminator.

    z_T = start(z_gt, eps)    z_s = G(z_T, T-1, lq)    z* = the teacher's picture, encoded    q(z, m, t): z noised by m

    L     = regression L_reg + score L_HSD + adversarial L_G                                 [TAD-SR, arXiv 2408.07476]
    L_reg = mse(z_s, z*)                                                                     losses.mse
    L_HSD = mean(sg[e(q(z_s, m, t)) - e(q(z*, m, t))] z_s)                                   losses.score_distillation
    L_G   = -mean D(E(q(z_s, m_d, t_d)), t_d)                                                losses.hinge_generator
    L_D   = mean relu(1 - D(E(q(z_gt, m_d, t_d)), t_d)) + mean relu(1 + D(E(q(sg[z_s], m_d, t_d)), t_d))
                                                                                             losses.hinge_discriminator
e is the noise that the teacher sees, E the maps of its way down; it is shown the ground truth, the student lq.
The student learns in part (`unet_sd.is_trained`): its parameters are those leaves, `frozen["student"]` the whole tree.
The released code has batches of one picture; here the terms are means over the batch. It has no other variant.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from tadsr_jax.diffusion.ddpm import FEW_STEPS
from tadsr_jax.families.seesr import Words
from tadsr_jax.networks import configured, parts
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.networks.unet_sd import is_trained
from tadsr_jax.recipes import objectives, targets
from tadsr_jax.types import Batch, Recipe

TIMES = tuple(range(20, 881, 20))  # the public 44, of 1000
DISCRIMINATOR = {"c_dim": 320, "embed_dim": 320}  # the public one's
TARGETS = ("tch", "gt")


def teacher_pictures(batch: Batch):
    """What the teacher made of lq, stored with the data."""
    if "tch" not in batch.extra:
        raise ValueError(
            "The batch lacks the teacher's pictures (tch): store them with the data, or set config.losses.target='gt'."
        )
    return batch.extra["tch"]


def teacher_eps(family: Words, params, latents, t, eps, condition: dict):
    """e(q(z, eps, t)), the noise that a teacher sees in each of `latents` (k, b, h, w, c), all noised alike.

    A loop, so that the program holds the teacher once: it is the largest thing in it.
    """
    add_noise = family.schedule.add_noise
    return lax.map(lambda z: family.predict_eps(params, add_noise(z, t, eps), t, condition), latents)


def recipe(
    family: Words,
    *,
    regression: float = 0.2,
    score: float = 1.0,
    adversarial: float = 0.2,
    target: str = "tch",
    times: Sequence[int] = TIMES,
    teacher_condition: str = "gt",
    discriminator: dict | None = None,
) -> Recipe:
    """TAD-SeeSR's distillation. Weights of 0 take a term out of the program; the defaults are the public ones.

    Batches: lq may be of the size of gt, enlarged already; `extra` has the teacher's pictures "tch" (b, h, w, 3) in
    [-1, 1], made once, and may have the words as "tokens" (or as states, "text"), and the tagger's states of lq and gt
    as "image_states" and "gt_image_states".

    regression, score, adversarial   weights of the three terms
    target              z* of the regression and of the score term: "tch", or "gt" for the ground truth
    times               steps of which the discriminator's inputs and the score term each draw one for the whole batch
    teacher_condition   the picture that the teacher is shown: "gt", or "lq" (the public `ram_input_different`)
    discriminator       fields of `networks.discriminators.TimeAwareDiscriminator`: c_dim, embed_dim, dtype
    """
    schedule, last = family.schedule, family.schedule.num_steps - 1
    weights = {"regression": regression, "score": score, "adversarial": adversarial}
    objectives.check_weights(**weights)
    targets.choice("target", target, TARGETS)
    targets.choice("teacher_condition", teacher_condition, targets.CONDITIONS)
    if not len(times) or min(times) < 0 or max(times) > last:
        raise ValueError(f"config.losses.times is {tuple(times)}; expected one or more steps from 0 to {last}.")
    network = configured(TimeAwareDiscriminator, "config.losses.discriminator", DISCRIMINATOR | (discriminator or {}))

    def draw(key, frozen, batch):
        batch = targets.enlarged(batch)
        key_gt, key_target, key_start, key_td, key_md, key_t, key_m = jax.random.split(key, 7)
        shape = jax.eval_shape(family.encode, frozen, batch.gt).shape
        encode = lambda key, picture: family.encode(frozen, picture, jax.random.normal(key, shape))
        one_time = lambda key: jnp.full(shape[:1], jax.random.choice(key, jnp.asarray(times, jnp.int32)))
        condition, of_teacher = targets.conditions(family, frozen, batch, teacher=teacher_condition)
        draws = {
            "condition": condition,
            "teacher_condition": of_teacher,
            "z_gt": encode(key_gt, batch.gt),
            "eps": jax.random.normal(key_start, shape),
            "disc_t": one_time(key_td),
            "disc_eps": jax.random.normal(key_md, shape),
            "score_t": one_time(key_t),
            "score_eps": jax.random.normal(key_m, shape),
        }
        if target == "tch" and (regression or score):
            draws["z_tch"] = encode(key_target, teacher_pictures(batch))
        return draws

    def z_student(params, frozen, draws):
        """z_s."""
        # As in the released code, training starts from the ground truth's latent and sampling from that of lq: at step
        # T-1 either is 0.07 of z_T, the rest is noise.
        z_T = schedule.start(draws["z_gt"], draws["eps"])
        return family.predict_z0(parts.merged(frozen["student"], params), z_T, last, draws["condition"])

    def z_target(draws):
        """z*."""
        return draws["z_tch"] if target == "tch" else draws["z_gt"]

    def teacher_features(z, frozen, draws):
        """The maps of the teacher's way down of z, noised for the discriminator."""
        z_t = schedule.add_noise(z, draws["disc_t"], draws["disc_eps"])
        return family.features(frozen["teacher"], z_t, draws["disc_t"], draws["teacher_condition"])

    def score_difference(z0, frozen, draws):
        """g of `losses.score_distillation`."""
        given = (draws[name] for name in ("score_t", "score_eps", "teacher_condition"))
        of_student, of_target = teacher_eps(family, frozen["teacher"], jnp.stack([z0, z_target(draws)]), *given)
        return of_student - of_target

    return Recipe(
        frozen=("student", "teacher", "autoencoder", "text_encoder", "tagger"),
        draw=draw,
        longest=len(FEW_STEPS),
        trained=is_trained,
        **objectives.latent_distillation(
            network,
            **weights,
            z_student=z_student,
            z_target=z_target,
            score_difference=score_difference,
            features=teacher_features,
        ),
    )

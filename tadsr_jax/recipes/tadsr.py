"""TAD-SR: one step from many by regression, score distillation at small noise, and a time-aware discriminator.

    z_T = start(z_y, eps)    z_s = G(z_T, T-1)    z_tea = deterministic(teacher, z_T)    q(z, m, t): z noised by m at t

    L     = regression L_reg + score L_HSD + adversarial L_G                                 [arXiv 2408.07476, Eq. 12]
    L_reg = mse(z_s, z_tea)                                                                  losses.mse
    L_HSD = mean(sg[e(q(z_s, m, t)) - e(q(z_tea, m, t))] z_s)                                losses.score_distillation
    L_G   = -mean D(E(q(z_s, m_d, t_d)), t_d)                                                losses.hinge_generator
    L_D   = mean relu(1 - D(E(q(z_gt, m_d, t_d)), t_d)) + mean relu(1 + D(E(q(sg[z_s], m_d, t_d)), t_d))
                                                                                             losses.hinge_discriminator
e is the noise that the teacher sees, at a small t; E the teacher's encoder, at any t_d; sg stops the gradient.

The full text of the paper was not at hand; where the released code departs from what is known of it, that is an option,
and `variant` sets them all (VARIANTS).
"""

import jax
import jax.numpy as jnp

from tadsr_jax.networks import configured
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.recipes import objectives, targets
from tadsr_jax.types import Family, Recipe

# What the public code does against its paper. Numbers of times: how many of the lowest indices are drawn from, 0 being
# all of them, and -1 all but the last.
VARIANTS = {
    "paper": {
        "score_input_scaling": "once",
        "score_noise": "normal",
        "discriminator_noise": "normal",
        "discriminator_times": 0,
        "start_noise": "own",
    },
    "released": {
        "score_input_scaling": "twice",  # the sampler scales an input that was scaled already
        "score_noise": "uniform",  # rand_like, in [0, 1), where randn_like was meant
        "discriminator_noise": "uniform",
        "discriminator_times": -1,  # randint's upper end is exclusive: the last index is never drawn
        "start_noise": "last",
    },
}
SCALINGS, NOISES, STARTS = ("once", "twice"), ("normal", "uniform"), ("own", "last")
SCORES, SCORE_TARGETS = ("hsd", "sds"), ("teacher", "gt")


def _times(name: str, value: int, num_steps: int) -> int:
    """How many of the lowest step indices are drawn from."""
    count = {0: num_steps, -1: num_steps - 1}.get(value, value)
    if not 1 <= count <= num_steps:
        raise ValueError(
            f"config.losses.{name} is {value}; expected 1 to {num_steps}, 0 (all), or -1 (all but the last)."
        )
    return count


def recipe(
    family: Family,
    *,
    variant: str = "paper",
    regression: float = 1.0,
    score: float = 1.0,
    adversarial: float = 0.02,
    score_kind: str = "hsd",
    score_target: str = "teacher",
    score_times: int = 3,
    score_input_scaling: str | None = None,
    score_noise: str | None = None,
    discriminator_times: int | None = None,
    discriminator_noise: str | None = None,
    discriminator: dict | None = None,
    teacher_sampling: str = "deterministic",
    student_times: tuple[int, ...] | None = None,
    start_noise: str | None = None,
) -> Recipe:
    """TAD-SR's distillation. Weights of 0 take a term out of the program; the defaults are the paper's for x4.

    variant                 "paper" or "released": presets for the options that are None here
    regression, score, adversarial   weights of the three terms (faces: 1, 0.1, 0.2)
    score_kind              "hsd", or "sds" for comparison: e(q(z_s, m, t)) - m
    score_target            "teacher", or "gt": the ground truth in the place of z_tea in the score term
    score_times             the score term draws t from this many lowest indices; 0 all, -1 all but the last (which is
                            what the released code draws from with its `uniform_sampling`)
    score_input_scaling     "once", or "twice": the teacher's input divided by its standard deviation twice
    score_noise             "normal", or "uniform" in [0, 1)
    discriminator_times, discriminator_noise   the same for the discriminator's inputs
    discriminator           fields of `networks.discriminators.TimeAwareDiscriminator`: c_dim, embed_dim, dtype
    teacher_sampling        "deterministic" or "stochastic"
    student_times           start indices, one drawn a batch (public: 3, 7, 11, 14); None: always T-1
    start_noise             with student_times: the noise level of the student's "own" index, or of the "last" one
    """
    schedule, last = family.schedule, family.schedule.num_steps - 1
    weights = {"regression": regression, "score": score, "adversarial": adversarial}
    objectives.check_weights(**weights)
    preset = VARIANTS[targets.choice("variant", variant, VARIANTS)]
    scaling = targets.choice("score_input_scaling", score_input_scaling or preset["score_input_scaling"], SCALINGS)
    score_noise = targets.choice("score_noise", score_noise or preset["score_noise"], NOISES)
    disc_noise = targets.choice("discriminator_noise", discriminator_noise or preset["discriminator_noise"], NOISES)
    start_noise = targets.choice("start_noise", start_noise or preset["start_noise"], STARTS)
    if discriminator_times is None:
        discriminator_times = preset["discriminator_times"]
    targets.choice("score_kind", score_kind, SCORES)
    targets.choice("score_target", score_target, SCORE_TARGETS)
    targets.check_sampling(teacher_sampling)
    score_count = _times("score_times", score_times, last + 1)
    disc_count = _times("discriminator_times", discriminator_times, last + 1)
    for t in student_times or ():
        if not 0 <= t <= last:
            raise ValueError(f"config.losses.student_times holds {t}; expected indices from 0 to {last}.")
    if student_times and teacher_sampling != "deterministic":
        raise ValueError("config.losses.student_times needs teacher_sampling='deterministic'.")
    network = configured(TimeAwareDiscriminator, "config.losses.discriminator", discriminator or {})

    def draw_noise(key, shape, kind):
        return jax.random.normal(key, shape) if kind == "normal" else jax.random.uniform(key, shape)

    def draw(key, frozen, batch):
        key_target, key_start, key_t, key_m, key_td, key_md = jax.random.split(key, 6)
        first = jax.random.choice(key_start, jnp.asarray(student_times)) if student_times else None
        start = first if start_noise == "own" else None
        draws = targets.draw(family, key_target, frozen, batch, sampling=teacher_sampling, first=first, start=start)
        shape = draws["z_gt"].shape
        return draws | {
            "first": jnp.asarray(last if first is None else first),
            "score_t": jax.random.randint(key_t, shape[:1], 0, score_count),
            "score_eps": draw_noise(key_m, shape, score_noise),
            "disc_t": jax.random.randint(key_td, shape[:1], 0, disc_count),
            "disc_eps": draw_noise(key_md, shape, disc_noise),
        }

    def z_student(params, frozen, draws):
        """z_s."""
        return family.predict_z0(params, draws["z_T"], draws["first"], draws["condition"])

    def encoder_features(z, frozen, draws):
        """The teacher's encoder maps of z, noised for the discriminator."""
        z_t = schedule.add_noise(z, draws["condition"]["z_y"], draws["disc_t"], draws["disc_eps"])
        return family.features(frozen["teacher"], z_t, draws["disc_t"], draws["condition"])

    def teacher_eps(z, frozen, draws):
        """e(q(z, m, t)): the noise that the teacher sees in z, noised for the score term."""
        t, condition = draws["score_t"], draws["condition"]
        z_t = schedule.add_noise(z, condition["z_y"], t, draws["score_eps"])
        # The released code hands its sampler an input that is scaled already; the outer formula keeps z_t itself.
        seen = schedule.scale_input(z_t, condition["z_y"], t) if scaling == "twice" else z_t
        z0 = family.predict_z0(frozen["teacher"], seen, t, condition)
        return schedule.eps_from_z0(z_t, condition["z_y"], t, z0)

    def score_difference(z0, frozen, draws):
        """g of `losses.score_distillation`."""
        if score_kind == "sds":
            return teacher_eps(z0, frozen, draws) - draws["score_eps"]
        target = draws["z_tea"] if score_target == "teacher" else draws["z_gt"]
        return teacher_eps(z0, frozen, draws) - teacher_eps(target, frozen, draws)

    return Recipe(
        frozen=("teacher", "autoencoder"),
        draw=draw,
        first_step_full_rate=variant == "released",
        **objectives.latent_distillation(
            network,
            **weights,
            z_student=z_student,
            z_target=lambda draws: draws["z_tea"],
            score_difference=score_difference,
            features=encoder_features,
            score_kind=score_kind,
        ),
    )

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.recipes import tadsr
from tests.toys import SHAPE, STUDENT, TEACHER, normal, randomised, tiny_batch, tiny_family, toy_batch, toy_family

FAMILY = toy_family()
ETA, KAPPA, LAST = FAMILY.schedule.eta, 0.5, 3
FACTOR = 1 / np.sqrt(KAPPA**2 * ETA + 1)  # the input's
FROZEN = {"teacher": TEACHER, "autoencoder": {}}
BATCH = toy_batch()
KEY = jax.random.key(0)
SMALL = {"discriminator": {"c_dim": 2, "embed_dim": 8}}
NEAR = {"rtol": 2e-4, "atol": 1e-5}  # float32; the noise of the least noisy step magnifies rounding by 1/0.016


def recipe(family=FAMILY, **options):
    return tadsr.recipe(family, **(SMALL | options))


def column(values):
    return np.asarray(values)[:, None, None, None]


def discriminator_of(made, outputs, draws):
    """Parameters and statistics of a discriminator that has seen some training."""
    variables = dict(randomised(jax.eval_shape(made.adds["discriminator"], KEY, outputs, draws)))
    return variables.pop("params"), variables


def parts(made, *, student=STUDENT, batch=BATCH, draws=None):
    """What a step computes: (draws, outputs, logs of both losses)."""
    draws = made.draw(KEY, FROZEN, batch) | (draws or {})
    outputs = made.generate(student, FROZEN, batch, draws)
    logs, params, stats = {}, None, None
    if made.discriminator_loss:
        params, stats = discriminator_of(made, outputs, draws)
        _, (logs, stats) = made.discriminator_loss(params, stats, outputs, FROZEN, batch, draws)
    _, (more, _) = made.student_loss(outputs, params, stats, FROZEN, batch, draws)
    return draws, outputs, logs | more


@functools.cache
def default_parts():
    return parts(recipe())


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_targets_are_the_teachers_deterministic_samples_from_the_students_start():
    draws, _, _ = default_parts()
    z_y = np.asarray(BATCH.lq)
    z = z_y + KAPPA * np.sqrt(ETA[LAST]) * np.asarray(draws["eps"])
    np.testing.assert_allclose(draws["z_T"], z, rtol=1e-5, atol=1e-6)
    for t in (3, 2, 1, 0):
        before = np.sqrt(ETA[t - 1]) if t else 0.0
        m, j = before / np.sqrt(ETA[t]), before**2 - before * np.sqrt(ETA[t])
        z = (1 - m - j) * (0.6 * FACTOR[t] * z + 0.1 * t) + m * z + j * z_y
    np.testing.assert_allclose(draws["z_tea"], z, rtol=1e-4, atol=1e-5)


def many(made, name):
    """The draws `name` of a large batch."""
    batch = jax.tree.map(lambda leaf: jnp.zeros((2000, 1, 1, 1)), BATCH)
    return np.asarray(made.draw(KEY, FROZEN, batch)[name])


def test_the_paper_scores_at_the_three_least_noisy_steps_and_judges_at_all():
    assert set(many(recipe(), "score_t")) == {0, 1, 2}
    assert set(many(recipe(), "disc_t")) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["score_eps", "disc_eps"])
def test_the_papers_noise_is_normal_and_the_released_one_uniform(name):
    paper, released = many(recipe(), name), many(recipe(variant="released"), name)
    assert abs(paper.mean()) < 0.1 and abs(paper.std() - 1) < 0.1  # of 2000 numbers: deviations of 0.02
    assert 0 <= released.min() < 0.01 and 0.99 < released.max() < 1


def test_the_released_discriminator_never_sees_the_last_step():
    assert set(many(recipe(variant="released"), "disc_t")) == {0, 1, 2}


@pytest.mark.parametrize(("value", "times"), [(1, {0}), (0, {0, 1, 2, 3}), (-1, {0, 1, 2})])
def test_score_times_counts_the_least_noisy_steps(value, times):
    assert set(many(recipe(score_times=value), "score_t")) == times


def test_the_draws_are_those_of_the_key():
    made = recipe()
    again = made.draw(KEY, FROZEN, BATCH)
    jax.tree.map(np.testing.assert_array_equal, again, default_parts()[0])
    assert not np.allclose(made.draw(jax.random.key(1), FROZEN, BATCH)["eps"], again["eps"])


# ---- starting earlier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start_noise", "level"), [("own", 1), ("last", 3)])
def test_the_student_may_start_earlier_with_the_noise_of_its_own_step_or_of_the_last(start_noise, level):
    made = recipe(student_times=(1,), start_noise=start_noise)
    draws, outputs, _ = parts(made)
    z_y, eps = np.asarray(BATCH.lq), np.asarray(draws["eps"])
    z_T = z_y + KAPPA * np.sqrt(ETA[level]) * eps
    np.testing.assert_allclose(draws["z_T"], z_T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["z0"], 0.9 * FACTOR[1] * z_T + 0.05 * 1, rtol=1e-5, atol=1e-6)
    # The teacher takes the steps 1 and 0.
    m, j = np.sqrt(ETA[0] / ETA[1]), ETA[0] - np.sqrt(ETA[0] * ETA[1])
    z = (1 - m - j) * (0.6 * FACTOR[1] * z_T + 0.1) + m * z_T + j * z_y
    np.testing.assert_allclose(draws["z_tea"], 0.6 * FACTOR[0] * z, rtol=1e-4, atol=1e-5)


def test_the_released_start_has_the_last_noise_and_the_papers_its_own():
    paper, released = (parts(recipe(student_times=(1,), variant=name))[0] for name in ("paper", "released"))
    own, last = (recipe(student_times=(1,), start_noise=name).draw(KEY, FROZEN, BATCH) for name in ("own", "last"))
    np.testing.assert_array_equal(paper["z_T"], own["z_T"])
    np.testing.assert_array_equal(released["z_T"], last["z_T"])


def test_every_one_of_the_students_times_is_drawn():
    made = recipe(student_times=(0, 2))
    draw = jax.jit(lambda key: made.draw(key, FROZEN, BATCH)["first"])
    assert {int(draw(jax.random.key(i))) for i in range(12)} == {0, 2}


# ---- the losses ------------------------------------------------------------------------------------------------------


def gradient_of(made, name, outputs, draws):
    """Of the summed term, with respect to the student's output, times the number of entries of a sample."""

    def term(z0):
        _, (logs, _) = made.student_loss(outputs | {"z0": z0}, None, None, FROZEN, BATCH, draws)
        return logs[name].sum()

    return jax.grad(term)(outputs["z0"]) * np.prod(SHAPE[1:])


def teacher_eps(z, draws, *, scaled_twice=False):
    """e(q(z, m, t)) of the toy teacher, in NumPy."""
    t = np.asarray(draws["score_t"])
    eta, factor, z_y = column(ETA[t]), column(FACTOR[t]), np.asarray(BATCH.lq)
    u = z + eta * (z_y - z) + KAPPA * np.sqrt(eta) * np.asarray(draws["score_eps"])
    z0 = 0.6 * factor * (u * factor if scaled_twice else u) + 0.1 * column(t)
    return (u - (1 - eta) * z0 - eta * z_y) / (KAPPA * np.sqrt(eta))


@pytest.mark.parametrize("scaling", ["once", "twice"])
@pytest.mark.parametrize("target", ["teacher", "gt"])
def test_the_gradient_of_hsd_is_the_teachers_noise_in_the_student_less_that_in_the_target(scaling, target):
    made = recipe(adversarial=0, score_input_scaling=scaling, score_target=target)
    draws, outputs, _ = parts(made)
    wanted = draws["z_tea"] if target == "teacher" else BATCH.gt
    of_student, of_target = (
        teacher_eps(np.asarray(z), draws, scaled_twice=scaling == "twice") for z in (outputs["z0"], wanted)
    )
    np.testing.assert_allclose(gradient_of(made, "hsd", outputs, draws), of_student - of_target, **NEAR)


def test_the_gradient_of_sds_is_the_teachers_noise_less_the_one_that_was_added():
    made = recipe(adversarial=0, score_kind="sds")
    draws, outputs, _ = parts(made)
    g = teacher_eps(np.asarray(outputs["z0"]), draws) - np.asarray(draws["score_eps"])
    np.testing.assert_allclose(gradient_of(made, "sds", outputs, draws), g, **NEAR)


def test_the_noise_of_hsd_cancels_for_a_linear_teacher_and_that_of_sds_does_not():
    grads = {"hsd": [], "sds": []}
    for kind in grads:
        made = recipe(adversarial=0, score_kind=kind)
        for noise in (normal(1), normal(2)):
            draws, outputs, _ = parts(made, draws={"score_eps": noise})
            grads[kind].append(gradient_of(made, kind, outputs, draws))
    np.testing.assert_allclose(*grads["hsd"], **NEAR)
    assert np.abs(grads["sds"][0] - grads["sds"][1]).max() > 0.1


def test_a_student_that_answers_as_the_teacher_has_no_hsd_gradient():
    made = recipe(adversarial=0)
    draws, outputs, _ = parts(made)
    gradient = gradient_of(made, "hsd", outputs | {"z0": draws["z_tea"]}, draws)
    np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    _, _, logs = parts(recipe(regression=2.0, score=0.5, adversarial=0.1))
    want = 2 * logs["mse"] + 0.5 * logs["hsd"] + 0.1 * logs["gan"]
    np.testing.assert_allclose(logs["loss"], want, rtol=1e-5)
    _, _, default = default_parts()
    np.testing.assert_allclose(default["loss"], default["mse"] + default["hsd"] + 0.02 * default["gan"], rtol=1e-5)


def test_the_regression_is_the_distance_to_the_teachers_sample():
    draws, outputs, logs = default_parts()
    want = np.mean((np.asarray(outputs["z0"]) - np.asarray(draws["z_tea"])) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(logs["mse"], want, rtol=1e-5)


def test_the_hinges_are_those_of_all_logits_together():
    _, _, logs = default_parts()
    real, fake = np.asarray(logs["logit_real"]), np.asarray(logs["logit_fake"])
    assert real.shape == fake.shape == (2, 2 * 4)  # c_dim logits at each of 2 x 2 positions
    want = np.maximum(1 - real, 0).mean(1) + np.maximum(1 + fake, 0).mean(1)
    np.testing.assert_allclose(logs["loss_d"], want, rtol=1e-5)


def test_the_discriminators_loss_moves_nothing_in_the_student():
    made = recipe()
    draws, outputs, _ = default_parts()
    params, stats = discriminator_of(made, outputs, draws)
    loss = lambda o: made.discriminator_loss(params, stats, o, FROZEN, BATCH, draws)[0]
    for leaf in jax.tree.leaves(jax.grad(loss)(outputs)):
        assert not leaf.any()
    answer = lambda o: made.student_loss(o, params, stats, FROZEN, BATCH, draws)[0]
    assert jax.grad(answer)(outputs)["features"][0].any()


def test_the_discriminator_is_shown_the_ground_truth_and_the_student_with_the_same_noise():
    made = recipe()
    draws, outputs, _ = default_parts()
    noised = FAMILY.schedule.add_noise(BATCH.gt, BATCH.lq, draws["disc_t"], draws["disc_eps"])
    of_truth = TEACHER["gain"] * FAMILY.schedule.scale_input(noised, BATCH.lq, draws["disc_t"])
    copied = outputs | {"features": [of_truth]}
    params, stats = discriminator_of(made, outputs, draws)
    # After some power iterations the vectors do not move any more between the two passes of a loss.
    for _ in range(30):
        _, (logs, stats) = made.discriminator_loss(params, stats, copied, FROZEN, BATCH, draws)
    np.testing.assert_allclose(logs["logit_real"], logs["logit_fake"], rtol=1e-3, atol=1e-3)


# ---- a weight of zero ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "in_generate", "in_student_loss"),
    [
        ({}, ["z0", "features"], ["z0", "z0"]),
        ({"score_kind": "sds"}, ["z0", "features"], ["z0"]),
        ({"score": 0}, ["z0", "features"], []),
        ({"adversarial": 0}, ["z0"], ["z0", "z0"]),
        ({"score": 0, "adversarial": 0}, ["z0"], []),
    ],
)
def test_a_term_of_weight_zero_runs_no_network(options, in_generate, in_student_loss):
    calls = []
    made = recipe(toy_family(calls), **options)
    draws = made.draw(KEY, FROZEN, BATCH)
    calls.clear()
    outputs = made.generate(STUDENT, FROZEN, BATCH, draws)
    assert calls == in_generate
    params, stats = discriminator_of(made, outputs, draws) if made.adds else (None, None)
    calls.clear()
    made.student_loss(outputs, params, stats, FROZEN, BATCH, draws)
    assert calls == in_student_loss


def test_without_the_adversarial_term_there_is_no_discriminator():
    made = recipe(adversarial=0)
    assert made.adds == {} and made.discriminator_loss is None
    _, outputs, logs = parts(made)
    assert set(outputs) == {"z0"}
    assert set(logs) == {"mse", "hsd", "loss"}


@pytest.mark.parametrize(("weight", "log"), [("regression", "mse"), ("score", "hsd"), ("adversarial", "gan")])
def test_each_term_can_stand_alone(weight, log):
    only = {"regression": 0, "score": 0, "adversarial": 0} | {weight: 1.0}
    _, _, logs = parts(recipe(**only))
    discriminators = {"loss_d", "logit_real", "logit_fake"} if weight == "adversarial" else set()
    assert set(logs) == {log, "loss"} | discriminators
    np.testing.assert_array_equal(logs["loss"], logs[log])


def test_the_compiled_regression_holds_the_teacher_once_and_the_student_once():
    family, batch = tiny_family(), tiny_batch()
    student = jax.jit(family.init)(KEY)["denoiser"]

    def convolutions(function, *arguments) -> int:
        return jax.jit(function).lower(*arguments).as_text().count("stablehlo.convolution")

    def loss_of(**options):
        made = recipe(family, **options)

        def loss(student, frozen, batch):
            draws = made.draw(KEY, frozen, batch)
            outputs = made.generate(student, frozen, batch, draws)
            return made.student_loss(outputs, None, None, frozen, batch, draws)[1][0]

        return convolutions(loss, student, {"teacher": student, "autoencoder": {}}, batch)

    condition = family.condition({"autoencoder": {}}, batch.lq, {})
    z, t = condition["z_y"], jnp.zeros((2,), jnp.int32)
    once = convolutions(lambda p: family.predict_z0(p, z, t, condition), student)
    assert once > 0
    assert loss_of(score=0, adversarial=0) == 2 * once  # the teacher's loop holds its network once
    assert loss_of(score=1, adversarial=0) == 4 * once
    assert loss_of(score=1, adversarial=0, score_kind="sds") == 3 * once


# ---- stored targets --------------------------------------------------------------------------------------------------


def test_stored_noise_and_targets_take_the_places_of_the_drawn_ones():
    draws, _, _ = parts(recipe(), batch=toy_batch(eps=normal(1), z_tea=normal(2)))
    np.testing.assert_array_equal(draws["eps"], normal(1))
    np.testing.assert_array_equal(draws["z_tea"], normal(2))
    np.testing.assert_allclose(draws["z_T"], BATCH.lq + KAPPA * np.sqrt(ETA[LAST]) * normal(1), rtol=1e-5, atol=1e-6)


def test_with_stored_targets_the_regression_needs_no_teacher():
    calls = []
    made = recipe(toy_family(calls), score=0, adversarial=0)
    batch = toy_batch(eps=normal(1), z_tea=normal(2))
    draws = made.draw(KEY, {"autoencoder": {}}, batch)
    assert calls == []
    outputs = made.generate(STUDENT, {"autoencoder": {}}, batch, draws)
    made.student_loss(outputs, None, None, {"autoencoder": {}}, batch, draws)
    assert calls == ["z0"]  # the student's


def test_stored_noise_alone_fixes_what_the_teacher_samples():
    batch = toy_batch(eps=normal(1))
    one, other = (recipe().draw(jax.random.key(seed), FROZEN, batch)["z_tea"] for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    one, other = (
        recipe(teacher_sampling="stochastic").draw(jax.random.key(seed), FROZEN, batch)["z_tea"] for seed in (0, 1)
    )
    assert not np.allclose(one, other)


# ---- every option ----------------------------------------------------------------------------------------------------


def equal(tree, other) -> bool:
    if jax.tree.map(np.shape, tree) != jax.tree.map(np.shape, other):
        return False
    return all(jax.tree.leaves(jax.tree.map(np.allclose, tree, other)))


@pytest.mark.parametrize(
    "options",
    [
        {"regression": 0.5},
        {"score": 0.5},
        {"adversarial": 0.5},
        {"score_kind": "sds"},
        {"score_target": "gt"},
        {"score_times": 1},
        {"score_input_scaling": "twice"},
        {"score_noise": "uniform"},
        {"discriminator_times": 1},
        {"discriminator_noise": "uniform"},
        {"discriminator": {"c_dim": 3, "embed_dim": 8}},
        {"teacher_sampling": "stochastic"},
        {"student_times": (1,)},
        {"variant": "released"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_option_alone_changes_what_is_computed_and_leaves_it_finite(options):
    draws, _, logs = parts(recipe(**options))
    assert all(np.isfinite(value).all() for value in logs.values())
    default_draws, _, default = default_parts()
    same = [equal(logs, default), equal(draws["score_eps"], default_draws["score_eps"])]  # HSD hides its noise
    assert not all(same)


@pytest.mark.parametrize(
    "given",
    [
        {"score_input_scaling": "once"},
        {"score_noise": "normal"},
        {"discriminator_noise": "normal"},
        {"discriminator_times": 4},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_given_beside_a_variant_wins(given):
    assert not equal(parts(recipe(variant="released", **given)), parts(recipe(variant="released")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "public"}, "config.losses.variant is 'public'; expected one of paper, released."),
        ({"score_kind": "vsd"}, "config.losses.score_kind is 'vsd'; expected one of hsd, sds."),
        ({"score_target": "hq"}, "config.losses.score_target is 'hq'; expected one of teacher, gt."),
        ({"score_input_scaling": "no"}, "config.losses.score_input_scaling is 'no'; expected one of once, twice."),
        ({"score_noise": "white"}, "config.losses.score_noise is 'white'; expected one of normal, uniform."),
        ({"discriminator_noise": 1}, "config.losses.discriminator_noise is 1; expected one of normal, uniform."),
        ({"start_noise": "first"}, "config.losses.start_noise is 'first'; expected one of own, last."),
        (
            {"teacher_sampling": "ddim"},
            "config.losses.teacher_sampling is 'ddim'; expected one of deterministic, stochastic.",
        ),
        ({"score_times": 5}, "config.losses.score_times is 5; expected 1 to 4, 0 (all), or -1 (all but the last)."),
        ({"score_times": -2}, "config.losses.score_times is -2; expected 1 to 4, 0 (all), or -1 (all but the last)."),
        (
            {"discriminator_times": -4},
            "config.losses.discriminator_times is -4; expected 1 to 4, 0 (all), or -1 (all but the last).",
        ),
        ({"student_times": (1, 4)}, "config.losses.student_times holds 4; expected indices from 0 to 3."),
        (
            {"student_times": (1,), "teacher_sampling": "stochastic"},
            "config.losses.student_times needs teacher_sampling='deterministic'.",
        ),
        (
            {"regression": 0, "score": 0, "adversarial": 0},
            "config.losses: regression, score and adversarial are all 0; the student would learn nothing.",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_accepted(options, message):
    with pytest.raises(ValueError) as error:
        recipe(**options)
    assert str(error.value) == message

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax import losses
from tadsr_jax.recipes import sinsr
from tests.toys import STUDENT, TEACHER, normal, toy_batch, toy_family

FAMILY = toy_family()
ETA, KAPPA, LAST = FAMILY.schedule.eta, 0.5, 3
FACTOR = 1 / np.sqrt(KAPPA**2 * ETA[LAST] + 1)  # every input is divided by the deviation of the last step
FROZEN = {"teacher": TEACHER, "autoencoder": {}}
BATCH = toy_batch(eps=normal(1), z_tea=normal(2))  # noise and targets are given, so that all else can be worked out
KEY = jax.random.key(0)
ALONE = {"inverse": 0.0, "gt": 0.0}
NEAR = {"rtol": 1e-4, "atol": 1e-6}


def student_at(z, t):
    """The toy student, in NumPy, scaled as SinSR scales."""
    return 0.9 * FACTOR * np.asarray(z) + 0.05 * t


def mse(a, b):
    return np.mean((np.asarray(a) - np.asarray(b)) ** 2, axis=(1, 2, 3))


def loss_and_logs(made, student=STUDENT, batch=BATCH):
    def loss(student):
        draws = made.draw(KEY, FROZEN, batch)
        outputs = made.generate(student, FROZEN, batch, draws)
        value, (logs, _) = made.student_loss(outputs, None, None, FROZEN, batch, draws)
        return value, logs

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(student)


Z_T = np.asarray(BATCH.lq + KAPPA * np.sqrt(ETA[LAST]) * BATCH.extra["eps"])


def test_the_three_terms_worked_out_for_a_linear_student():
    (value, logs), _ = loss_and_logs(sinsr.recipe(FAMILY, inverse=2.0, gt=0.5))
    z_tea, z_gt = BATCH.extra["z_tea"], BATCH.gt
    forward = mse(student_at(Z_T, LAST), z_tea)
    inverse = mse(student_at(z_tea, 0), Z_T)  # told step 0, and still scaled as of the last
    truth = mse(student_at(student_at(z_gt, 0), LAST), z_gt)
    np.testing.assert_allclose(logs["mse"], forward, **NEAR)
    np.testing.assert_allclose(logs["mse_inverse"], inverse, **NEAR)
    np.testing.assert_allclose(logs["mse_gt"], truth, **NEAR)
    np.testing.assert_allclose(logs["loss"], forward + 2 * inverse + 0.5 * truth, **NEAR)
    np.testing.assert_allclose(value, np.mean(forward + 2 * inverse + 0.5 * truth), **NEAR)


def test_the_noise_of_the_ground_truth_is_not_trained_by_the_truth_term():
    only_gt = sinsr.recipe(FAMILY, inverse=0.0, gt=1.0)
    (_, _), with_gt = loss_and_logs(only_gt)
    (_, _), without = loss_and_logs(sinsr.recipe(FAMILY, **ALONE))
    # d/d drift of mean_hwc (G(z, 3) - z_gt)^2 with dG/d drift = 3; a gradient through G(z_gt, 0) would add 0 (t = 0),
    # so look at the gain: dG/d gain = scaled input, and nothing by way of the noise.
    noise = student_at(BATCH.gt, 0)
    error = student_at(noise, LAST) - np.asarray(BATCH.gt)
    want = np.mean(2 * error * FACTOR * noise)
    np.testing.assert_allclose(with_gt["gain"] - without["gain"], want, rtol=1e-3)


def test_the_whiteness_term_is_that_of_the_inverted_noise_and_trains_it():
    batch = jax.tree.map(lambda leaf: jnp.tile(leaf, (1, 6, 6, 1)), BATCH)  # windows are 8 x 8
    made = sinsr.recipe(FAMILY, **ALONE, covariance=0.1)
    (_, logs), gradient = loss_and_logs(made, batch=batch)
    residual = jnp.asarray(student_at(batch.gt, 0)) - batch.lq
    want = losses.covariance_penalty(residual, KAPPA * 0.99)
    np.testing.assert_allclose(logs["covariance"], want, rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], logs["mse"] + 0.1 * want, rtol=1e-4)
    (_, _), without = loss_and_logs(sinsr.recipe(FAMILY, **ALONE), batch=batch)
    assert abs(gradient["gain"] - without["gain"]) > 1e-3


def test_where_the_student_is_unsure_the_target_is_its_teacher_and_else_the_truth():
    made = sinsr.recipe(FAMILY, **ALONE, uncertainty=0.7, uncertainty_passes=3)
    draws = made.draw(KEY, FROZEN, BATCH)
    assert draws["pass_eps"].shape == (3, *BATCH.gt.shape)
    z_y, z_tea, z_gt = (np.asarray(x) for x in (BATCH.lq, BATCH.extra["z_tea"], BATCH.gt))
    noised = z_tea + ETA[LAST] * (z_y - z_tea) + KAPPA * 0.99 * np.asarray(draws["pass_eps"])
    passes = student_at(noised, LAST)
    unsure = np.clip(0.7 * (passes.max(0) - passes.min(0)).max(-1, keepdims=True), 0, 1)
    outputs = made.generate(STUDENT, FROZEN, BATCH, draws)
    np.testing.assert_allclose(outputs["unsure"], unsure, **NEAR)
    (_, logs), _ = loss_and_logs(made)
    np.testing.assert_allclose(logs["mse"], mse(student_at(Z_T, LAST), z_tea * unsure + z_gt * (1 - unsure)), **NEAR)


def test_the_uncertainty_is_not_trained():
    _, gradient = loss_and_logs(sinsr.recipe(FAMILY, **ALONE, uncertainty=0.7))
    made = sinsr.recipe(FAMILY, **ALONE, uncertainty=0.7)
    draws = made.draw(KEY, FROZEN, BATCH)
    unsure = made.generate(STUDENT, FROZEN, BATCH, draws)["unsure"]
    target = BATCH.extra["z_tea"] * unsure + BATCH.gt * (1 - unsure)
    want = np.mean(2 * (student_at(Z_T, LAST) - np.asarray(target)) * FACTOR * Z_T)
    np.testing.assert_allclose(gradient["gain"], want, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "passes", "logs"),
    [
        (ALONE, 1, {"mse"}),
        ({"inverse": 1.0, "gt": 0.0}, 2, {"mse", "mse_inverse"}),
        ({"inverse": 0.0, "gt": 1.0}, 3, {"mse", "mse_gt"}),
        ({}, 4, {"mse", "mse_inverse", "mse_gt"}),
        (ALONE | {"uncertainty": 1.0}, 2, {"mse"}),  # one `lax.map` over the passes
    ],
)
def test_a_term_of_weight_zero_runs_no_network(options, passes, logs):
    calls = []
    made = sinsr.recipe(toy_family(calls), **options)
    draws = made.draw(KEY, {"autoencoder": {}}, BATCH)
    assert calls == []  # the targets are given
    outputs = made.generate(STUDENT, {}, BATCH, draws)
    assert len(calls) == passes
    _, (made_logs, _) = made.student_loss(outputs, None, None, {}, BATCH, draws)
    assert set(made_logs) == logs | {"loss"}
    assert len(calls) == passes


def test_stochastic_targets_have_noises_of_their_own():
    batch = toy_batch(eps=normal(1))
    for sampling, equal in (("deterministic", True), ("stochastic", False)):
        made = sinsr.recipe(FAMILY, teacher_sampling=sampling)
        one, other = (made.draw(jax.random.key(seed), FROZEN, batch)["z_tea"] for seed in (0, 1))
        assert np.allclose(one, other) is equal


def test_a_wrong_sampling_is_refused():
    with pytest.raises(ValueError) as error:
        sinsr.recipe(FAMILY, teacher_sampling="ode")
    message = "config.losses.teacher_sampling is 'ode'; expected one of deterministic, stochastic."
    assert str(error.value) == message


def test_it_adds_no_network_and_reads_teacher_and_autoencoder():
    made = sinsr.recipe(FAMILY)
    assert made.adds == {} and made.discriminator_loss is None
    assert made.frozen == ("teacher", "autoencoder")

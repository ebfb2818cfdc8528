import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.diffusion.shift import linear_estimate, shift_schedule
from tadsr_jax.recipes import teacher
from tests.toys import STUDENT, toy_batch, toy_family

pytestmark = pytest.mark.quick

FAMILY = toy_family()
ETA, KAPPA = FAMILY.schedule.eta, 0.5
FROZEN, BATCH, KEY = {"autoencoder": {}}, toy_batch(), jax.random.key(0)


def loss_of(made, frozen=FROZEN):
    draws = made.draw(KEY, frozen, BATCH) | {"t": jnp.array([0, 2])}
    outputs = made.generate(STUDENT, frozen, BATCH, draws)
    value, (logs, _) = made.student_loss(outputs, None, None, frozen, BATCH, draws)
    return draws, outputs, value, logs


def test_the_network_is_asked_for_the_sharp_latent_at_a_random_step():
    draws, outputs, value, logs = loss_of(teacher.recipe(FAMILY))
    eta = ETA[[0, 2]].reshape(2, 1, 1, 1)
    z_t = BATCH.gt + eta * (BATCH.lq - BATCH.gt) + KAPPA * np.sqrt(eta) * draws["eps"]
    z0 = 0.9 * z_t / np.sqrt(KAPPA**2 * eta + 1) + 0.05 * np.array([0, 2]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(outputs["z0"], z0, rtol=1e-5, atol=1e-6)
    want = np.mean((z0 - BATCH.gt) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(logs["mse"], want, rtol=1e-5)
    np.testing.assert_allclose(value, np.mean(want), rtol=1e-5)


def test_every_step_is_drawn():
    batch = jax.tree.map(lambda leaf: jnp.zeros((500, 1, 1, 1)), BATCH)
    times = teacher.recipe(FAMILY).draw(KEY, FROZEN, batch)["t"]
    assert set(np.asarray(times)) == {0, 1, 2, 3}


def test_uniform_weights_are_those_of_the_networks_own_output():
    schedule = shift_schedule(num_steps=4, kappa=0.5)
    np.testing.assert_array_equal(teacher.step_weight(schedule, "uniform"), np.ones(4))
    in_noise = teacher.step_weight(shift_schedule(num_steps=4, kappa=0.5, predict="epsilon"), "uniform")
    # An error of 1 in z0 is one of (1 - eta) / (kappa sqrt(eta)) in eps.
    np.testing.assert_allclose(in_noise, (1 - ETA) ** 2 / (0.25 * ETA))


@pytest.mark.parametrize("predict", ["xstart", "epsilon"])
def test_the_bound_weights_an_error_in_z0_alike_whatever_the_network_predicts(predict):
    schedule = shift_schedule(num_steps=4, kappa=0.5, predict=predict)
    alpha = ETA - np.append(0, ETA[:-1])
    variance = 0.25 * np.append(0, ETA[:-1]) / ETA * alpha
    variance[0] = variance[1]
    np.testing.assert_allclose(teacher.step_weight(schedule, "bound"), (alpha / ETA) ** 2 / (2 * variance), rtol=1e-9)


def test_preconditioned_weights_count_errors_in_units_of_what_the_linear_guess_leaves():
    schedule = shift_schedule(num_steps=4, kappa=0.5, predict="preconditioned", sigma_data=0.13)
    _, out = linear_estimate(schedule.eta, kappa=0.5, sigma_data=0.13)
    np.testing.assert_allclose(teacher.step_weight(schedule, "preconditioned"), 1 / np.asarray(out) ** 2, rtol=1e-4)


def test_the_weight_of_a_sample_is_that_of_its_step():
    _, _, _, logs = loss_of(teacher.recipe(FAMILY, weighting="bound"))
    weight = teacher.step_weight(FAMILY.schedule, "bound")[[0, 2]]
    np.testing.assert_allclose(logs["loss"], weight * np.asarray(logs["mse"]), rtol=1e-5)


def test_the_perceptual_term_compares_the_clipped_picture_with_the_truth(monkeypatch):
    seen = {}

    def lpips(params, a, b):
        seen.update(params=params, a=a, b=b)
        return jnp.array([3.0, 5.0])

    monkeypatch.setattr(teacher, "lpips", lpips)
    made = teacher.recipe(FAMILY, perceptual=10.0)
    assert made.frozen == ("autoencoder", "lpips")
    _, outputs, _, logs = loss_of(made, FROZEN | {"lpips": "weights"})
    assert seen["params"] == "weights"
    np.testing.assert_array_equal(seen["a"], np.clip(outputs["z0"], -1, 1))
    np.testing.assert_array_equal(seen["b"], BATCH.gt)
    np.testing.assert_allclose(logs["loss"], np.asarray(logs["mse"]) + [30, 50], rtol=1e-6)


def test_without_the_perceptual_term_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(teacher, "lpips", lambda *_: 1 / 0)
    made = teacher.recipe(FAMILY)
    assert made.frozen == ("autoencoder",)
    assert set(loss_of(made)[3]) == {"mse", "loss"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "snr"}, "config.losses.weighting is 'snr'; expected one of uniform, bound, preconditioned."),
        (
            {"weighting": "preconditioned"},
            "config.losses.weighting='preconditioned' needs config.diffusion.predict='preconditioned'.",
        ),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        teacher.recipe(FAMILY, **options)
    assert str(error.value).startswith(message)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax import losses

pytestmark = pytest.mark.quick

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def test_the_mean_squared_error_is_one_number_a_sample():
    prediction = np.array([[[[1.0], [3.0]]], [[[0.0], [0.0]]]])
    np.testing.assert_allclose(losses.mse(prediction, np.zeros_like(prediction)), [(1 + 9) / 2, 0])


def test_the_gradient_of_score_distillation_is_the_score_difference_over_the_number_of_entries():
    z0, g = normal(2, 3, 4, 5), normal(2, 3, 4, 5)
    np.testing.assert_allclose(losses.score_distillation(z0, g), np.mean(z0 * g, axis=(1, 2, 3)), rtol=1e-5)
    gradient = jax.grad(lambda z: losses.score_distillation(z, g).sum())(z0)
    np.testing.assert_allclose(gradient, g / (3 * 4 * 5), rtol=1e-6)


def test_no_gradient_flows_into_the_score_difference():
    z0 = normal(1, 2, 2, 3)
    gradient = jax.grad(lambda z: losses.score_distillation(z, 7 * z).sum())(z0)
    np.testing.assert_allclose(gradient, 7 * z0 / 12, rtol=1e-6)  # 14 z0 / 12 if it did


def test_the_discriminator_is_content_beyond_a_margin_of_one():
    real, fake = np.array([[1.0, 5.0]]), np.array([[-1.0, -9.0]])
    np.testing.assert_array_equal(losses.hinge_discriminator(real, fake), [0.0])


def test_hinges_worked_out_by_hand():
    real, fake = np.array([[0.5, 3.0], [0.0, 0.0]]), np.array([[-2.0, 1.0], [0.0, 0.0]])
    # relu(1 - 0.5), relu(1 - 3) and relu(1 - 2), relu(1 + 1); logits of 0 cost 1 on either side
    np.testing.assert_allclose(losses.hinge_discriminator(real, fake), [0.5 / 2 + 2 / 2, 2])
    np.testing.assert_allclose(losses.hinge_generator(fake), [0.5, 0])


def test_the_covariance_penalty_is_numpys_covariance_against_the_wanted_one():
    residual, std, patch = normal(2, 6, 5, 2), 0.7, 3
    want = []
    for sample in residual:
        per_channel = []
        for channel in np.moveaxis(sample, -1, 0):
            windows = np.lib.stride_tricks.sliding_window_view(channel, (patch, patch)).reshape(-1, patch**2)
            per_channel.append(np.mean((np.cov(windows.T) - std**2 * np.eye(patch**2)) ** 2))
        want.append(sum(per_channel))
    np.testing.assert_allclose(losses.covariance_penalty(residual, std, patch=patch), want, rtol=1e-4)


def test_white_noise_of_the_wanted_deviation_is_hardly_penalised():
    noise = 0.5 * normal(1, 128, 128, 1)
    # Entries of C err by about std^2 sqrt(2 / windows), with the windows of 121^2 overlapping.
    white = losses.covariance_penalty(noise, 0.5)[0]
    assert white < 0.25**2 * 1e-3
    assert losses.covariance_penalty(2 * noise, 0.5)[0] > 100 * white  # the wrong deviation
    assert losses.covariance_penalty(np.roll(noise, 1, axis=1) + noise, 0.5)[0] > 100 * white  # correlated


def test_a_constant_offset_is_no_covariance():
    noise = normal(1, 16, 16, 1)
    np.testing.assert_allclose(
        losses.covariance_penalty(noise + 3, 1.0), losses.covariance_penalty(noise, 1.0), rtol=1e-3
    )


def test_lpips_of_one_position_worked_out_by_hand():
    a, b = np.array([[[[3.0, 4.0]]]]), np.array([[[[0.0, 2.0]]]])
    # directions (0.6, 0.8) and (0, 1), weighted 2 and 5
    distance, terms = losses.lpips_distance([a], [b], [np.array([2.0, 5.0])])
    np.testing.assert_allclose(distance, [2 * 0.36 + 5 * 0.04], rtol=1e-5)
    np.testing.assert_allclose(terms, [[2 * 0.36 + 5 * 0.04]], rtol=1e-5)


def test_lpips_looks_at_directions_alone():
    features = np.abs(normal(2, 3, 3, 4))
    distance, _ = losses.lpips_distance([features], [5 * features], [np.ones(4, np.float32)])
    np.testing.assert_allclose(distance, [0, 0], atol=1e-10)


def test_lpips_has_a_finite_gradient_where_all_features_are_off():
    off, on = np.zeros((1, 1, 1, 3), np.float32), np.ones((1, 1, 1, 3), np.float32)
    gradient = jax.grad(lambda f: losses.lpips_distance([f], [on], [jnp.ones(3)])[0].sum())(off)
    assert np.isfinite(gradient).all()


def test_the_distillation_is_the_weighted_distance_to_every_prediction_of_the_teacher():
    x, teacher, weights = normal(2, 3, 4, 3), normal(4, 2, 3, 4, 3), np.abs(normal(4, 2))
    want = sum(weights[k] * ((teacher[k] - x) ** 2).mean((1, 2, 3)) for k in range(4)) / 4
    np.testing.assert_allclose(losses.distillation(x, teacher, weights), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "weights"), [("exponential", [0.5, 1.05, 2.205, 4.6305]), ("linear", [0.7, 0.9, 1.1, 1.3])]
)
def test_the_weight_of_the_distillation_grows_from_step_to_step(form, weights):
    np.testing.assert_allclose(losses.time_adaptive_weight(np.arange(1, 5), form=form), weights, rtol=1e-6)

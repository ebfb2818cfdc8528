import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.diffusion import shift
from tadsr_jax.diffusion.shift import shift_schedule

pytestmark = pytest.mark.quick

rng = np.random.default_rng(0)
Z0, Z_Y, EPS = (rng.normal(size=(3, 2, 2, 5)).astype(np.float32) for _ in range(3))
T = np.array([0, 5, 14])  # one step a sample: the least noisy, one in the middle, the prior
NEAR = {"rtol": 1e-5, "atol": 1e-5}  # float32, a few operations on numbers of size 1

paper = shift_schedule()


def eta_of(t=T):
    return paper.eta[t].reshape(-1, 1, 1, 1)


# ---- formulas --------------------------------------------------------------------------------------------------------


def test_noise_at_eta_one_is_centred_on_the_low_quality_picture():
    np.testing.assert_allclose(shift.add_noise(Z0, Z_Y, 1.0, 0 * EPS, kappa=2.0), Z_Y, **NEAR)


def test_without_a_shift_there_is_no_noise():
    np.testing.assert_array_equal(shift.add_noise(Z0, Z_Y, 0.0, EPS, kappa=2.0), Z0)


def test_a_quarter_of_the_way_worked_out_by_hand():
    # 8 + 1/4 (4 - 8) + 2 * sqrt(1/4) * 3
    assert shift.add_noise(8.0, 4.0, 0.25, 3.0, kappa=2.0) == 10.0
    assert shift.eps_from_z0(10.0, 4.0, 0.25, 8.0, kappa=2.0) == 3.0
    assert shift.z0_from_eps(10.0, 4.0, 0.25, 3.0, kappa=2.0) == 8.0


def test_the_noise_is_found_from_what_it_made():
    z_t = paper.add_noise(Z0, Z_Y, T, EPS)
    # At step 0 noise of deviation 0.04 lies on a latent of size 1: 25 times float32's rounding.
    np.testing.assert_allclose(paper.eps_from_z0(z_t, Z_Y, T, Z0), EPS, atol=2e-5)


def test_the_sharp_latent_is_found_from_the_noise():
    z_t = paper.add_noise(Z0, Z_Y, T, EPS)
    # The last step leaves 2% of z0 beside noise of deviation 2: 100 times float32's rounding.
    np.testing.assert_allclose(paper.z0_from_eps(z_t, Z_Y, T, EPS), Z0, atol=1e-4)


def test_the_coefficients_of_the_deterministic_step_add_up_to_one():
    k, m, j = shift.deterministic_coefficients(paper.sqrt_eta)
    np.testing.assert_allclose(k + m + j, 1, rtol=1e-15)
    assert (k[0], m[0], j[0]) == (1, 0, 0)


def test_the_deterministic_step_keeps_the_noise():
    later, earlier = np.array([1, 5, 14]), np.array([0, 4, 13])
    z_t = paper.add_noise(Z0, Z_Y, later, EPS)
    z_previous = paper.deterministic_step(z_t, Z_Y, later, Z0)
    np.testing.assert_allclose(z_previous, paper.add_noise(Z0, Z_Y, earlier, EPS), **NEAR)


def test_the_last_deterministic_step_returns_the_prediction():
    np.testing.assert_array_equal(paper.deterministic_step(EPS, Z_Y, 0, Z0), Z0)


def test_the_inverse_step_undoes_the_deterministic_one():
    t = np.array([1, 5, 14])
    back = paper.inverse_step(paper.deterministic_step(EPS, Z_Y, t, Z0), Z_Y, t, Z0)
    np.testing.assert_allclose(back, EPS, **NEAR)


# ---- the posterior ---------------------------------------------------------------------------------------------------


def test_the_posterior_at_the_first_step_is_the_prediction():
    mean, log_variance = paper.posterior(EPS, 0, Z0)
    np.testing.assert_array_equal(mean, Z0)
    assert log_variance == paper.posterior(EPS, 1, Z0)[1]  # in the place of log 0


def test_the_posterior_is_the_product_of_the_two_gaussians_it_is_defined_by():
    # q(z_t | z_{t-1}) q(z_{t-1} | z0) as densities of z_{t-1}, in scalars; z_t - z_{t-1} ~ N(alpha e, kappa^2 alpha)
    t, z0, e, z_t = 7, 0.3, -0.8, 1.1
    alpha, before, kappa = paper.eta[t] - paper.eta[t - 1], paper.eta[t - 1], 2.0
    of_step, of_past = 1 / (kappa**2 * alpha), 1 / (kappa**2 * before)  # precisions
    mean = ((z_t - alpha * e) * of_step + (z0 + before * e) * of_past) / (of_step + of_past)
    got_mean, got_log_variance = paper.posterior(jnp.float32(z_t), t, jnp.float32(z0))
    np.testing.assert_allclose(got_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(got_log_variance, -np.log(of_step + of_past), rtol=1e-5)


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_the_ramp_ends_at_etas_end_in_its_root_so_that_the_last_eta_is_its_square():
    assert paper.num_steps == 15
    np.testing.assert_allclose(paper.sqrt_eta[-1], 0.99, rtol=1e-12)
    np.testing.assert_allclose(paper.eta[-1], 0.9801, rtol=1e-12)


def test_the_ramp_starts_at_the_smallest_of_its_three_bounds():
    assert paper.sqrt_eta[0] == pytest.approx(0.02)  # 0.04 / 2
    assert shift_schedule(kappa=1.0).sqrt_eta[0] == pytest.approx(0.001**0.5)  # 0.04 is above the cap
    assert shift_schedule(kappa=1.0, cap_start=False).sqrt_eta[0] == pytest.approx(0.04)
    assert shift_schedule(kappa=0.2).sqrt_eta[0] == pytest.approx(0.001**0.5)  # 0.04 / 0.2 and 0.04 are above it


def test_between_its_ends_the_ramp_is_geometric_in_a_power_of_the_step():
    halfway = 0.02 * (0.99 / 0.02) ** ((7 / 14) ** 0.3)
    assert paper.sqrt_eta[7] == pytest.approx(halfway)
    straight = shift_schedule(power=1.0).sqrt_eta
    np.testing.assert_allclose(straight[1:] / straight[:-1], 49.5 ** (1 / 14), rtol=1e-12)


def test_sampling_starts_at_the_low_quality_latent_with_the_noise_of_its_step():
    np.testing.assert_allclose(paper.start(Z_Y, EPS), Z_Y + 2 * 0.99 * EPS, **NEAR)
    np.testing.assert_allclose(paper.start(Z_Y, EPS, 3), Z_Y + 2 * paper.sqrt_eta[3] * EPS, **NEAR)


def test_the_input_has_unit_deviation_where_z0_does():
    t = 9
    factor = paper.scale_input(jnp.ones(()), 0, t)
    np.testing.assert_allclose(factor, 1 / np.sqrt(1 + 4 * paper.eta[t]), rtol=1e-6)
    pixel, none = (shift_schedule(input_scaling=kind).scale_input(jnp.ones(()), 0, t) for kind in ("pixel", "none"))
    np.testing.assert_allclose(pixel, 1 / (1 + 6 * paper.sqrt_eta[t]), rtol=1e-6)
    assert none == 1


def test_a_preconditioned_input_is_the_difference_to_z_y_in_units_of_what_is_left_to_predict():
    schedule = shift_schedule(kappa=0.2, predict="preconditioned", input_scaling="preconditioned", sigma_data=0.1)
    t, eta = 6, schedule.eta[6]
    left = 0.1 * 0.2 * np.sqrt(eta) / np.sqrt(((1 - eta) * 0.1) ** 2 + 0.2**2 * eta)
    np.testing.assert_allclose(schedule.scale_input(Z0, Z_Y, t), (Z0 - Z_Y) / left, rtol=1e-5)


def test_a_respaced_chain_keeps_every_t_over_n_th_step_and_not_the_last():
    short = paper.respaced(4)
    np.testing.assert_array_equal(short.step_numbers, [0, 3, 7, 11])
    np.testing.assert_array_equal(short.sqrt_eta, paper.sqrt_eta[[0, 3, 7, 11]])
    np.testing.assert_array_equal(short.network_time(np.array([3, 0])), [11, 0])


def test_the_coefficients_of_a_respaced_chain_are_those_of_its_own_steps():
    short = paper.respaced(4)
    z_t = short.add_noise(Z0, Z_Y, 2, EPS)
    np.testing.assert_allclose(short.deterministic_step(z_t, Z_Y, 2, Z0), paper.add_noise(Z0, Z_Y, 3, EPS), **NEAR)


# ---- what the output means -------------------------------------------------------------------------------------------


def test_every_meaning_of_the_output_leads_to_the_same_latent():
    t = np.array([0, 5, 10])
    z_t = paper.add_noise(Z0, Z_Y, t, EPS)
    noise = 2 * np.sqrt(eta_of(t))
    outputs = {"xstart": Z0, "residual": Z_Y - Z0, "epsilon": EPS, "epsilon_scale": noise * EPS}
    for predict, output in outputs.items():
        got = shift_schedule(predict=predict).z0_from_output(output, z_t, Z_Y, t)
        np.testing.assert_allclose(got, Z0, atol=1e-4, err_msg=predict)


def test_the_linear_estimate_has_the_smallest_error_of_all_linear_ones():
    eta, kappa, sigma = 0.3, 0.5, 0.13
    # z_t - z_y = (1 - eta) d + kappa sqrt(eta) eps with d = z0 - z_y; E (d - c (z_t - z_y))^2, as a function of c
    error = lambda c: (1 - c * (1 - eta)) ** 2 * sigma**2 + c**2 * kappa**2 * eta
    skip, out = map(float, shift.linear_estimate(eta, kappa=kappa, sigma_data=sigma))
    assert error(skip) < min(error(skip - 1e-3), error(skip + 1e-3))
    assert out**2 == pytest.approx(error(skip))  # the network's target has unit variance


def test_the_linear_estimate_copies_a_clean_latent_and_knows_nothing_of_a_shifted_one():
    clean_skip, clean_out = shift.linear_estimate(1e-10, kappa=0.5, sigma_data=0.13)
    np.testing.assert_allclose([clean_skip, clean_out], [1, 0], atol=1e-4)
    lost_skip, lost_out = shift.linear_estimate(1.0, kappa=0.5, sigma_data=0.13)
    np.testing.assert_allclose([lost_skip, lost_out], [0, 0.13], atol=1e-7)


def test_a_preconditioned_network_that_says_nothing_gives_the_linear_estimate():
    schedule = shift_schedule(predict="preconditioned", sigma_data=0.13, kappa=0.2)
    skip, _ = shift.linear_estimate(schedule.eta[5], kappa=0.2, sigma_data=0.13)
    got = schedule.z0_from_output(jnp.zeros_like(EPS), EPS, Z_Y, 5)
    np.testing.assert_allclose(got, Z_Y + skip * (EPS - Z_Y), **NEAR)


def test_the_weight_of_the_bound_is_the_divergence_of_the_two_posteriors():
    # KL of two Gaussians of one variance v: (difference of means)^2 / (2 v); here it is alpha / eta (z0 - z0').
    t = 6
    weight = (paper.alpha[t] / paper.eta[t]) ** 2 / (2 * paper.posterior_variance[t])
    assert paper.mse_weight[t] == pytest.approx(weight)
    # The error of a predicted eps counts in z0: z0 = (... - kappa sqrt(eta) eps) / (1 - eta).
    in_eps = weight * (2 * paper.sqrt_eta[t] / (1 - paper.eta[t])) ** 2
    assert shift_schedule(predict="epsilon").mse_weight[t] == pytest.approx(in_eps)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "config.diffusion.num_steps is 1; expected a number above 0, from 2 to 1000."),
        ({"kappa": 0.0}, "config.diffusion.kappa is 0.0; expected a number above 0"),
        ({"etas_end": 1.5}, "config.diffusion.etas_end is 1.5; expected a number above 0, from 0 to 1."),
        ({"power": float("nan")}, "config.diffusion.power is nan"),
        ({"predict": "x0"}, "config.diffusion.predict is 'x0'; expected one of xstart, residual, epsilon"),
        (
            {"input_scaling": "std"},
            "config.diffusion.input_scaling is 'std'; expected one of latent, pixel, preconditioned, none.",
        ),
        ({"sigma_data": 0.1}, "config.diffusion.sigma_data is 0.1 with predict='xstart'"),
        ({"predict": "preconditioned"}, "config.diffusion.sigma_data is None with predict='preconditioned'"),
        ({"etas_end": 0.01}, "config.diffusion.min_noise_level is 0.04: the ramp would start at 0.02, above its end"),
    ],
)
def test_an_impossible_schedule_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        shift_schedule(**options)
    assert str(error.value).startswith(message)

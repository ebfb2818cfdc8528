import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.diffusion import ddpm, sample

pytestmark = pytest.mark.quick

rng = np.random.default_rng(0)
Z0, EPS = (rng.normal(size=(3, 2, 2, 4)).astype(np.float32) for _ in range(2))
T = np.array([0, 499, 999])  # one step a sample
NEAR = {"rtol": 1e-5, "atol": 1e-5}  # float32, a few operations on numbers of size 1

sd = ddpm.ddpm_schedule()

# The keys of SD-2-base's file: of another sampler, whose shared keys are read.
PUBLIC = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def test_abar_has_the_values_of_stable_diffusion():
    published = {20: 0.981314, 249: 0.675432, 499: 0.277670, 749: 0.0566235, 981: 0.0057755, 999: 0.00466010}
    np.testing.assert_allclose(sd.abar[list(published)], list(published.values()), rtol=1e-5)  # six digits
    assert sd.abar.dtype == np.float64 and sd.num_steps == 1000


def test_beta_runs_on_a_line_or_its_root_does():
    # Three steps from 0.01 to 0.25: in the middle ((0.1 + 0.5) / 2)^2 = 0.09, or (0.01 + 0.25) / 2 = 0.13.
    for kind, middle in (("scaled_linear", 0.09), ("linear", 0.13)):
        chain = ddpm.ddpm_schedule(num_steps=3, beta_start=0.01, beta_end=0.25, beta_schedule=kind)
        np.testing.assert_allclose(chain.abar, np.cumprod([0.99, 1 - middle, 0.75]))


def test_noise_is_added_worked_out_by_hand():
    chain = ddpm.DDPMSchedule(np.array([0.64, 0.36]), np.arange(2))
    # sqrt(0.36) 5 + sqrt(0.64) 10, and back; the velocity is 0.6 * 10 - 0.8 * 5
    assert chain.add_noise(5.0, 1, 10.0) == pytest.approx(11)
    assert chain.z0_from_eps(11.0, 1, 10.0) == pytest.approx(5)
    assert chain.eps_from_z0(11.0, 1, 5.0) == pytest.approx(10)
    assert chain.velocity(5.0, 1, 10.0) == pytest.approx(2)
    assert chain.signal(1) == pytest.approx(0.6)


def test_latent_and_noise_are_found_from_what_they_made():
    z_t = sd.add_noise(Z0, T, EPS)
    # The last step leaves 7 % of z0, the first 3 % of the noise: 15 to 34 times float32's rounding.
    np.testing.assert_allclose(sd.z0_from_eps(z_t, T, EPS), Z0, atol=2e-5)
    np.testing.assert_allclose(sd.eps_from_z0(z_t, T, Z0), EPS, atol=2e-5)


def test_each_sample_of_a_batch_has_its_own_step():
    z_t = sd.add_noise(Z0, T, EPS)
    for i, t in enumerate(T):
        np.testing.assert_allclose(z_t[i], np.sqrt(sd.abar[t]) * Z0[i] + np.sqrt(1 - sd.abar[t]) * EPS[i], **NEAR)
    assert sd.signal(T).shape == (3, 1, 1, 1)


def test_velocity_and_noisy_latent_are_a_rotation_of_latent_and_noise():
    z_t, v = sd.add_noise(Z0, T, EPS), sd.velocity(Z0, T, EPS)
    np.testing.assert_allclose(sd.signal(T) * z_t - sd.noise(T) * v, Z0, **NEAR)
    np.testing.assert_allclose(sd.noise(T) * z_t + sd.signal(T) * v, EPS, **NEAR)


def test_sampling_starts_from_the_noised_latent_of_the_input():
    np.testing.assert_array_equal(sd.start(Z0, EPS), sd.add_noise(Z0, 999, EPS))
    np.testing.assert_array_equal(sd.start(Z0, EPS, 749), sd.add_noise(Z0, 749, EPS))


def test_steps_of_a_sampling_are_evenly_spaced_with_an_offset():
    np.testing.assert_array_equal(sd.timesteps(4), [751, 501, 251, 1])
    np.testing.assert_array_equal(sd.timesteps(50), np.arange(981, 0, -20))
    np.testing.assert_array_equal(sd.timesteps(1), [1])
    np.testing.assert_array_equal(sd.timesteps(300)[:2], [898, 895])  # 1000 // 300 = 3: the end is not reached
    for num_steps in (0, 1000, 1001):  # with the offset, 1000 steps would begin at the missing step 1000
        with pytest.raises(ValueError, match=f"num_steps is {num_steps}; expected 1 to 1000"):
            sd.timesteps(num_steps)


def test_few_steps_are_the_first_of_four():
    assert ddpm.few_steps() == (999, 749, 499, 249)
    assert ddpm.few_steps(1) == (999,) and ddpm.few_steps(2) == (999, 749)
    with pytest.raises(ValueError, match="num_steps is 5; expected 1 to 4"):
        ddpm.few_steps(5)


def test_a_shorter_chain_has_the_same_noise_at_its_steps_and_tells_their_public_numbers():
    chain = sd.respaced(50)
    assert chain.num_steps == 50
    np.testing.assert_array_equal(chain.network_time(np.array([0, 49])), [1, 981])
    np.testing.assert_array_equal(chain.add_noise(Z0, 49, EPS), sd.add_noise(Z0, 981, EPS))
    np.testing.assert_array_equal(sd.kept(ddpm.few_steps()).step_numbers, [249, 499, 749, 999])


@pytest.mark.parametrize("chain", [sd, sd.respaced(50), sd.kept(ddpm.few_steps())])
def test_a_step_of_the_posterior_keeps_the_distribution_of_every_step(chain):
    # z_t = a z0 + s eps has to become a' z0 + s' eps': of z0 and of the noise's variance the right share is left.
    t = np.arange(chain.num_steps)
    of_z0, log_variance = chain.posterior(np.zeros((len(t), 1, 1, 1)), t, 1.0)
    of_z_t, _ = chain.posterior(np.ones((len(t), 1, 1, 1)), t, 0.0)
    signal = of_z0 + of_z_t * chain.signal(t)
    variance = jnp.square(of_z_t * chain.noise(t)) + jnp.exp(log_variance)
    np.testing.assert_allclose(signal.ravel(), np.sqrt(chain.abar_previous), rtol=2e-5)
    # At the least noisy steps almost all of the variance cancels.
    np.testing.assert_allclose(variance.ravel(), 1 - chain.abar_previous, rtol=1e-4, atol=1e-7)


def test_the_last_step_gives_the_latent_itself_and_next_to_no_noise():
    mean, log_variance = sd.respaced(50).posterior(Z0 + EPS, np.zeros(3, int), Z0)
    np.testing.assert_allclose(mean, Z0, rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_variance / 2), 1e-10, rtol=1e-4)


def test_the_sampling_loop_of_the_other_family_runs_on_it():
    chain, noise = sd.respaced(4), rng.normal(size=(4, *Z0.shape)).astype(np.float32)
    told = []

    def predict_z0(z_t, t):
        told.append(chain.network_time(t))
        return Z0

    z, path = sample.stochastic(chain, predict_z0, sd.start(Z0, EPS), lambda i: jnp.asarray(noise)[i])
    np.testing.assert_allclose(z, Z0, rtol=1e-6)
    assert len(told) == 1 and path["samples"].shape == (4, *Z0.shape)  # traced once, run four times


def test_an_early_start_leaves_the_steps_that_are_not_noisier():
    assert ddpm.not_after(ddpm.FEW_STEPS, None) == ddpm.not_after(ddpm.FEW_STEPS, 999) == (999, 749, 499, 249)
    assert ddpm.not_after(sd.timesteps(4), 501) == (501, 251, 1)
    with pytest.raises(ValueError, match="start is 248; expected 249 or more"):
        ddpm.not_after(ddpm.FEW_STEPS, 248)


def test_a_public_configuration_gives_the_same_chain():
    np.testing.assert_array_equal(ddpm.from_public(**PUBLIC).abar, sd.abar)
    np.testing.assert_array_equal(ddpm.from_public(**PUBLIC).timesteps(4), sd.timesteps(4))
    without_offset = ddpm.from_public(beta_start=0.1, beta_end=0.2, beta_schedule="linear", num_train_timesteps=10)
    np.testing.assert_array_equal(without_offset.timesteps(2), [5, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type is 'v_prediction'; .* prediction_type='epsilon' only"),
        ({"clip_sample": True}, "clip_sample is True"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing is 'trailing'"),
        ({"beta_schedule": "sigmoid"}, "'sigmoid'; expected one of scaled_linear, linear"),
        ({"beta_start": 0.5}, "beta_start is 0.5, beta_end 0.012"),
        ({"num_train_timesteps": 0}, "num_steps is 0"),
    ],
)
def test_another_chain_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ddpm.from_public(**{**PUBLIC, **change})


def test_a_configuration_without_its_betas_is_refused():
    with pytest.raises(ValueError, match="lacks beta_start, beta_schedule; SD-2's has"):
        ddpm.from_public(beta_end=0.012)

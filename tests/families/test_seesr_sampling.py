import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.diffusion.ddpm import ddpm_schedule
from tadsr_jax.families import seesr_sampling
from tadsr_jax.families.seesr import Words

pytestmark = pytest.mark.quick

SCHEDULE = ddpm_schedule()
ABAR = SCHEDULE.abar
N, H, W, C = 2, 3, 4, 3
rng = np.random.default_rng(0)
LQ = rng.uniform(size=(N, 2 * H, 2 * W, C)).astype(np.float32)  # in [0, 1]
Z_T, INIT, *NOISE = rng.normal(size=(6, N, H, W, C)).astype(np.float32)
NOISE = np.stack(NOISE)
TEXT, NEGATIVE, STATES = (rng.normal(size=(N, 2, C)).astype(np.float32) for _ in range(3))
KNOWN = {"picture": LQ, "text": TEXT, "image_states": STATES}
PARAMS = {"student": {"gain": jnp.float32(0.7)}}
NEAR = {"rtol": 1e-4, "atol": 1e-4}  # float32; 1 / sqrt(abar_999) is 15


def halved(picture):
    n, h, w, c = picture.shape
    return picture.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def doubled(z):
    return jnp.repeat(jnp.repeat(z, 2, 1), 2, 2)


def eps_of(z_t, t, picture, text, states, *, gain=0.7, scale=1.0):
    """A denoiser that depends on all it is told, position by position."""
    of_words = (text.mean((1, 2)) - states.mean((1, 2)))[:, None, None, None]
    return gain * z_t + scale * 0.3 * halved(picture) + 1e-4 * t + 0.1 * of_words


def states_of(picture):
    """A tagger: three states that are colours, of a picture in [0, 1]."""
    return jnp.stack([picture.mean((1, 2)), picture.max((1, 2))], axis=1)


def toy_words(calls: list | None = None) -> Words:
    """Latents are half a picture's size. `calls` gets the name of a network whenever it is traced."""
    calls = [] if calls is None else calls

    def encode(frozen, picture, noise=None):
        return halved(picture) + (0.0 if noise is None else 0.5 * noise)

    def decode(frozen, z):
        calls.append("decoder")
        return doubled(z) / 2

    def states(frozen, picture, *, mode="bicubic", clip=False):
        calls.append("tagger")
        assert (mode, clip) == ("bicubic", False)
        return states_of(picture / 2 + 0.5)

    def predict_eps(params, z_t, t, condition, *, scale=1.0):
        calls.append("denoiser")
        told = (condition[name] for name in ("picture", "text", "image_states"))
        return eps_of(z_t, t, *told, gain=params["gain"], scale=scale)

    return Words(SCHEDULE, encode, decode, states, None, predict_eps, None, None)


def z0_of(z_t, t, eps):
    return (z_t - np.sqrt(1 - ABAR[t]) * eps) / np.sqrt(ABAR[t])


def noised(z0, t, eps):
    return np.sqrt(ABAR[t]) * z0 + np.sqrt(1 - ABAR[t]) * eps


# ---- the start -------------------------------------------------------------------------------------------------------


def test_sampling_starts_from_the_noised_latent_of_the_picture():
    words, picture = toy_words(), 2 * LQ - 1
    z = halved(picture)
    np.testing.assert_allclose(seesr_sampling.start(words, {}, picture, INIT), noised(z, 999, INIT), **NEAR)
    drawn = seesr_sampling.start(words, {}, picture, INIT, encoder_noise=NOISE[0], step=400)
    np.testing.assert_allclose(drawn, noised(z + 0.5 * NOISE[0], 400, INIT), **NEAR)


# ---- guidance --------------------------------------------------------------------------------------------------------


def predict(z_t, t, condition):
    return eps_of(z_t, t, condition["picture"], condition["text"], condition["image_states"])


def test_guidance_goes_from_the_negative_text_past_the_positive_in_one_call():
    shapes = []

    def listening(z_t, t, condition):
        shapes.append((len(z_t), *(len(condition[name]) for name in ("picture", "text", "image_states"))))
        return predict(z_t, t, condition)

    got = seesr_sampling.guided(listening, NEGATIVE, 5.5)(Z_T, 981, KNOWN)
    positive, negative = (eps_of(Z_T, 981, LQ, text, STATES) for text in (TEXT, NEGATIVE))
    np.testing.assert_allclose(got, negative + 5.5 * (positive - negative), **NEAR)
    assert shapes == [(4, 4, 4, 4)]


def test_guidance_works_without_image_states():
    told = KNOWN | {"image_states": None}
    of_text = lambda z_t, t, condition: jnp.mean(condition["text"], (1, 2))[:, None, None, None] * z_t
    got = seesr_sampling.guided(of_text, NEGATIVE, 0.0)(Z_T, 1, told)
    np.testing.assert_allclose(got, NEGATIVE.mean((1, 2))[:, None, None, None] * Z_T, **NEAR)


# ---- tiles -----------------------------------------------------------------------------------------------------------


def test_a_denoiser_that_looks_at_no_neighbours_predicts_in_tiles_what_it_does_at_once():
    shapes = []

    def listening(z_t, t, condition):
        shapes.append((z_t.shape, condition["picture"].shape))
        return predict(z_t, t, condition)

    in_tiles = jax.jit(seesr_sampling.tiled(listening, tile=2, overlap=1))
    np.testing.assert_allclose(in_tiles(Z_T, 7, KNOWN), predict(Z_T, 7, KNOWN), **NEAR)
    assert set(shapes) == {((N, 2, 2, C), (N, 4, 4, C))} and len(shapes) == 1  # six tiles, one network


def test_tiles_see_their_own_pixels_and_are_blended_by_weight():
    mean = lambda z_t, t, condition: jnp.broadcast_to(z_t.mean((1, 2), keepdims=True), z_t.shape)
    z = np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1) * np.ones((1, 4, 1, 1), np.float32)
    got = seesr_sampling.tiled(mean, tile=4, overlap=3)(z, 0, {"picture": doubled(z)})  # columns 0 .. 3, and 1 .. 4
    np.testing.assert_allclose(got[0, :, 0, 0], 1.5, rtol=1e-6)
    np.testing.assert_allclose(got[0, :, 4, 0], 2.5, rtol=1e-6)
    np.testing.assert_allclose(got[0, :, 2, 0], 2.0, rtol=1e-6)  # equally far from both midpoints
    near, far = np.exp(-(0.5**2) / (2 * 0.01 * 16)), np.exp(-(1.5**2) / (2 * 0.01 * 16))
    np.testing.assert_allclose(got[0, :, 1, 0], (1.5 * near + 2.5 * far) / (near + far), rtol=1e-5)


def test_a_latent_no_larger_than_a_tile_stays_whole():
    whole = lambda z_t, t, condition: z_t - z_t.mean()
    got = seesr_sampling.tiled(whole, tile=4, overlap=1)(Z_T, 0, KNOWN)
    np.testing.assert_allclose(got, Z_T - Z_T.mean(), **NEAR)


# ---- many steps ------------------------------------------------------------------------------------------------------


def ddpm_by_hand(times, z, **options):
    """SeeSR's sampler in NumPy: states after each step."""
    made = []
    for i, t in enumerate(times):
        before = ABAR[times[i + 1]] if i + 1 < len(times) else 1.0
        z0 = z0_of(z, t, eps_of(z, t, LQ, TEXT, STATES, **options))
        ratio = ABAR[t] / before
        mean = np.sqrt(before) * (1 - ratio) / (1 - ABAR[t]) * z0 + np.sqrt(ratio) * (1 - before) / (1 - ABAR[t]) * z
        z = mean + np.sqrt((1 - before) / (1 - ABAR[t]) * (1 - ratio)) * NOISE[i]
        made.append(z)
    return np.stack(made)


def many_steps(**options):
    sampler = jax.jit(lambda noise: seesr_sampling.many_steps(
        toy_words(), PARAMS, KNOWN, Z_T, lambda i: noise[i], **options
    ))  # fmt: skip
    return sampler(NOISE)


def test_many_steps_are_draws_from_the_posterior_at_the_public_times():
    picture, made = many_steps(steps=3, scale=0.5)
    want = ddpm_by_hand((667, 334, 1), Z_T, scale=0.5)
    np.testing.assert_allclose(made["samples"], want, **NEAR)
    np.testing.assert_allclose(picture, doubled(want[-1]) / 2, **NEAR)


def test_an_early_start_leaves_out_the_steps_before_it():
    _, made = many_steps(steps=3, first=400)
    np.testing.assert_allclose(made["samples"], ddpm_by_hand((334, 1), Z_T), **NEAR)


def test_a_start_after_the_last_step_is_refused():
    with pytest.raises(ValueError, match="start is 0; expected 1 or more, the least noisy of the steps to take"):
        many_steps(steps=3, first=0)


def test_negative_text_turns_guidance_on():
    got, _ = many_steps(steps=2, negative=NEGATIVE, guidance=1.0)  # by 1: the positive text alone
    np.testing.assert_allclose(got, many_steps(steps=2)[0], **NEAR)
    led, _ = many_steps(steps=2, negative=NEGATIVE, guidance=3.0)
    assert np.abs(led - got).max() > 0.01


# ---- few steps -------------------------------------------------------------------------------------------------------


def few_steps(words=None, **options):
    sampler = jax.jit(lambda noise: seesr_sampling.few_steps(
        words or toy_words(), PARAMS, KNOWN, Z_T, lambda i: noise[i], **options
    ))  # fmt: skip
    return sampler(NOISE)


def refined_by_hand(times, weight):
    """AddSR's sampler in NumPy: z_t, z0, and what was told at each step; and the picture."""
    z_t, picture, states, made = Z_T, LQ, STATES, []
    for i, t in enumerate(times):
        z0 = z0_of(z_t, t, eps_of(z_t, t, picture, TEXT, states))
        made.append((z_t, z0, picture, states))
        result = np.asarray(doubled(z0) / 2)
        picture = weight * (np.clip(result, -1, 1) / 2 + 0.5) + (1 - weight) * LQ
        states = np.asarray(states_of(picture))
        if i + 1 < len(times):
            z_t = noised(z0, times[i + 1], NOISE[i])
    return made, result


@pytest.mark.parametrize(("steps", "first", "times"), [
    (1, None, (999,)), (2, None, (999, 749)), (4, 999, (999, 749, 499, 249)), (3, 800, (749, 499)),
])  # fmt: skip
def test_few_steps_show_their_predictions_to_the_next_step_and_noise_them_again(steps, first, times):
    picture, made = few_steps(steps=steps, first=first, refinement=0.4)
    by_hand, want = refined_by_hand(times, 0.4)
    np.testing.assert_allclose(picture, want, **NEAR)
    for name, arrays in zip(("z_t", "z0", "picture", "image_states"), zip(*by_hand, strict=True), strict=True):
        np.testing.assert_allclose(made[name], np.stack(arrays), err_msg=name, **NEAR)


def test_without_refinement_the_picture_stays_but_is_tagged_anew():
    _, made = few_steps(steps=2, refinement=0.0)
    np.testing.assert_allclose(made["picture"][1], LQ, atol=1e-6)
    np.testing.assert_allclose(made["image_states"][1], states_of(LQ), atol=1e-6)


def test_one_step_needs_no_tagger_and_no_noise_but_that_of_its_start():
    words = dataclasses.replace(toy_words(), states=None)
    picture, _ = seesr_sampling.few_steps(words, PARAMS, KNOWN, Z_T)
    np.testing.assert_allclose(picture, few_steps(steps=1)[0], **NEAR)


def test_more_steps_than_there_are_are_refused():
    with pytest.raises(ValueError, match="num_steps is 5; expected 1 to 4"):
        few_steps(steps=5)


# ---- the compiled program --------------------------------------------------------------------------------------------


def test_a_program_holds_every_network_once():
    calls = []
    few_steps(toy_words(calls), steps=4, tile=2, overlap=1)
    assert sorted(calls) == ["decoder", "denoiser", "tagger"]
    calls.clear()
    noise = lambda i: jnp.asarray(NOISE)[i]
    many = lambda z_T: seesr_sampling.many_steps(
        toy_words(calls), PARAMS, KNOWN, z_T, noise, steps=4, negative=NEGATIVE, tile=2, overlap=1
    )
    jax.make_jaxpr(many)(Z_T)
    assert sorted(calls) == ["decoder", "denoiser"]


def test_the_tagger_runs_once_for_every_step_but_the_first():
    runs = []
    words = toy_words()

    def states(frozen, picture):
        jax.debug.callback(lambda: runs.append(1))
        return words.states(frozen, picture)

    jax.block_until_ready(few_steps(dataclasses.replace(words, states=states), steps=4))
    jax.effects_barrier()
    assert len(runs) == 3

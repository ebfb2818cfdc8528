"""TAD-SeeSR on a model to work out by hand.

Latents are half the pictures, the noise that the network sees is `toy_seesr.line`, and the states are a tenth of the
mean of the picture in [-1, 1].
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tadsr_jax import train
from tadsr_jax.convert import names
from tadsr_jax.families.seesr import Words
from tadsr_jax.networks import parts, unet_sd
from tadsr_jax.recipes import tad_seesr
from tadsr_jax.types import Batch
from tests import toy_seesr
from tests.toy_seesr import SCHEDULE, denoiser, noised
from tests.toys import normal, randomised
from tests.weights import public_entries

pytestmark = pytest.mark.quick

SHAPE = (2, 2, 2, 32)  # channels for the group norms of the discriminator
SMALL = {"discriminator": {"c_dim": 2, "embed_dim": 8}}
KEY = jax.random.key(0)
NEAR = {"rtol": 1e-4, "atol": 1e-5}  # float32

OWN, TEACHERS = (0.9, 0.2, 0.25), (0.7, -0.1, 0.4)
STUDENT = parts.picked(denoiser(*OWN), unet_sd.is_trained)
FROZEN = {
    "student": denoiser(-5, OWN[1], -5),  # of which gain and look are replaced
    "teacher": denoiser(*TEACHERS),
    **{name: {} for name in ("autoencoder", "text_encoder", "tagger")},
}


def toy_words(calls: list | None = None) -> Words:
    """`calls` gets an entry whenever a network is traced."""
    calls = [] if calls is None else calls

    def encode(frozen, picture, noise=None):
        calls.append("encode")
        return picture / 2 + (0 if noise is None else 0.01 * noise)

    def condition(frozen, picture, extra):
        states = extra.get("image_states")
        states = 0.1 * jnp.mean(picture, axis=(1, 2))[:, None, :] if states is None else states
        return {"picture": picture / 2 + 0.5, "text": extra["text"], "image_states": states}

    def predict_eps(params, z_t, t, condition):
        calls.append("eps")
        return toy_seesr.line(params, z_t, t, condition)

    def predict_z0(params, z_t, t, condition):
        calls.append("z0")
        return SCHEDULE.z0_from_eps(z_t, t, toy_seesr.line(params, z_t, t, condition))

    def features(params, z_t, t, condition):
        calls.append("features")
        return [toy_seesr.line(params, z_t, t, condition)]

    return Words(SCHEDULE, encode, None, None, condition, predict_eps, predict_z0, features)


FAMILY = toy_words()


def toy_batch(n: int = 2, **extra) -> Batch:
    lq, gt, tch = (normal(seed, (n, *SHAPE[1:])) for seed in range(3))
    return Batch(lq=lq, gt=gt, extra={"text": jnp.zeros((n, 3, 5)), "tch": tch} | extra)


BATCH = toy_batch()


def recipe(family=FAMILY, **options):
    return tad_seesr.recipe(family, **(SMALL | options))


@functools.cache
def discriminator():
    """Parameters and vectors of a discriminator that has seen some training."""
    maps, t = [jax.ShapeDtypeStruct(SHAPE, jnp.float32)], jax.ShapeDtypeStruct(SHAPE[:1], jnp.int32)
    init = recipe().adds["discriminator"]
    variables = dict(randomised(jax.eval_shape(init, KEY, {"features": maps}, {"disc_t": t})))
    return variables.pop("params"), variables


def answer(made, batch=BATCH, **given):
    """Draws, outputs, logs of both losses."""
    draws = made.draw(KEY, FROZEN, batch) | given
    outputs = made.generate(STUDENT, FROZEN, batch, draws)
    params, stats = discriminator()
    logs = {}
    if made.discriminator_loss:
        _, (logs, stats) = made.discriminator_loss(params, stats, outputs, FROZEN, batch, draws)
    _, (more, _) = made.student_loss(outputs, params, stats, FROZEN, batch, draws)
    return draws, outputs, logs | more


@functools.cache
def default():
    return answer(recipe())


def line(parameters, z_t, t, picture):
    """The toy network in NumPy, of a picture in [-1, 1]."""
    picture = np.asarray(picture)
    return toy_seesr.by_hand(parameters, z_t, t, picture / 2 + 0.5, 0.1 * picture.mean((1, 2))[:, None, :])


# ---- what is drawn ---------------------------------------------------------------------------------------------------


@functools.cache
def many(**options) -> dict:
    """Draws of 300 keys, stacked."""
    made = recipe(**options)
    return jax.jit(jax.vmap(lambda key: made.draw(key, FROZEN, BATCH)))(jax.random.split(KEY, 300))


def test_both_times_are_any_of_20_to_880_one_for_the_whole_batch():
    draws = {name: np.asarray(many()[name]) for name in ("disc_t", "score_t")}
    for t in draws.values():
        assert set(t.ravel()) <= set(range(20, 881, 20)) and {20, 880} <= set(t.ravel())
        np.testing.assert_array_equal(t[:, 0], t[:, 1])
    assert np.mean(draws["disc_t"] == draws["score_t"]) < 0.1  # 1 of 44 is expected


def test_times_can_be_chosen():
    assert set(np.asarray(many(times=(3, 500))["score_t"]).ravel()) == {3, 500}


def test_every_noise_is_normal_and_its_own():
    draws = many()
    noises = [draws[name] for name in ("eps", "disc_eps", "score_eps")]
    noises += [100 * (draws["z_gt"] - BATCH.gt / 2), 100 * (draws["z_tch"] - BATCH.extra["tch"] / 2)]
    covariance = np.cov([np.ravel(noise) for noise in noises])
    np.testing.assert_allclose(covariance, np.eye(5), atol=0.02)  # of 77,000 numbers: deviations of 0.004


@pytest.mark.parametrize(
    ("options", "lacks"),
    [({"target": "gt"}, True), ({"regression": 0, "score": 0}, True), ({"regression": 0}, False), ({}, False)],
)
def test_the_teachers_pictures_are_needed_only_where_they_are_the_target(options, lacks):
    made, batch = recipe(**options), BATCH.replace(extra={"text": BATCH.extra["text"]})
    if lacks:
        assert "z_tch" not in made.draw(KEY, FROZEN, batch)
        return
    with pytest.raises(ValueError) as error:
        made.draw(KEY, FROZEN, batch)
    assert str(error.value) == (
        "The batch lacks the teacher's pictures (tch): store them with the data, or set config.losses.target='gt'."
    )


def test_known_states_take_the_places_of_the_taggers():
    known = {"image_states": jnp.ones((2, 1, 32)), "gt_image_states": jnp.full((2, 1, 32), 2.0)}
    draws = recipe().draw(KEY, FROZEN, toy_batch(**known))
    np.testing.assert_array_equal(draws["condition"]["image_states"], known["image_states"])
    np.testing.assert_array_equal(draws["teacher_condition"]["image_states"], known["gt_image_states"])


# ---- the student -----------------------------------------------------------------------------------------------------


def test_the_student_starts_at_999_from_the_ground_truths_latent_and_is_shown_lq():
    draws, outputs, _ = default()
    z_T = noised(draws["z_gt"], [999, 999], draws["eps"])
    eps = line(OWN, z_T, [999, 999], BATCH.lq)
    abar = SCHEDULE.abar[999]
    z0 = (z_T - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    np.testing.assert_allclose(outputs["z0"], z0, rtol=1e-4, atol=1e-4)  # rounding is magnified by 15


def test_the_gradient_is_that_of_the_trained_part_of_the_students_own_networks():
    made = recipe(adversarial=0)
    draws, outputs, _ = answer(made)
    _, pullback = jax.vjp(lambda p: made.generate(p, FROZEN, BATCH, draws), STUDENT)
    (grads,) = pullback({"z0": jnp.ones_like(outputs["z0"])})
    assert jax.tree.structure(grads) == jax.tree.structure(STUDENT)
    of_eps = -np.sqrt(1 / SCHEDULE.abar[999] - 1)  # d z0 / d eps
    z_T = noised(draws["z_gt"], [999, 999], draws["eps"])
    gain = grads["unet"]["mid_block.image_attentions.0"]["gain"]
    look = grads["controlnet"]["controlnet_cond_embedding.conv_in"]["look"]
    np.testing.assert_allclose(gain, of_eps * z_T.sum(), rtol=1e-3)
    np.testing.assert_allclose(look, of_eps * np.sum(np.asarray(BATCH.lq) / 2 + 0.5), rtol=1e-3)


# ---- the score and the regression ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["tch", "gt"])
@pytest.mark.parametrize("shown", ["gt", "lq"])
def test_the_gradient_of_hsd_is_the_teachers_noise_in_the_student_less_that_in_the_target(target, shown):
    made = recipe(adversarial=0, target=target, teacher_condition=shown)
    draws, outputs, _ = answer(made)
    t, eps = draws["score_t"], draws["score_eps"]
    of_both = [
        line(TEACHERS, noised(z, t, eps), t, getattr(BATCH, shown)) for z in (outputs["z0"], draws[f"z_{target}"])
    ]
    latents = jnp.stack([outputs["z0"], draws[f"z_{target}"]])
    seen = tad_seesr.teacher_eps(FAMILY, FROZEN["teacher"], latents, t, eps, draws["teacher_condition"])
    np.testing.assert_allclose(seen, of_both, **NEAR)

    def term(z0):
        return made.student_loss({"z0": z0}, None, None, FROZEN, BATCH, draws)[1][0]["hsd"].sum()

    gradient = jax.grad(term)(outputs["z0"]) * np.prod(SHAPE[1:])
    np.testing.assert_allclose(gradient, of_both[0] - of_both[1], **NEAR)


@pytest.mark.parametrize("target", ["tch", "gt"])
def test_the_regression_is_the_distance_to_the_target(target):
    draws, outputs, logs = answer(recipe(target=target))
    want = np.mean((np.asarray(outputs["z0"]) - np.asarray(draws[f"z_{target}"])) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(logs["mse"], want, rtol=1e-5)


# ---- the discriminator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["gt", "lq"])
def test_the_discriminator_reads_the_teachers_maps_of_the_student_and_of_the_ground_truth(shown):
    made = recipe(teacher_condition=shown)
    draws, outputs, logs = answer(made)
    t = draws["disc_t"]
    real, fake = (
        line(TEACHERS, noised(z, t, draws["disc_eps"]), t, getattr(BATCH, shown))
        for z in (draws["z_gt"], outputs["z0"])
    )
    np.testing.assert_allclose(outputs["features"][0], fake, rtol=1e-4, atol=1e-4)
    network = tad_seesr.TimeAwareDiscriminator(2, 8)
    params, stats = discriminator()
    for name, maps in (("logit_real", real), ("logit_fake", fake)):
        maps = [jnp.asarray(maps, jnp.float32)]
        want, stats = network.apply({"params": params, **stats}, maps, t, update_stats=True, mutable=["spectral"])
        np.testing.assert_allclose(logs[name], want[0], rtol=1e-3, atol=1e-4)


def test_the_hinges_are_those_of_all_logits_together():
    _, _, logs = default()
    real, fake = np.asarray(logs["logit_real"]), np.asarray(logs["logit_fake"])
    assert real.shape == fake.shape == (2, 2 * 4)  # c_dim logits at each of 2 x 2 positions
    want = np.maximum(1 - real, 0).mean(1) + np.maximum(1 + fake, 0).mean(1)
    np.testing.assert_allclose(logs["loss_d"], want, rtol=1e-5)


def test_the_adversarial_gradient_goes_through_the_frozen_teacher_and_the_discriminators_loss_gives_none():
    made = recipe()
    draws, outputs, _ = default()
    params, stats = discriminator()
    judged = lambda o: made.discriminator_loss(params, stats, o, FROZEN, BATCH, draws)[0]
    assert not any(leaf.any() for leaf in jax.tree.leaves(jax.grad(judged)(outputs)))
    gan = lambda o: made.student_loss(o, params, stats, FROZEN, BATCH, draws)[1][0]["gan"].sum()
    grads = jax.grad(gan)(outputs)
    assert grads["features"][0].any() and not grads["z0"].any()
    _, pullback = jax.vjp(lambda p: made.generate(p, FROZEN, BATCH, draws), STUDENT)
    assert all(leaf.any() for leaf in jax.tree.leaves(pullback(grads)[0]))


def test_the_default_discriminator_is_the_published_one():
    made = tad_seesr.recipe(FAMILY)
    sides = {64: 320, 32: 640, 16: 1280, 8: 1280}  # of a picture of 512
    maps = [jax.ShapeDtypeStruct((1, side, side, c), jnp.float32) for side, c in sides.items()]
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = jax.eval_shape(made.adds["discriminator"], KEY, {"features": maps}, {"disc_t": t})
    assert names.public_shapes(variables) == public_entries("tadseesr_discriminator")


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_terms():
    _, _, logs = default()
    np.testing.assert_allclose(logs["loss"], 0.2 * logs["mse"] + logs["hsd"] + 0.2 * logs["gan"], rtol=1e-5)
    _, _, other = answer(recipe(regression=2.0, score=0.5, adversarial=0.1))
    np.testing.assert_allclose(other["loss"], 2 * logs["mse"] + 0.5 * logs["hsd"] + 0.1 * logs["gan"], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "in_draw", "in_generate", "in_losses", "logs"),
    [
        ({}, 2, ["z0", "features"], {"eps", "features"}, {"mse", "hsd", "gan"}),
        ({"target": "gt"}, 1, ["z0", "features"], {"eps", "features"}, {"mse", "hsd", "gan"}),
        ({"score": 0}, 2, ["z0", "features"], {"features"}, {"mse", "gan"}),
        ({"adversarial": 0}, 2, ["z0"], {"eps"}, {"mse", "hsd"}),
        ({"regression": 0, "score": 0}, 1, ["z0", "features"], {"features"}, {"gan"}),
        ({"adversarial": 0, "score": 0}, 2, ["z0"], set(), {"mse"}),
    ],
)
def test_a_term_of_weight_zero_runs_no_network(options, in_draw, in_generate, in_losses, logs):
    calls = []
    made = recipe(toy_words(calls), **options)
    draws = made.draw(KEY, FROZEN, BATCH)
    assert calls[1:] == ["encode"] * in_draw  # the first asks for the shape alone
    calls.clear()
    outputs = made.generate(STUDENT, FROZEN, BATCH, draws)
    assert calls == in_generate
    calls.clear()
    params, stats = discriminator()
    if made.discriminator_loss:
        made.discriminator_loss(params, stats, outputs, FROZEN, BATCH, draws)
    _, (found, _) = made.student_loss(outputs, params, stats, FROZEN, BATCH, draws)
    assert set(calls) == in_losses
    assert set(found) == logs | {"loss"}
    assert bool(made.adds) == bool(made.discriminator_loss) == ("gan" in logs)


# ---- a whole step ----------------------------------------------------------------------------------------------------


def test_a_batch_of_any_size_is_judged_sample_by_sample():
    whole = toy_batch(3)
    draws, _, logs = answer(recipe(), whole)
    alone = jax.tree.map(lambda leaf: leaf[-1:], (whole, draws))
    _, _, of_one = answer(recipe(), alone[0], **alone[1])
    for name in ("loss_d", "logit_real", "logit_fake", "mse", "hsd", "gan", "loss"):
        assert logs[name].shape[0] == 3
        np.testing.assert_allclose(logs[name][-1:], of_one[name], rtol=1e-3, atol=1e-4)


@functools.cache
def stepped(accumulate: int = 1):
    """The states before and after a step, its logs, and the networks that were traced for it."""
    calls = []
    made = recipe(toy_words(calls))
    optimizers = {name: optax.sgd(1e-3) for name in ("student", "discriminator")}
    student = jax.tree.map(jnp.copy, STUDENT)  # the step's own: it is donated
    state = train.init_state(KEY, FAMILY, made, optimizers, student, FROZEN, BATCH)
    before = jax.tree.map(np.array, state)
    calls.clear()
    step = train.jit_step(recipe=made, optimizers=optimizers, ema_decay=0.99, accumulate=accumulate)
    state, logs = step(state, FROZEN, BATCH)
    return before, state, logs, [name for name in calls if name != "encode"]


def test_a_step_trains_a_part_of_the_student_and_the_discriminator():
    before, after, logs, _ = stepped()
    assert not after.skipped and all(np.isfinite(value) for value in logs.values())
    assert jax.tree.structure(after.params["student"]) == jax.tree.structure(after.ema) == jax.tree.structure(STUDENT)
    for player in ("student", "discriminator"):
        pairs = zip(*map(jax.tree.leaves, (after.params[player], before.params[player])))
        assert any((a != b).any() for a, b in pairs)


def test_a_steps_program_holds_the_student_once_and_the_teacher_once_for_both_latents_of_the_score():
    assert sorted(stepped()[-1]) == ["eps", "features", "features", "z0"]


def test_a_batch_can_be_worked_off_in_parts():
    _, after, logs, _ = stepped(accumulate=2)
    assert after.step == 1 and not after.skipped and np.isfinite(logs["loss"])


# ---- wrong options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "teacher"}, "config.losses.target is 'teacher'; expected one of tch, gt."),
        ({"teacher_condition": "hr"}, "config.losses.teacher_condition is 'hr'; expected one of gt, lq."),
        ({"times": ()}, "config.losses.times is (); expected one or more steps from 0 to 999."),
        ({"times": (20, 1000)}, "config.losses.times is (20, 1000); expected one or more steps from 0 to 999."),
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

"""AddSR on a model to work out by hand.

Latents are pictures, encoded as their half, z0 is `toy_seesr.line`, and the states are a tenth of the mean of the
picture in [0, 1].
"""

import functools
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tadsr_jax import train
from tadsr_jax.diffusion.ddpm import FEW_STEPS, ddpm_schedule
from tadsr_jax.families.seesr import Words
from tadsr_jax.networks import abstract_variables, diffaugment, parts, unet_sd
from tadsr_jax.networks import dino as vits
from tadsr_jax.networks.discriminators import ConditionalDiscriminator
from tadsr_jax.recipes import addsr
from tadsr_jax.types import Batch
from tests import toy_seesr
from tests.toy_seesr import SCHEDULE, by_hand, denoiser, noised
from tests.toys import randomised

ABAR = SCHEDULE.abar
SIDE = 16  # of pictures; the transformers see half of it
VITS = {
    "dino": {"dim": 8, "depth": 1, "heads": 2, "patch": 4, "image_size": 8, "taps": (0,)},
    "dinov2": {"dim": 8, "depth": 1, "heads": 2, "patch": 4, "image_size": 8},
}
SMALL = {"discriminator": {"cmap_dim": 4}}
KEY = jax.random.key(0)
NEAR = {"rtol": 1e-4, "atol": 1e-5}  # float32

OWN, TEACHER = (0.3, 0.2, 0.25), (0.2, -0.1, 0.4)
WHOLE = denoiser(*OWN)
STUDENT = parts.picked(WHOLE, unet_sd.is_trained)


def toy_words(calls: list | None = None) -> Words:
    """`calls` gets an entry whenever a function is traced."""
    calls = [] if calls is None else calls

    def encode(frozen, picture, noise=None):
        return picture / 2 + (0 if noise is None else 0.01 * noise)

    def decode(frozen, z):
        calls.append("decode")
        return 2 * z

    def states(frozen, picture, *, mode="bicubic", clip=False):
        return 0.1 * jnp.mean(picture / 2 + 0.5, axis=(1, 2))[:, None, :]

    def condition(frozen, picture, extra):
        known = extra.get("image_states")
        return {
            "picture": picture / 2 + 0.5,
            "text": extra["text"],
            "image_states": states(frozen, picture) if known is None else known,
        }

    def predict_z0(params, z_t, t, condition):
        calls.append("z0")
        return toy_seesr.line(params, z_t, t, condition)

    return Words(SCHEDULE, encode, decode, states, condition, None, predict_z0, None)


FAMILY = toy_words()


class ToyTransformer(NamedTuple):
    """In the place of a vision transformer: patches times a matrix; maps of two taps, and their sum as class token."""

    image_size: int = 8
    patch: int = 4
    dim: int = 8
    taps: tuple[int, ...] = (0, 1)

    def apply(self, variables, x):
        n, side = len(x), self.image_size // self.patch
        patches = x.reshape(n, side, self.patch, side, self.patch, 3).mean((2, 4))
        x = patches @ variables["params"]
        return vits.Features([x, 2 * x], x.sum((1, 2)))


TOYS = {"dino": ToyTransformer(), "dinov2": ToyTransformer()}
FROZEN = {
    "student": WHOLE,
    "teacher": denoiser(*TEACHER),
    "autoencoder": {},
    "tagger": {},
    "text_encoder": {},
    "dino": randomised(jax.ShapeDtypeStruct((3, 8), jnp.float32), 1.0),
    "dinov2": randomised(jax.ShapeDtypeStruct((3, 8), jnp.float32), 1.0, seed=1),
}


def toy_batch(n: int = 2, seed: int = 0, **extra) -> Batch:
    rng = np.random.default_rng(seed)
    lq, gt = (jnp.asarray(rng.uniform(-1, 1, (n, SIDE, SIDE, 3)), jnp.float32) for _ in range(2))
    return Batch(lq=lq, gt=gt, extra={"text": jnp.zeros((n, 3, 5))} | extra)


BATCH = toy_batch()


def recipe(family=FAMILY, *, adversarial=0, **options):
    """Without the discriminator, which takes longest, where a test does not ask for it."""
    options["adversarial"] = adversarial
    with mock.patch.object(addsr, "backbones", lambda **_: TOYS):
        return addsr.recipe(family, **(SMALL | options))


def drawn(made, batch=BATCH, key=KEY, **given) -> dict:
    given = {name: jnp.asarray(value) for name, value in given.items()}
    return made.draw(key, FROZEN, batch) | given


ONE = {"two_step": False, "first": [2, 1]}
TWO = {"two_step": True, "first": [0, 2]}


@functools.cache
def discriminator():
    """Parameters and vectors of a discriminator that has seen some training."""
    made = recipe(adversarial=0.02)
    draws = jax.eval_shape(made.draw, KEY, FROZEN, BATCH)
    variables = dict(randomised(jax.eval_shape(made.adds["discriminator"], KEY, {}, draws)))
    return variables.pop("params"), variables


def answer(made, draws, batch=BATCH) -> tuple[dict, dict]:
    """Outputs, and the logs of both losses."""

    params, start = discriminator() if made.adds else (None, None)

    def both(draws, batch):
        stats = start
        outputs, logs = made.generate(STUDENT, FROZEN, batch, draws), {}
        if made.adds:
            _, (logs, stats) = made.discriminator_loss(params, stats, outputs, FROZEN, batch, draws)
        _, (more, _) = made.student_loss(outputs, params, stats, FROZEN, batch, draws)
        return outputs, logs | more

    # Compiled where there is much to compute; else operation by operation, which tests share.
    return (jax.jit(both) if made.adds else both)(draws, batch)


@functools.cache
def default_parts(adversarial: float = 0.02):
    """Draws, outputs and logs of two steps."""
    made = recipe(adversarial=adversarial)
    draws = drawn(made, **TWO)
    return draws, *answer(made, draws)


def states_of(picture):
    """Of a picture in [0, 1]."""
    return 0.1 * picture.mean((1, 2))[:, None, :]


LQ = np.asarray(BATCH.lq) / 2 + 0.5


# ---- one step, and two -----------------------------------------------------------------------------------------------


def test_one_step_predicts_from_the_noised_ground_truth_at_999_with_the_low_quality_picture():
    made = recipe()
    draws = drawn(made, **ONE)
    outputs, _ = answer(made, draws)
    z_t = noised(draws["z"], [999, 999], draws["eps"])
    z0 = by_hand(OWN, z_t, [999, 999], LQ, states_of(LQ))
    np.testing.assert_allclose(outputs["z0"], z0, **NEAR)
    np.testing.assert_allclose(outputs["image"], np.clip(2 * z0, -1, 1), **NEAR)
    # The latents are a draw around the ground truth's half.
    assert 0 < np.abs(draws["z"] - BATCH.gt / 2).max() < 0.06


@pytest.mark.parametrize(
    ("options", "second_picture"),
    [
        ({}, lambda x: 0.5 * (x / 2 + 0.5) + 0.5 * LQ),
        ({"psr_weight": 0.25}, lambda x: 0.25 * (x / 2 + 0.5) + 0.75 * LQ),
        ({"variant": "released"}, lambda x: x),
        ({"variant": "released", "psr_range": "unit"}, lambda x: x / 2 + 0.5),
    ],
)
def test_the_second_step_sees_the_firsts_prediction_at_the_next_lower_time(options, second_picture):
    made = recipe(**options)
    draws = drawn(made, **TWO)
    outputs, _ = answer(made, draws)
    first = by_hand(OWN, noised(draws["z"], [999, 499], draws["eps"]), [999, 499], LQ, states_of(LQ))
    picture = second_picture(np.clip(2 * first, -1, 1))
    z_t = noised(draws["z"], [749, 249], draws["eps"])  # the same latents and the same noise
    np.testing.assert_allclose(outputs["z0"], by_hand(OWN, z_t, [749, 249], picture, states_of(picture)), **NEAR)


@pytest.mark.parametrize("branch", [ONE, TWO], ids=["one", "two"])
def test_the_gradient_is_that_of_the_last_step_and_of_the_trained_part(branch):
    made = recipe()
    draws = drawn(made, **branch)
    outputs, pullback = jax.vjp(lambda p: made.generate(p, FROZEN, BATCH, draws), STUDENT)
    (grads,) = pullback({"z0": jnp.ones_like(outputs["z0"]), "image": jnp.zeros_like(outputs["image"])})
    assert jax.tree.structure(grads) == jax.tree.structure(STUDENT)
    t, picture = [999, 999], LQ
    if branch is TWO:
        first = by_hand(OWN, noised(draws["z"], [999, 499], draws["eps"]), [999, 499], LQ, states_of(LQ))
        t, picture = [749, 249], 0.5 * (np.clip(2 * first, -1, 1) / 2 + 0.5) + 0.5 * LQ
    z_t = noised(draws["z"], t, draws["eps"])
    np.testing.assert_allclose(grads["unet"]["mid_block.image_attentions.0"]["gain"], z_t.sum(), rtol=1e-3)
    look = grads["controlnet"]["controlnet_cond_embedding.conv_in"]["look"]
    np.testing.assert_allclose(look, picture.sum(), rtol=1e-3)


def test_both_branches_are_one_program():
    made = recipe()
    generate = jax.jit(made.generate)
    for branch in (ONE, TWO):
        draws = drawn(made, **branch)
        got = generate(STUDENT, FROZEN, BATCH, draws)
        np.testing.assert_allclose(got["z0"], made.generate(STUDENT, FROZEN, BATCH, draws)["z0"], **NEAR)
    assert generate._cache_size() == 1


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def many(made, names, keys: int = 60) -> dict:
    """Draws of many keys, stacked."""
    draw = jax.jit(jax.vmap(lambda key: {name: made.draw(key, FROZEN, BATCH)[name] for name in names}))
    return {name: np.asarray(value) for name, value in draw(jax.random.split(KEY, keys)).items()}


def test_half_of_the_batches_have_two_steps_which_start_at_any_time_but_the_last():
    draws = many(recipe(), ("two_step", "first", "teacher_t"))
    assert 15 < draws["two_step"].sum() < 45  # of 60: deviations of 4
    assert set(draws["first"].ravel()) == {0, 1, 2}
    assert draws["teacher_t"].shape == (60, 4, 2)  # passes, samples
    assert 0 <= draws["teacher_t"].min() < 30 and 970 <= draws["teacher_t"].max() <= 999


@pytest.mark.parametrize("share", [0, 1])
def test_the_share_of_two_steps_can_be_none_or_all(share):
    assert set(many(recipe(two_step=share), ("two_step",), keys=9)["two_step"]) == {bool(share)}


def test_every_look_of_the_discriminator_has_its_own_augmentation():
    draws = drawn(recipe(adversarial=1))
    moved = np.stack([draws[view]["centre"] for view in addsr.VIEWS])
    assert len(np.unique(moved.reshape(3, -1), axis=0)) == 3


def test_the_teachers_noise_is_the_students_or_fresh():
    same, fresh = drawn(recipe()), drawn(recipe(teacher_noise="fresh"))
    assert same["teacher_eps"] is same["eps"]
    assert fresh["teacher_eps"].shape == (4, *fresh["eps"].shape)
    assert len(np.unique(np.asarray(fresh["teacher_eps"])[:, 0, 0, 0, 0])) == 4


def test_the_student_can_start_from_the_low_quality_latent():
    draws = drawn(recipe(start="lq"))
    assert 0 < np.abs(draws["z"] - BATCH.lq / 2).max() < 0.06


def test_known_states_take_the_places_of_the_taggers():
    known = {"image_states": jnp.ones((2, 1, 3)), "gt_image_states": jnp.full((2, 1, 3), 2.0)}
    draws = drawn(recipe(), toy_batch(**known))
    np.testing.assert_array_equal(draws["condition"]["image_states"], known["image_states"])
    np.testing.assert_array_equal(draws["teacher_condition"]["image_states"], known["gt_image_states"])


# ---- the distillation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"teacher_condition": "lq"}, {"teacher_noise": "fresh"}])
def test_the_distillation_is_the_distance_to_the_teachers_pictures_where_it_is_trusted(options):
    made = recipe(**options)
    draws = drawn(made, **ONE)
    outputs, logs = answer(made, draws)
    z0, x = np.asarray(outputs["z0"]), np.asarray(outputs["image"]) / 2 + 0.5
    picture = LQ if "teacher_condition" in options else np.asarray(BATCH.gt) / 2 + 0.5
    eps = np.broadcast_to(draws["teacher_eps"], (4, *z0.shape))
    want = 0
    for t, noise in zip(np.asarray(draws["teacher_t"]), eps):
        z_k = by_hand(TEACHER, noised(z0, t, noise), t, picture, states_of(picture))
        x_k = np.clip(2 * z_k, -1, 1) / 2 + 0.5
        want += np.sqrt(ABAR[t]) * ((x_k - x) ** 2).mean((1, 2, 3)) / 4
    np.testing.assert_allclose(logs["distillation"], 0.5 * want, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "branch", "weights"),
    [
        ({}, ONE, [0.5, 0.5]),
        ({}, TWO, [1.05, 4.6305]),  # learnt at 749 and at 249
        ({"variant": "released"}, ONE, [4.6305, 4.6305]),
        ({"variant": "released"}, TWO, [0.5, 2.205]),  # of the first passes, at 999 and 499
        ({"ta_weight": "linear"}, TWO, [0.9, 1.3]),
        ({"ta_step": "first"}, TWO, [0.5, 2.205]),
    ],
)
def test_the_weight_grows_with_the_step(options, branch, weights):
    made = recipe(**options)
    draws = drawn(made, **branch)
    outputs, logs = answer(made, draws)
    given = (draws[name] for name in ("teacher_t", "teacher_eps", "teacher_condition"))
    z_k = addsr.teacher_latents(FAMILY, FROZEN["teacher"], outputs["z0"], *given)
    x_k, x = np.clip(2 * np.asarray(z_k), -1, 1), np.asarray(outputs["image"])
    signal = np.sqrt(ABAR[np.asarray(draws["teacher_t"])])
    distance = (signal * ((x_k - x) ** 2).mean((2, 3, 4)) / 4).mean(0)
    np.testing.assert_allclose(logs["distillation"], weights * distance, rtol=1e-4)


def test_the_distillation_moves_the_picture_alone_and_not_its_target():
    made = recipe()
    draws = drawn(made, **ONE)
    outputs, _ = answer(made, draws)
    loss = lambda o: made.student_loss(o, None, None, FROZEN, BATCH, draws)[0]
    grads = jax.grad(loss)(outputs)
    assert not grads["z0"].any() and grads["image"].any()


# ---- the discriminator -----------------------------------------------------------------------------------------------


def test_the_hinges_are_those_of_all_logits_together():
    _, _, logs = default_parts()
    real, fake = np.asarray(logs["logit_real"]), np.asarray(logs["logit_fake"])
    assert real.shape == fake.shape == (2, 2 * 4)  # two maps of 2 x 2
    want = np.maximum(1 - real, 0).mean(1) + np.maximum(1 + fake, 0).mean(1)
    np.testing.assert_allclose(logs["loss_d"], want, rtol=1e-5)
    assert logs["gan"].shape == (2,)


def test_pictures_are_judged_augmented_and_as_the_frozen_transformer_sees_them():
    """Three looks, each with an augmentation of its own and after one more power iteration."""
    draws, outputs, logs = default_parts()
    params, stats = discriminator()
    judge = jax.jit(functools.partial(ConditionalDiscriminator(4).apply, update_stats=True, mutable=["spectral"]))
    looks = []
    for name, picture in (("real", BATCH.gt), ("fake", outputs["image"]), ("gan", outputs["image"])):
        view = draws[f"view_{name}"]
        seen = diffaugment.view(diffaugment.augment(picture, view) / 2 + 0.5, view, size=8)
        maps = TOYS["dino"].apply({"params": FROZEN["dino"]}, vits.normalize(seen)).maps
        logits, stats = judge({"params": params, **stats}, maps, draws["class_token"])
        looks.append(np.concatenate(logits, axis=1))
    np.testing.assert_allclose(logs["logit_real"], looks[0], **NEAR)
    np.testing.assert_allclose(logs["logit_fake"], looks[1], **NEAR)
    np.testing.assert_allclose(logs["gan"], -looks[2].mean(1), **NEAR)


def test_the_condition_is_the_low_quality_pictures_class_token():
    draws, *_ = default_parts()
    enlarged = vits.enlarge(jnp.asarray(LQ), 8)  # in [0, 1], not normalised
    token = TOYS["dinov2"].apply({"params": FROZEN["dinov2"]}, enlarged).class_token
    np.testing.assert_allclose(draws["class_token"], token, **NEAR)


def test_the_discriminators_loss_moves_nothing_in_the_student():
    made = recipe(adversarial=1, distillation=0)
    draws, outputs, _ = default_parts()
    params, stats = discriminator()

    @jax.jit
    def gradients(outputs, draws):
        judged = lambda o: made.discriminator_loss(params, stats, o, FROZEN, BATCH, draws)[0]
        answered = lambda o: made.student_loss(o, params, stats, FROZEN, BATCH, draws)[0]
        return jax.grad(judged)(outputs), jax.grad(answered)(outputs)

    of_discriminator, of_student = gradients(outputs, draws)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_discriminator))
    assert of_student["image"].any()


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_the_terms():
    draws, _, default = default_parts()
    np.testing.assert_allclose(default["loss"], default["distillation"] + 0.02 * default["gan"], rtol=1e-5)
    _, logs = answer(recipe(distillation=2, adversarial=0.5), draws)
    np.testing.assert_allclose(logs["loss"], 2 * default["distillation"] + 0.5 * default["gan"], rtol=1e-5)


def test_a_batch_of_any_size_is_judged_sample_by_sample():
    """Three samples, and the first of them alone; the public code takes two, no more and no less."""
    made, batch = recipe(adversarial=0.02), toy_batch(3)
    draws = drawn(made, batch, two_step=True, first=[0, 1, 2])
    _, logs = answer(made, draws, batch)
    # What is of the batch (a branch, whether pictures are cut and where) stays; the teacher's times have the passes in
    # front.
    of_sample = lambda leaf: leaf[:1] if leaf.ndim and leaf.shape[0] == 3 else leaf
    alone = jax.tree.map(of_sample, draws) | {"teacher_t": draws["teacher_t"][:, :1]}
    _, logs_alone = answer(made, alone, jax.tree.map(of_sample, batch))
    for name in ("loss_d", "logit_real", "distillation", "gan", "loss"):
        assert len(logs[name]) == 3
        np.testing.assert_allclose(logs[name][:1], logs_alone[name], **NEAR)


@pytest.mark.parametrize(
    ("options", "logs", "calls"),
    [
        ({"adversarial": 0.02}, {"distillation", "gan", "loss"}, ["z0", "decode"]),  # the teacher's, in loops
        ({"adversarial": 0}, {"distillation", "loss"}, ["z0", "decode"]),
        ({"adversarial": 0.02, "distillation": 0}, {"gan", "loss"}, []),
    ],
)
def test_a_term_of_weight_zero_runs_no_network(options, logs, calls):
    called = []
    made = recipe(toy_words(called), **options)
    arguments = (*discriminator(), FROZEN, BATCH, jax.eval_shape(lambda: drawn(made)))
    outputs = jax.eval_shape(lambda draws: made.generate(STUDENT, FROZEN, BATCH, draws), arguments[-1])
    called.clear()
    _, (got, _) = jax.eval_shape(made.student_loss, outputs, *arguments)
    assert called == calls and set(got) == logs
    assert bool(made.adds) == ("gan" in logs) == ("dino" in made.frozen)
    assert (made.discriminator_loss is not None) == ("gan" in logs)


# ---- training --------------------------------------------------------------------------------------------------------


def trained(made, *, steps: int, student_rate: float = 0.1, batch=BATCH, frozen=FROZEN, accumulate: int = 1):
    """(state before, state after some updates, logs of the last one, the compiled step)."""
    optimizers = {"student": optax.sgd(student_rate), "discriminator": optax.sgd(0.1)}
    student = jax.tree.map(jnp.copy, STUDENT)  # a step donates the state, and the frozen student is still needed
    state = train.init_state(KEY, None, made, optimizers, student, frozen, batch)
    before = jax.tree.map(np.array, state)
    step = train.jit_step(recipe=made, optimizers=optimizers, ema_decay=0.99, accumulate=accumulate)
    for _ in range(steps):
        state, logs = step(state, frozen, batch)
    return before, state, logs, step


def changed(tree, other) -> list[bool]:
    return jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), tree, other))


def test_a_training_step_learns_in_part_with_the_networks_as_they_are():
    """The real transformers; everything is compiled once for both branches."""
    networks = addsr.backbones(**VITS)
    transformers = {name: randomised(abstract_variables(module)["params"]) for name, module in networks.items()}
    made = addsr.recipe(FAMILY, **SMALL, **VITS)
    before, state, logs, step = trained(made, steps=4, frozen=FROZEN | transformers)
    assert step._cache_size() == 1
    assert all(np.isfinite(value) for value in logs.values()) and logs["skipped_in_row"] == 0
    assert jax.tree.structure(state.params["student"]) == jax.tree.structure(STUDENT)
    assert all(changed(state.params["student"], before.params["student"]))
    assert all(changed(state.ema, before.ema))
    assert any(changed(state.params["discriminator"], before.params["discriminator"]))


def test_a_training_step_holds_the_denoiser_and_the_decoder_once_a_pass():
    calls = []
    made = recipe(toy_words(calls), adversarial=0.02)
    optimizers = dict.fromkeys(("student", "discriminator"), optax.sgd(0.1))
    abstract = lambda: train.init_state(KEY, None, made, optimizers, STUDENT, FROZEN, BATCH)
    state = jax.eval_shape(abstract)
    calls.clear()
    step = train.jit_step(recipe=made, optimizers=optimizers, ema_decay=0.99, accumulate=1)
    step.trace(state, FROZEN, BATCH)
    assert calls == ["z0", "decode"] * 3  # the first pass, in its branch; the last; the teacher's four, in loops


def test_a_batch_can_be_worked_off_in_parts():
    _, state, logs, _ = trained(recipe(), steps=1, batch=toy_batch(4), accumulate=2)
    assert state.step == 1 and logs["skipped_in_row"] == 0


# ---- every option ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "released"},
        {"distillation": 0.5},
        {"adversarial": 0.5},
        {"start": "lq"},
        {"psr_weight": 0.4},
        {"psr_range": "signed"},
        {"ta_weight": "linear"},
        {"ta_step": "first"},
        {"teacher_condition": "lq"},
        {"teacher_passes": 2},
        {"teacher_noise": "fresh"},
        {"adversarial": 0.02, "discriminator": {"cmap_dim": 4, "dtype": "bfloat16"}},
    ],
    ids=lambda options: list(options)[-1],
)
def test_every_option_alone_changes_what_is_computed_and_leaves_it_finite(options):
    made = recipe(**options)
    _, logs = answer(made, drawn(made, **TWO))
    assert all(np.isfinite(value).all() for value in logs.values())
    _, _, default = default_parts(0.02 if "discriminator" in options else 0)
    assert not np.allclose(logs["loss"], default["loss"], rtol=1e-5)


def test_an_option_given_beside_a_variant_wins():
    made = recipe(variant="released", psr_weight=0.5, psr_range="unit", ta_step="own")
    outputs, logs = answer(made, drawn(made, **TWO))
    _, default_outputs, default = default_parts(0)
    np.testing.assert_array_equal(outputs["z0"], default_outputs["z0"])
    np.testing.assert_array_equal(logs["distillation"], default["distillation"])


def test_the_frozen_transformers_are_the_published_ones_unless_said_otherwise():
    networks = addsr.backbones()
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(module)))
             for name, module in networks.items()}  # fmt: skip
    assert sizes == {"dino": 21_665_664, "dinov2": 22_056_576}
    assert networks["dino"].taps == (2, 5, 8, 11, vits.EMBEDDING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "public"}, "config.losses.variant is 'public'; expected one of paper, released."),
        ({"psr_range": "0..1"}, "config.losses.psr_range is '0..1'; expected one of unit, signed."),
        ({"psr_weight": 40}, "config.losses.psr_weight is 40; expected 0 to 1."),
        ({"two_step": -0.5}, "config.losses.two_step is -0.5; expected 0 to 1."),
        ({"ta_weight": "cubic"}, "config.losses.ta_weight is 'cubic'; expected one of exponential, linear."),
        ({"ta_step": "last"}, "config.losses.ta_step is 'last'; expected one of own, first."),
        ({"start": "noise"}, "config.losses.start is 'noise'; expected one of gt, lq."),
        ({"teacher_condition": "hq"}, "config.losses.teacher_condition is 'hq'; expected one of gt, lq."),
        ({"teacher_noise": "new"}, "config.losses.teacher_noise is 'new'; expected one of same, fresh."),
        ({"teacher_passes": 0}, "config.losses.teacher_passes is 0; expected 1 or more (published: 4)."),
        (
            {"distillation": 0, "adversarial": 0},
            "config.losses: distillation and adversarial are both 0; the student would learn nothing.",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_accepted(options, message):
    with pytest.raises(ValueError) as error:
        recipe(**options)
    assert str(error.value) == message


def test_a_chain_of_other_times_is_refused():
    short = FAMILY.__class__(ddpm_schedule(num_steps=100), *(None,) * 7)
    with pytest.raises(ValueError, match=r"num_steps is 100; AddSR's times need 1000 steps\."):
        recipe(short)
    assert FEW_STEPS == (999, 749, 499, 249)

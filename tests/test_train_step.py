from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tadsr_jax import train
from tadsr_jax.recipes import RECIPES
from tadsr_jax.types import Batch, Recipe
from tests.toys import randomised, tiny_batch, tiny_family

KEY = jax.random.key(0)
RATE = 0.1


# ---- a recipe to work out by hand ------------------------------------------------------------------------------------
# Student y = w x + n, discriminator d(y) = v y, everything a number a sample; n is drawn. The statistics u are as those
# of spectral norm: they follow the parameters, u <- u / 2 + v, and count in the loss.


def toy_recipe(adversarial=1.0) -> Recipe:
    def draw(key, frozen, batch):
        return {"n": jax.random.normal(key, batch.lq.shape) if "n" not in batch.extra else batch.extra["n"]}

    def generate(student, frozen, batch, draws):
        return {"y": student["w"] * batch.lq + draws["n"] + frozen["offset"]}

    def discriminator_loss(d, stats, outputs, frozen, batch, draws):
        stats = {"u": stats["u"] / 2 + d["v"]}
        loss = jax.nn.relu(1 - d["v"] * batch.gt) + jax.nn.relu(1 + (d["v"] + stats["u"]) * outputs["y"])
        return jnp.mean(loss), ({"loss_d": loss}, jax.lax.stop_gradient(stats))

    def student_loss(outputs, d, stats, frozen, batch, draws):
        logs = {"mse": (outputs["y"] - batch.gt) ** 2}
        loss = logs["mse"]
        if adversarial:
            stats = {"u": stats["u"] / 2 + d["v"]}
            loss = loss - adversarial * (d["v"] + stats["u"]) * outputs["y"]
        return jnp.mean(loss), (logs | {"loss": loss}, jax.lax.stop_gradient(stats))

    def init(key, outputs, draws):
        return {"params": {"v": jnp.float32(0.3)}, "u": jnp.float32(0.2)}

    return Recipe(
        adds={"discriminator": init} if adversarial else {},
        frozen=(),
        draw=draw,
        generate=generate,
        student_loss=student_loss,
        discriminator_loss=discriminator_loss if adversarial else None,
    )


FROZEN = {"offset": jnp.float32(0.25)}
LQ, GT, N = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.5, -1.0, 1.5, 2.0]), np.array([0.1, 0.2, -0.3, 0.4])


def toy_batch(n=N) -> Batch:
    lq, gt, n = (None if x is None else jnp.asarray(x, jnp.float32) for x in (LQ, GT, n))
    return Batch(lq=lq, gt=gt, extra={} if n is None else {"n": n})


def toy_state(recipe, optimizers, w=0.7):
    return train.init_state(KEY, None, recipe, optimizers, {"w": jnp.float32(w)}, FROZEN, toy_batch())


def sgd() -> dict:
    return {"student": optax.sgd(RATE), "discriminator": optax.sgd(RATE)}


def stepper(recipe=None, optimizers=None, *, ema_decay=0.9, accumulate=1):
    recipe, optimizers = recipe or toy_recipe(), optimizers or sgd()
    step = train.jit_step(recipe=recipe, optimizers=optimizers, ema_decay=ema_decay, accumulate=accumulate)
    return step, toy_state(recipe, optimizers)


def host(tree):
    """A copy that outlives the donation."""
    return jax.tree.map(np.array, tree)


def step_by_hand(w, v, u):
    """The update of both players in NumPy: the discriminator's first, then the student's against the updated one."""
    y = w * LQ + N + 0.25
    u = u / 2 + v
    # The slope of (v + u) y in v is 2 y: v counts itself, and once more by way of the new u.
    inside_real, inside_fake = 1 - v * GT > 0, 1 + (v + u) * y > 0
    grad_v = np.mean(-GT * inside_real + 2 * y * inside_fake)
    v = v - RATE * grad_v
    u = u / 2 + v
    grad_w = np.mean((2 * (y - GT) - (v + u)) * LQ)
    return w - RATE * grad_w, v, u


def test_the_discriminator_moves_first_and_the_student_answers_the_updated_one():
    step, state = stepper()
    w, v, u = 0.7, 0.3, 0.2
    for _ in range(2):
        state, _ = step(state, FROZEN, toy_batch())
        w, v, u = step_by_hand(w, v, u)
        np.testing.assert_allclose(state.params["discriminator"]["v"], v, rtol=1e-5)
        np.testing.assert_allclose(state.stats["discriminator"]["u"], u, rtol=1e-5)
        np.testing.assert_allclose(state.params["student"]["w"], w, rtol=1e-5)


def test_the_logs_are_batch_means_and_the_norms_of_the_gradients():
    step, state = stepper()
    new, logs = step(state, FROZEN, toy_batch())
    assert set(logs) == {"loss", "loss_d", "mse", "grad_norm_student", "grad_norm_discriminator", "skipped_in_row"}
    y = 0.7 * LQ + N + 0.25
    np.testing.assert_allclose(logs["mse"], np.mean((y - GT) ** 2), rtol=1e-5)
    moved = abs(float(new.params["student"]["w"]) - 0.7)
    np.testing.assert_allclose(RATE * logs["grad_norm_student"], moved, rtol=1e-4)


def test_the_average_follows_the_student():
    step, state = stepper(ema_decay=0.9)
    average = 0.7
    for _ in range(3):
        state, _ = step(state, FROZEN, toy_batch())
        average = 0.9 * average + 0.1 * float(state.params["student"]["w"])
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_makes_the_same_update_of_everything(parts):
    step, state = stepper()
    step_in_parts, state_in_parts = stepper(accumulate=parts)
    for _ in range(2):
        state, logs = step(state, FROZEN, toy_batch())
        state_in_parts, logs_in_parts = step_in_parts(state_in_parts, FROZEN, toy_batch())
    same = partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(same, host(state_in_parts), host(state))
    jax.tree.map(same, logs_in_parts, logs)
    assert state_in_parts.step == 2  # updates, not parts


def test_every_part_has_noise_of_its_own():
    recipe = toy_recipe(adversarial=0)
    step, state = stepper(recipe, accumulate=4)
    same = Batch(lq=jnp.zeros(4), gt=jnp.zeros(4))
    _, logs = jax.jit(partial(train.train_step, recipe=recipe, optimizers=sgd(), ema_decay=0.9))(state, FROZEN, same)
    _, logs_in_parts = step(state, FROZEN, same)
    assert len(set(np.asarray(logs["mse"]).tolist())) == 4
    assert 0 < logs_in_parts["mse"] != logs["mse"].mean()


def test_parts_are_taken_in_strides_so_that_every_device_keeps_its_samples():
    parts = train.split_batch(Batch(lq=jnp.arange(6), gt=jnp.arange(6)), 3)
    np.testing.assert_array_equal(parts.lq, [[0, 3], [1, 4], [2, 5]])


def test_every_step_draws_anew_and_a_repeated_step_draws_the_same():
    step, _ = stepper()
    first = lambda number: step(
        toy_state(toy_recipe(), sgd()).replace(step=jnp.int32(number)), FROZEN, toy_batch(n=None)
    )[1]["mse"]
    assert first(0) == first(0)
    assert first(0) != first(1)


# ---- steps that are left out -----------------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    step, state = stepper(optimizers={name: optax.adam(RATE) for name in ("student", "discriminator")})
    state, _ = step(state, FROZEN, toy_batch())
    before = host(state)
    bad = np.where(np.arange(4) == 2, np.nan, N)
    for count in (1, 2):
        state, logs = step(state, FROZEN, toy_batch(bad))
        for part in ("params", "ema", "opt_state", "stats", "key"):
            jax.tree.map(np.testing.assert_array_equal, host(getattr(state, part)), getattr(before, part))
        assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (1 + count, count, count)
        assert logs["skipped_in_row"] == count and np.isnan(logs["loss"])
    state, logs = step(state, FROZEN, toy_batch())
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (4, 2, 0)
    assert state.params["student"]["w"] != before.params["student"]["w"]
    assert logs["skipped_in_row"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_finite_loss_with_an_infinite_gradient_is_left_out_too(accumulate):
    def student_loss(outputs, d, stats, frozen, batch, draws):
        loss = jnp.sqrt(jnp.abs(outputs["y"]))  # its slope at 0 is infinite
        return jnp.mean(loss), ({"loss": loss}, stats)

    recipe = toy_recipe(adversarial=0)._replace(student_loss=student_loss)
    step, state = stepper(recipe, accumulate=accumulate)
    state, logs = step(state, FROZEN, toy_batch(np.array(-0.7 * LQ - 0.25)))  # y = 0
    assert np.isfinite(logs["loss"]) and not np.isfinite(logs["grad_norm_student"])
    assert state.params["student"]["w"] == np.float32(0.7) and state.skipped == 1


def test_a_discriminator_that_is_not_finite_leaves_the_student_alone():
    recipe = toy_recipe()

    def broken(*arguments):
        loss, (logs, stats) = recipe.discriminator_loss(*arguments)
        return loss, (logs | {"loss_d": logs["loss_d"] * jnp.inf}, stats)

    step, state = stepper(recipe._replace(discriminator_loss=broken))
    state, _ = step(state, FROZEN, toy_batch())
    assert state.params["student"]["w"] == np.float32(0.7) and state.params["discriminator"]["v"] == np.float32(0.3)


def test_a_schedule_counts_the_updates_that_were_made():
    rate = train.learning_rate(lr=1.0, warmup_steps=4)
    optimizers = {"student": optax.sgd(rate)}
    step, state = stepper(toy_recipe(adversarial=0), optimizers, accumulate=2)
    for _ in range(3):
        state, _ = step(state, FROZEN, toy_batch())
    count = next(leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.int32)
    assert count == 3


# ---- the state -------------------------------------------------------------------------------------------------------


def test_the_state_is_donated():
    step, state = stepper()
    new, _ = step(state, FROZEN, toy_batch())
    assert state.params["student"]["w"].is_deleted() and state.ema["w"].is_deleted()
    assert not new.ema["w"].is_deleted()


def test_the_first_state_holds_the_student_twice_and_no_step():
    state = toy_state(toy_recipe(), sgd())
    assert state.params["student"]["w"] == state.ema["w"] == np.float32(0.7)
    assert state.params["discriminator"] == {"v": np.float32(0.3)}
    assert state.stats["discriminator"] == {"u": np.float32(0.2)}
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (0, 0, 0)
    assert set(toy_state(toy_recipe(adversarial=0), sgd()).params) == {"student"}


@pytest.mark.parametrize("name", ["teacher", "sinsr", "tadsr"])  # those of the second family: test_seesr_job.py
def test_every_recipe_trains_its_players_and_leaves_the_frozen_networks_alone(name):
    family, batch = tiny_family(), tiny_batch()
    options = {"discriminator": {"c_dim": 2, "embed_dim": 8}} if name == "tadsr" else {}
    recipe = RECIPES[name](family, **options)
    start = randomised(jax.eval_shape(family.init, KEY)["denoiser"], 0.05)  # no zeros, which stop gradients
    frozen = {"teacher": jax.tree.map(jnp.copy, start), "autoencoder": {}}
    optimizers = {player: train.optimizer(lambda count: 1e-3) for player in ("student", *recipe.adds)}
    init = partial(train.init_state, family=family, recipe=recipe, optimizers=optimizers)
    state = jax.jit(init)(KEY, student=start, frozen=frozen, batch=batch)
    before, frozen_before = host(state), host(frozen)
    step = train.jit_step(recipe=recipe, optimizers=optimizers, ema_decay=0.99, accumulate=1)
    state, logs = step(state, frozen, batch)
    assert state.skipped == 0 and all(np.isfinite(value) for value in logs.values())
    moved = lambda new, old: jax.tree.map(lambda a, b: bool(np.any(a != b)), host(new), old)
    assert all(jax.tree.leaves(moved(state.params["student"], before.params["student"])))
    # A new discriminator's 3x3 convolutions are zero: what lies before them moves from the second step on.
    assert any(jax.tree.leaves(moved(state.params, before.params).get("discriminator", True)))
    assert all(jax.tree.leaves(moved(state.stats, before.stats)))
    jax.tree.map(np.testing.assert_array_equal, host(frozen), frozen_before)


# ---- optimisers ------------------------------------------------------------------------------------------------------


def test_a_step_in_bfloat16_has_the_gradients_of_float32_but_for_its_eight_digits():
    def gradient(dtype):
        """The student's gradient with all terms of TAD-SR, from the same draws, as one vector."""
        family = tiny_family(dtype)
        made = RECIPES["tadsr"](family, adversarial=0.1, discriminator={"c_dim": 2, "embed_dim": 8, "dtype": dtype})
        params = randomised(jax.eval_shape(family.init, jax.random.key(0)), deviation=0.1)
        student, frozen = params["denoiser"], {"teacher": params["denoiser"], "autoencoder": {}}
        batch = tiny_batch()
        draws = RECIPES["tadsr"](tiny_family()).draw(jax.random.key(1), frozen, batch)
        outputs, pullback = jax.vjp(lambda p: made.generate(p, frozen, batch, draws), student)
        variables = randomised(jax.eval_shape(made.adds["discriminator"], jax.random.key(2), outputs, draws))
        judge = variables.pop("params"), variables
        grads = jax.grad(lambda o: made.student_loss(o, *judge, frozen, batch, draws)[0])(outputs)
        leaves = jax.tree.leaves(pullback(grads)[0])
        assert all(leaf.dtype == jnp.float32 for leaf in leaves)
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    exact, rounded = gradient("float32"), gradient("bfloat16")
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert cosine > 0.99
    assert not np.array_equal(exact, rounded)


def rates(count=8, **options):
    rate = train.learning_rate(**options)
    return [float(rate(jnp.int32(n))) for n in range(count)]


def test_the_rate_warms_up_from_zero_and_stays():
    np.testing.assert_allclose(rates(lr=4.0, warmup_steps=4), [0, 1, 2, 3, 4, 4, 4, 4])
    np.testing.assert_allclose(rates(lr=4.0), [4] * 8)


def test_the_public_trainers_make_their_first_step_at_the_full_rate():
    np.testing.assert_allclose(rates(5, lr=4.0, warmup_steps=4, first_step_full_rate=True), [4, 1, 2, 3, 4])


def test_milestones_halve_the_rate_and_count_from_the_first_update():
    np.testing.assert_allclose(rates(lr=4.0, warmup_steps=2, milestones=(4, 6)), [0, 2, 4, 4, 2, 2, 1, 1])


def test_the_cosine_ends_at_the_smallest_rate():
    got = rates(11, lr=2.0, warmup_steps=2, schedule="cosine", total_steps=10, lr_min=0.5)
    want = [0.5 + 0.75 * (1 + np.cos(np.pi * n / 8)) for n in range(9)]
    np.testing.assert_allclose(got, [0, 1, *want], rtol=1e-6)


def test_a_run_may_end_in_its_warm_up():
    np.testing.assert_allclose(rates(3, lr=2.0, warmup_steps=10, schedule="cosine", total_steps=3), [0, 0.2, 0.4])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError) as error:
        train.learning_rate(lr=1.0, schedule="linear")
    assert str(error.value) == "config.optimizer.schedule is 'linear'; expected one of constant, cosine."


def adamw(w, grads, *, rate, betas, eps, weight_decay):
    """PyTorch's AdamW in NumPy."""
    m = v = np.zeros_like(w)
    for n, g in enumerate(grads, 1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        w = w - rate * weight_decay * w
        w = w - rate * (m / (1 - betas[0] ** n)) / (np.sqrt(v / (1 - betas[1] ** n)) + eps)
    return w


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_optimiser_is_adamw_behind_a_clipped_norm(clip):
    grads = np.random.default_rng(0).normal(size=(4, 3))
    options = {"betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1}
    optimizer = train.optimizer(lambda count: 0.1, **options, clip=clip)
    w = jnp.array([1.0, -2.0, 0.5])
    state = optimizer.init(w)
    for g in grads:
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, w)
        w = optax.apply_updates(w, updates)
    if clip:
        grads = [g * min(1, clip / np.linalg.norm(g)) for g in grads]
    want = adamw(np.array([1.0, -2.0, 0.5]), grads, rate=0.1, **options)
    np.testing.assert_allclose(w, want, rtol=1e-5)

"""Training: one step function for every recipe, its optimisers, and the state that a checkpoint holds.

train_step   one update of all players      jit_step        the same, compiled, the state donated
init_state   where a run starts             learning_rate   warm-up and schedules      optimizer   AdamW
The loop around it is `tadsr_jax/loop.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from tadsr_jax.sharding import place_batch, shardings
from tadsr_jax.types import Batch, Family, Recipe, TrainState

SCHEDULES = ("constant", "cosine")


def learning_rate(
    *,
    lr: float,
    warmup_steps: int = 0,
    schedule: str = "constant",
    total_steps: int = 0,
    lr_min: float = 0.0,
    milestones: tuple[int, ...] = (),
    first_step_full_rate: bool = False,
) -> optax.Schedule:
    """The rate of update n, counted from 0: n/warmup_steps lr while n < warmup_steps, then as `schedule` says.

    "constant": lr, halved at each of `milestones`; "cosine": down to `lr_min` at `total_steps`.
    `first_step_full_rate`: the public trainers set the rate after each update, so the first runs at the full lr and
    the warm-up starts with the second, at 1/warmup_steps lr.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"config.optimizer.schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}.")
    if schedule == "cosine":
        # A trial of a few steps may end in its warm-up; then there is nothing to decay.
        after = optax.cosine_decay_schedule(lr, max(total_steps - warmup_steps, 1), alpha=lr_min / lr)
    else:
        halvings = {milestone - warmup_steps: 0.5 for milestone in milestones if milestone > warmup_steps}
        after = optax.piecewise_constant_schedule(lr, halvings)
    rate = after
    if warmup_steps:
        # optax.linear_schedule takes the difference of two near numbers: 3e-4 off at the first of 5,000 steps.
        rate = optax.join_schedules([lambda count: lr * count / warmup_steps, after], [warmup_steps])
    if first_step_full_rate:
        return lambda count: jnp.where(count == 0, lr, rate(count))
    return rate


def optimizer(
    rate: optax.Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """AdamW as PyTorch's; `clip` bounds the gradient's global norm first. The public trainers do not clip or decay."""
    adamw = optax.adamw(rate, b1=betas[0], b2=betas[1], eps=eps, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip), adamw) if clip else adamw


def init_state(key, family: Family, recipe: Recipe, optimizers: dict, student, frozen, batch: Batch) -> TrainState:
    """The state before the first step. `student` is copied into the average; `batch` is used for its shapes alone."""
    key_networks, key_steps = jax.random.split(key)
    params, stats = {"student": student}, {}
    draws = jax.eval_shape(recipe.draw, key, frozen, batch)
    outputs = jax.eval_shape(recipe.generate, student, frozen, batch, draws)
    for number, (name, init) in enumerate(recipe.adds.items()):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (outputs, draws))
        variables = init(jax.random.fold_in(key_networks, number), *zeros)
        params[name] = variables.pop("params")
        stats[name] = variables
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key_steps),
        params=params,
        stats=stats,
        opt_state={name: optimizers[name].init(params[name]) for name in params},
        ema=jax.tree.map(jnp.copy, student),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def train_step(
    state: TrainState, frozen, batch: Batch, *, recipe: Recipe, optimizers: dict, ema_decay: float, accumulate: int = 1
) -> tuple[TrainState, dict]:
    """One update: the discriminator first, on detached outputs; then the student, against the updated discriminator.

    With `accumulate` > 1 the batch is worked off in that many parts, and the gradients are their means: the same update
    in less memory, for a second pass of the student. A step with a loss or gradient that is not finite changes nothing
    but the counters.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    student = state.params["student"]
    params, stats, opt_state = dict(state.params), dict(state.stats), dict(state.opt_state)
    logs, norms = {}, {}

    def update(name, grads):
        norms[name] = optax.global_norm(grads)
        updates, opt_state[name] = optimizers[name].update(grads, opt_state[name], params[name])
        params[name] = optax.apply_updates(params[name], updates)

    def play(part, draws):
        """The student's outputs on a part of the batch, and the way back to its parameters."""
        return jax.vjp(lambda p: recipe.generate(p, frozen, part, draws), student)

    def judge(part, draws, outputs):
        """The discriminator's gradient on detached outputs, the logs and its new statistics."""
        detached = jax.lax.stop_gradient(outputs)
        loss = lambda p: recipe.discriminator_loss(p, stats["discriminator"], detached, frozen, part, draws)
        return jax.grad(loss, has_aux=True)(params["discriminator"])

    def answer(part, draws, outputs, pullback):
        """The student's gradient, against the discriminator as it now is."""
        players = params.get("discriminator"), stats.get("discriminator")
        loss = lambda o: recipe.student_loss(o, *players, frozen, part, draws)
        grads, aux = jax.grad(loss, has_aux=True)(outputs)
        return pullback(grads)[0], aux

    if accumulate == 1:  # the student runs once, and its pullback serves after the discriminator's update
        draws = recipe.draw(key, frozen, batch)
        outputs, pullback = play(batch, draws)
        judged = lambda: judge(batch, draws, outputs)
        answered = lambda: answer(batch, draws, outputs, pullback)
    else:
        parts = split_batch(batch, accumulate)
        draws = jax.lax.map(lambda x: recipe.draw(x[0], frozen, x[1]), (jax.random.split(key, accumulate), parts))
        judged = lambda: mean_of_parts(lambda part, d: judge(part, d, play(part, d)[0]), parts, draws)
        answered = lambda: mean_of_parts(lambda part, d: answer(part, d, *play(part, d)), parts, draws)

    if recipe.discriminator_loss:
        grads, (logs_d, stats["discriminator"]) = judged()
        update("discriminator", grads)
        logs |= logs_d
    grads, (logs_s, new_stats) = answered()
    if recipe.discriminator_loss:
        stats["discriminator"] = new_stats
    update("student", grads)
    logs |= logs_s

    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in (*logs.values(), *norms.values())]))
    keep = partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
    new_state = state.replace(
        step=state.step + 1,
        params=keep(params, state.params),
        stats=keep(stats, state.stats),
        opt_state=keep(opt_state, state.opt_state),
        ema=keep(optax.incremental_update(params["student"], state.ema, 1 - ema_decay), state.ema),
        skipped=state.skipped + ~finite,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    logs |= {f"grad_norm_{name}": norm for name, norm in norms.items()}
    return new_state, logs | {"skipped_in_row": new_state.skipped_in_row}


def split_batch(batch: Batch, parts: int) -> Batch:
    """(b, ...) -> (parts, b / parts, ...), a part taking every parts-th sample, so that shards stay where they are."""
    cut = lambda leaf: jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)
    return jax.tree.map(cut, batch)


def mean_of_parts(gradient, parts: Batch, draws):
    """The mean over parts of (grads, (logs, stats)) = gradient(part, draws).

    The statistics do not depend on the data (a power iteration sees the weights alone): every part has the same.
    """

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(*part)), None

    shapes = jax.eval_shape(gradient, *jax.tree.map(lambda leaf: leaf[0], (parts, draws)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (parts, draws))
    count = parts.lq.shape[0]
    return jax.tree.map(lambda leaf: leaf / count, total)


def jit_step(*, recipe: Recipe, optimizers: dict, ema_decay: float, accumulate: int, mesh=None):
    """`train_step` compiled, with batch means as logs; the state is donated: its memory becomes the new state's.

    The new state lies on `mesh` as the old one does. Left to itself the compiler may gather what was cut, which costs
    the memory that fsdp saves, and a second compilation for the state's new places.
    """

    def step(state, frozen, batch):
        state, logs = train_step(
            state, frozen, batch, recipe=recipe, optimizers=optimizers, ema_decay=ema_decay, accumulate=accumulate
        )
        if mesh is not None:
            state = jax.lax.with_sharding_constraint(state, shardings(state, mesh))
        return state, jax.tree.map(jnp.mean, logs)

    return jax.jit(step, donate_argnums=0)


def as_batch(arrays: dict, mesh) -> Batch:
    """The pipeline's arrays as a Batch on the mesh; what is neither lq nor gt goes to `extra`."""
    extra = {key: value for key, value in arrays.items() if key not in ("lq", "gt")}
    return place_batch(Batch(lq=arrays["lq"], gt=arrays["gt"], extra=extra), mesh)

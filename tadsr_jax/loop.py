"""The training loop: restore, train, log, evaluate, save. What it trains is handed in; see `job.run`."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import optax

from tadsr_jax.checkpoints import Checkpoints
from tadsr_jax.logs import Meter, Writer, say
from tadsr_jax.sharding import place
from tadsr_jax.signals import Stopped, stop_signal
from tadsr_jax.train import as_batch, jit_step
from tadsr_jax.types import Recipe, TrainState


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class NoData(RuntimeError):
    """The source yields no usable picture."""


def run(
    workdir: Path,
    *,
    name: str,
    recipe: Recipe,
    optimizers: dict,
    rate: optax.Schedule,
    frozen,
    initial: Callable[[], TrainState],
    open_stream: Callable[[int], Iterator],
    evaluate: Callable[[TrainState], tuple[dict, dict]],
    mesh,
    steps: int,
    ema_decay: float = 0.999,
    accumulate: int = 1,
    log_every: int = 20,
    evaluate_every: int = 0,
    save_every: int = 500,
    keep: int = 2,
    max_skipped: int = 20,
) -> tuple[TrainState, float]:
    """Train to `steps` updates, from the latest checkpoint of `workdir` if it has one.

    Returns the last state, and the seconds that it took, those of earlier starts included.

    name           the first word of the progress line
    rate           the student's learning rate, for the log
    initial        makes the first state; called abstractly where a checkpoint is restored
    open_stream    (batches consumed) -> iterator of {"lq", "gt", ...}; also has `skipped` and `close()`
    evaluate       state -> ({name: number}, {name: picture}), every `evaluate_every` steps (0: never)
    save_every, keep   a checkpoint every so many steps and at the end; the last `keep` of them stay
    max_skipped    steps in a row without a finite loss and gradient after which the run gives up (`Diverged`)
    Raises Stopped after SIGTERM or Ctrl-C, when the state is saved; OSError when something cannot be written;
    WrongCheckpoint where `workdir` holds another network, recipe or optimiser.
    """
    step_fn = jit_step(recipe=recipe, optimizers=optimizers, ema_decay=ema_decay, accumulate=accumulate, mesh=mesh)
    started, consumed, earlier = time.monotonic(), 0, 0.0
    seconds = lambda: earlier + time.monotonic() - started
    # The signals stay ours until the save under way is complete.
    with stop_signal() as asked_to_stop, Checkpoints(workdir / "checkpoints", keep=keep) as checkpoints:
        if checkpoints.latest_step() is None:
            state = place(initial(), mesh)
        else:
            state, position = checkpoints.restore(jax.eval_shape(initial), mesh)
            consumed, earlier = position["batches"], position["seconds"]
            say(f"{name}: resumed at step {int(state.step)} of {steps}")
        step = first = int(state.step)
        if step >= steps:
            return state, seconds()
        writer = Writer(workdir, resume_step=step)
        with _no_data():
            stream = open_stream(consumed)
        saved = -1

        def save():
            nonlocal saved
            if saved != step:
                checkpoints.save(state, batches=consumed, seconds=seconds())
                saved = step

        try:
            meter = Meter(step)
            late = None  # logs are read one step late, so that the device need not wait for the host
            while step < steps:
                if number := asked_to_stop():
                    save()
                    checkpoints.wait()
                    raise Stopped(
                        f"{name}: stopped at step {step} of {steps}, and saved; the same command goes on.", number
                    )
                with meter.waiting(), _no_data():
                    arrays = next(stream)
                state, logs = step_fn(state, frozen, as_batch(arrays, mesh))
                step, consumed = step + 1, consumed + 1
                last = step == steps
                if step == first + 1:
                    meter.restart_clock(step)  # the first step compiles, which says nothing about the rate
                if late:
                    _read(late, meter, max_skipped)
                late, told = (step, logs), {}
                if step % log_every == 0 or last:
                    _read(late, meter, max_skipped)
                    late = None
                    skipped = int(state.skipped)  # the optimiser does not count these
                    values = meter.means() | {"learning_rate": float(rate(step - 1 - skipped)), "skipped": skipped}
                    told = meter.report(name, step, steps, values) | {"unreadable_files": getattr(stream, "skipped", 0)}
                if evaluate_every and (step % evaluate_every == 0 or last):
                    scalars, pictures = evaluate(state)
                    told |= scalars
                    for key, picture in pictures.items():
                        writer.image(step, key, picture)
                    meter.restart_clock(step)
                if told:
                    writer.scalars(step, told)
                if step % save_every == 0 or last:
                    save()
        finally:
            stream.close()
            writer.close()
    return state, seconds()


@contextlib.contextmanager
def _no_data():
    """NoData for what a source says when it is empty, or has looked at many pictures and could use none."""
    try:
        yield
    except ValueError as error:
        raise NoData(" ".join(str(error).split())) from error


def _read(late, meter: Meter, max_skipped: int) -> None:
    """Fetch the logs of a step; steps that were skipped count towards giving up, not towards the means."""
    step, logs = late
    values = {key: float(value) for key, value in jax.device_get(logs).items()}
    in_row = int(values.pop("skipped_in_row"))
    if in_row == 0:
        meter.add(values)
        return
    bad = ", ".join(key for key, value in values.items() if not math.isfinite(value))
    say(f"step {step} left out: {bad} not finite ({in_row} in a row)")
    if in_row >= max_skipped:
        raise Diverged(
            f"{in_row} steps in a row (up to {step}) had a loss or gradient that is not finite ({bad}), as many as "
            "config.train.max_skipped allows; use a lower config.optimizer.student.lr, its clip=1.0, "
            "or config.networks.denoiser.dtype=float32, with a new --workdir."
        )

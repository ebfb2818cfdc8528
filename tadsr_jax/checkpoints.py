"""Training checkpoints: the state and the data position, saved together by Orbax, asynchronously.

A checkpoint appears by one rename when it is complete, so a killed run leaves whole checkpoints only. What is stored:

    WORKDIR/checkpoints/STEP/state   the TrainState            WORKDIR/checkpoints/STEP/position   {"batches": consumed}
"""

import contextlib
import errno
import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from tadsr_jax.sharding import shardings
from tadsr_jax.types import TrainState


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for the save under way."""

    def __init__(self, folder: Path, *, keep: int = 2):
        """Make `folder`, or say in one line why it cannot be written."""
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ValueError(f"--workdir: {self.folder} cannot be written ({error.strerror}); choose another.") from None
        # Orbax reports every save in many lines; ours come from the training loop.
        logging.getLogger("absl").setLevel(max(logging.WARNING, logging.getLogger("absl").level))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # An asynchronous save is lost if the process ends before it is complete.
        with told_in_one_line(self.folder) if kind is None else contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, *, batches: int) -> None:
        """Save in the background; waits for the save before it. A disk that is full is told in one line."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave({"batches": batches}))
        with told_in_one_line(self.folder):
            self._manager.save(int(state.step), args=args)

    def wait(self) -> None:
        with told_in_one_line(self.folder):
            self._manager.wait_until_finished()

    def restore(self, shapes: TrainState, mesh, step: int | None = None) -> tuple[TrainState, int]:
        """(state, batches consumed) of `step`, by default the latest, laid out on `mesh`.

        `shapes` is the abstract state of the code and config at hand (`jax.eval_shape`): a checkpoint of another
        network, recipe or optimiser is refused.
        """
        step = self.latest_step() if step is None else step
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings(shapes, mesh),
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), position=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.folder / str(step)} is of another config than this one ({_first_line(error)}); "
                "give back the config that it was trained with, or another --workdir."
            ) from None
        return restored["state"], int(restored["position"]["batches"])


@contextlib.contextmanager
def told_in_one_line(folder: Path):
    """Errors of writing as one OSError that says what is safe. Orbax wraps them in errors of its own."""
    try:
        yield
    except Exception as error:
        text = _first_line(error)
        cause = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        full = "No space left" in str(error) or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else text
        raise OSError(f"{folder}: saving failed, {what}; the checkpoints before it are whole. Start again to go on.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

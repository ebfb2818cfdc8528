"""Training checkpoints: the state and the data position, saved together by Orbax, asynchronously.

A checkpoint appears by one rename when it is complete, so a killed run leaves whole checkpoints only. What is stored:

    WORKDIR/checkpoints/STEP/state      the TrainState
    WORKDIR/checkpoints/STEP/position   {"batches": consumed, "seconds": trained so far, over all starts}

Checkpoints   for the run itself: save, restore, go on        steps, read   for whoever only looks at a run
"""

import contextlib
import errno
import logging
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from tadsr_jax.sharding import shardings
from tadsr_jax.types import TrainState


class WrongCheckpoint(ValueError):
    """A checkpoint that the code and config at hand cannot go on from."""


def exist(folder: Path) -> bool:
    """Whether a run has saved anything in `folder`."""
    return bool(steps(folder))


def steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in `folder`, in order; one being written has another name until it is whole."""
    return sorted(int(child.name) for child in Path(folder).glob("*") if child.name.isdigit())


def read(folder: Path, shapes: TrainState, step: int) -> TrainState:
    """The state of a step as NumPy arrays, whatever devices it was saved from; the run may be going on meanwhile.

    `shapes` as in `Checkpoints.restore`, and WrongCheckpoint as there. Nothing in `folder` is touched.
    """
    place = Path(folder).absolute() / str(step)
    target = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)  # no memory
    handler = ocp.StandardCheckpointHandler()  # a manager would tidy up the folder, and warn of much
    try:
        _check_same_arrays(handler.metadata(place / "state").tree, shapes)
        return handler.restore(place / "state", args=ocp.args.StandardRestore(target))
    except WrongCheckpoint as error:
        raise WrongCheckpoint(f"{place} is not of the config beside it: {error}.") from None
    except Exception as error:  # Orbax passes on whatever its parts raise
        others = ", ".join(str(other) for other in steps(folder) if other != step)
        hint = f"try another step: {others}" if others else "there is no other step"
        raise WrongCheckpoint(f"{place} cannot be read ({_first_line(error)}); {hint}.") from error
    finally:
        handler.close()


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
            raise OSError(f"--workdir: {self.folder} cannot be written ({error.strerror}); choose another.") from None
        # Orbax reports every save in many lines; ours come from the training loop.
        logging.getLogger("absl").setLevel(max(logging.WARNING, logging.getLogger("absl").level))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,  # what a killed run left of the save under way
        )
        items = {"state": ocp.StandardCheckpointHandler(), "position": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=items)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # An asynchronous save is lost if the process ends before it is complete.
        with told_in_one_line(self.folder) if kind is None else contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, *, batches: int, seconds: float = 0.0) -> None:
        """Save in the background; waits for the save before it. A disk that is full is told in one line."""
        position = {"batches": batches, "seconds": seconds}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        with told_in_one_line(self.folder):
            self._manager.save(int(state.step), args=args)

    def wait(self) -> None:
        with told_in_one_line(self.folder):
            self._manager.wait_until_finished()

    def restore(self, shapes: TrainState, mesh, step: int | None = None) -> tuple[TrainState, dict]:
        """(state, position) of `step`, by default the latest, laid out on `mesh`.

        `shapes` is the abstract state of the code and config at hand (`jax.eval_shape`): a checkpoint of another
        network, recipe or optimiser is refused (WrongCheckpoint).
        """
        step = self.latest_step() if step is None else step
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings(shapes, mesh),
        )
        place = self.folder / str(step)
        try:
            _check_same_arrays(self._manager.item_metadata(step)["state"].tree, shapes)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target), position=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=args)
        except WrongCheckpoint as error:
            raise WrongCheckpoint(
                f"{place} is of another config than this one: {error}. Give back the config that it was trained with, "
                "or another --workdir."
            ) from None
        except Exception as error:  # Orbax passes on whatever its parts raise
            raise WrongCheckpoint(
                f"{place} cannot be read ({_first_line(error)}); remove it, and the same command goes on from the one "
                "before."
            ) from error
        return restored["state"], {"batches": 0, "seconds": 0.0} | restored["position"]


def _check_same_arrays(stored, wanted) -> None:
    """WrongCheckpoint that names the first arrays in which two trees differ."""

    def shapes(tree) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
        return {_path(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    there, here = shapes(stored), shapes(wanted)
    faults = [f"{key} is {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
              for key in [*here, *(there.keys() - here.keys())] if there.get(key) != here.get(key)]  # fmt: skip
    if faults:
        raise WrongCheckpoint(f"{'; '.join(faults[:3])}{f'; and {len(faults) - 3} more' if len(faults) > 3 else ''}")


def _path(keys) -> str:
    """Attributes, keys and indices alike, as 'opt_state/student/0/mu'."""
    return "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in keys)


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
        raise OSError(
            f"{folder}: saving failed, {what}; the checkpoints before it are whole. The same command goes on."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

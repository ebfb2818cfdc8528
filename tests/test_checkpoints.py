"""Checkpoints: what is saved comes back bit for bit, on any mesh; what does not fit is named."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tadsr_jax import checkpoints
from tadsr_jax.checkpoints import Checkpoints, WrongCheckpoint
from tadsr_jax.sharding import make_mesh, place
from tadsr_jax.types import TrainState

# A restore that failed leaves threads that report to an event loop that is gone.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def state_at(step: int, *, width: int = 3, optimizer=None) -> TrainState:
    rng = np.random.default_rng(step)
    params = {"dense": {"kernel": jnp.asarray(rng.normal(size=(2, width)), jnp.float32)}}
    return TrainState(
        step=jnp.int32(step),
        key=jax.random.key_data(jax.random.key(0)),
        params={"student": params},
        stats={},
        opt_state={"student": (optimizer or optax.adamw(1e-3)).init(params)},
        ema=params,
        skipped=jnp.int32(0),
        skipped_in_row=jnp.int32(0),
    )


def saved(folder, mesh, *steps: int, keep: int = 2) -> Checkpoints:
    with Checkpoints(folder, keep=keep) as manager:
        for step in steps:
            manager.save(place(state_at(step), mesh), batches=10 * step, seconds=0.5 * step)


def test_the_latest_state_and_position_come_back_bit_for_bit(tmp_path, mesh):
    assert not checkpoints.exist(tmp_path / "c")
    saved(tmp_path / "c", mesh, 1, 2)
    assert checkpoints.exist(tmp_path / "c")
    with Checkpoints(tmp_path / "c") as manager:
        state, position = manager.restore(jax.eval_shape(lambda: state_at(0)), mesh)
    assert position == {"batches": 20, "seconds": 1.0}
    jax.tree.map(np.testing.assert_array_equal, state, state_at(2))


def test_old_checkpoints_are_removed_and_so_is_what_a_killed_run_left(tmp_path, mesh):
    saved(tmp_path, mesh, 1)
    (tmp_path / "2.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    saved(tmp_path, mesh, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_whoever_looks_at_a_run_gets_numpy_arrays_of_any_step_and_disturbs_nothing(tmp_path, mesh):
    saved(tmp_path, mesh, 2, 10)
    (tmp_path / "11.orbax-checkpoint-tmp").mkdir()  # the run is saving
    assert checkpoints.steps(tmp_path) == [2, 10] and checkpoints.steps(tmp_path / "none") == []
    for step in (2, 10):
        state = checkpoints.read(tmp_path, jax.eval_shape(lambda: state_at(0)), step)
        jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
        assert {type(leaf) for leaf in jax.tree.leaves(state)} == {np.ndarray}
    assert (tmp_path / "11.orbax-checkpoint-tmp").exists()
    with pytest.raises(WrongCheckpoint, match=r"is \(2, 3\) there, \(2, 5\) here"):
        checkpoints.read(tmp_path, jax.eval_shape(lambda: state_at(0, width=5)), 2)


def test_a_checkpoint_of_another_network_is_refused_with_the_arrays_that_differ(tmp_path, mesh):
    saved(tmp_path, mesh, 1)
    with Checkpoints(tmp_path) as manager:
        with pytest.raises(WrongCheckpoint) as wider:
            manager.restore(jax.eval_shape(lambda: state_at(0, width=5)), mesh)
        with pytest.raises(WrongCheckpoint, match=r"opt_state/student/1/trace/.*absent there"):
            other = optax.chain(optax.clip(1.0), optax.trace(0.9))
            manager.restore(jax.eval_shape(lambda: state_at(0, optimizer=other)), mesh)
    assert "params/student/dense/kernel is (2, 3) there, (2, 5) here" in str(wider.value)
    assert "another --workdir" in str(wider.value) and "\n" not in str(wider.value)


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path, mesh):
    saved(tmp_path, mesh, 1, 2)
    for file in (tmp_path / "2" / "state").rglob("*"):
        if file.is_file() and "METADATA" not in file.name:
            file.write_bytes(b"")
    with (
        Checkpoints(tmp_path) as manager,
        pytest.raises(WrongCheckpoint, match=r"2 cannot be read .* remove it") as error,
    ):
        manager.restore(jax.eval_shape(lambda: state_at(0)), mesh)
    assert "\n" not in str(error.value)


def test_a_disk_that_is_full_is_told_in_one_line_and_the_checkpoints_before_stay(tmp_path, mesh, monkeypatch):
    saved(tmp_path, mesh, 1)
    with Checkpoints(tmp_path) as manager:

        def full(*_, **__):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise ValueError("RESOURCE_EXHAUSTED:\nwriting") from error

        with monkeypatch.context() as patched:
            patched.setattr(manager._manager, "save", full)
            with pytest.raises(
                OSError, match="saving failed, the disk is full; the checkpoints before it are whole"
            ) as told:
                manager.save(place(state_at(2), mesh), batches=20)
        assert "\n" not in str(told.value)
        state, position = manager.restore(jax.eval_shape(lambda: state_at(0)), mesh)
    assert int(state.step) == 1 and position["batches"] == 10


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--workdir: .*file/c cannot be written .*; choose another"):
        Checkpoints(tmp_path / "file" / "c")

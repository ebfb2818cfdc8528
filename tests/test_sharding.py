"""The arrays' places, and whole steps on 8 virtual devices. Devices are counted when jax starts, so that the steps run
in a process of their own: `python tests/test_sharding.py` prints the losses of every mesh."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from tadsr_jax.sharding import make_mesh, parameter_spec, place, shardings

ROOT = Path(__file__).parents[1]
MESHES = {"1 device": None, "data=8": {"data": 8}, "data=4, fsdp=2": {"data": 4, "fsdp": 2}}
STEPS, BATCH = 3, 8


# ---- the child -------------------------------------------------------------------------------------------------------


def losses_of(mesh_options) -> dict:
    """Three steps of TAD-SR with every term, on a mesh: losses a step, where parameters lie, compilations."""
    from tadsr_jax import sharding, train
    from tadsr_jax.recipes import RECIPES
    from tests.toys import randomised, tiny_batch, tiny_family

    sharding.SMALL = 2**12  # so that some of the tiny network's parameters count as large
    one = {"data": 1, "devices": jax.devices()[:1]}
    mesh = sharding.make_mesh(**(mesh_options or one))
    family, batch = tiny_family(), tiny_batch(BATCH)
    recipe = RECIPES["tadsr"](family, discriminator={"c_dim": 2, "embed_dim": 8})
    optimizers = {player: train.optimizer(lambda count: 1e-3) for player in ("student", "discriminator")}
    start = randomised(jax.eval_shape(family.init, jax.random.key(0))["denoiser"], 0.05)
    frozen = {"teacher": sharding.place(start, mesh), "autoencoder": {}}
    init = jax.jit(partial(train.init_state, family=family, recipe=recipe, optimizers=optimizers))
    state = init(jax.random.key(0), student=start, frozen={"teacher": start, "autoencoder": {}}, batch=batch)
    state = sharding.place(state, mesh)
    step = train.jit_step(recipe=recipe, optimizers=optimizers, ema_decay=0.9, accumulate=1, mesh=mesh)
    logs, places = [], [jax.tree.map(lambda leaf: leaf.sharding, state)]
    for number in range(STEPS):
        batch = tiny_batch(BATCH, seed=number)
        state, made = step(state, frozen, train.as_batch({"lq": batch.lq, "gt": batch.gt}, mesh))
        logs.append({name: float(value) for name, value in made.items()})
        places.append(jax.tree.map(lambda leaf: leaf.sharding, state))
    same_place = lambda a, b, leaf: a.is_equivalent_to(b, leaf.ndim)
    equal = [jax.tree.map(same_place, places[0], later, state) for later in places[1:]]
    cut = [not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params["student"])]
    weights = sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(state.params))
    return {
        "logs": logs,
        "weights": weights,
        "stayed": all(jax.tree.leaves(equal)),
        "cut": sum(cut),
        "compiled": step._cache_size(),
    }


# ---- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # half the time to compile; the partitioning is the same
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=900)
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", [name for name in MESHES if name != "1 device"])
def test_eight_devices_have_the_losses_of_one(made, mesh):
    for alone, together in zip(made["1 device"]["logs"], made[mesh]["logs"], strict=True):
        assert set(alone) == set(together) >= {"mse", "hsd", "gan", "loss", "loss_d"}
        for name in alone:
            # float32 sums in another order, and Adam's quotients of small gradients magnify what differs
            np.testing.assert_allclose(together[name], alone[name], rtol=2e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(made[mesh]["weights"], made["1 device"]["weights"], rtol=1e-4)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_state_stays_where_it_was_put_so_that_a_step_compiles_once(made, mesh):
    assert made[mesh]["stayed"]
    assert made[mesh]["compiled"] == 1


def test_fsdp_cuts_the_large_parameters_and_data_parallelism_none(made):
    assert made["data=4, fsdp=2"]["cut"] > 0
    assert made["data=8"]["cut"] == made["1 device"]["cut"] == 0


def test_a_large_parameter_is_cut_along_its_longest_axis_that_divides():
    assert parameter_spec((3, 3, 320, 640), 4) == PartitionSpec(None, None, None, "fsdp")
    assert parameter_spec((3, 3, 640, 321), 4) == PartitionSpec(None, None, "fsdp")
    assert parameter_spec((1024, 511), 2) == PartitionSpec("fsdp")


@pytest.mark.parametrize(
    ("shape", "fsdp"),
    [((3, 3, 320, 640), 1), ((255, 255), 2), ((257, 257), 2), ((65_535,), 5), ((), 2)],
    ids=["one device", "small", "odd", "just below the limit", "a number"],
)
def test_other_parameters_are_copied_to_every_device(shape, fsdp):
    assert parameter_spec(shape, fsdp) == PartitionSpec()


def test_every_leaf_of_a_state_is_placed_by_the_rule():
    mesh = AbstractMesh((1, 2), ("data", "fsdp"))
    tree = {"kernel": jax.ShapeDtypeStruct((512, 256), np.float32), "bias": jax.ShapeDtypeStruct((256,), np.float32)}
    got = shardings(tree, mesh)
    assert got["kernel"].spec == PartitionSpec("fsdp") and got["bias"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (4, 1)), ({"fsdp": 2}, (2, 2)), ({"data": 2, "fsdp": -1}, (2, 2)), ({"data": 1, "fsdp": 4}, (1, 4))],
)
def test_minus_one_stands_for_the_devices_that_are_left(options, shape):
    assert make_mesh(**options, devices=jax.devices() * 4).devices.shape == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": 3}, "config.mesh is data=3, fsdp=1, for 4 devices; their product must be that number"),
        ({"fsdp": 3}, "config.mesh is data=-1, fsdp=3, for 4 devices; their product must be that number"),
        ({"fsdp": 8}, "config.mesh is data=-1, fsdp=8, for 4 devices; their product must be that number"),
        ({"fsdp": -1}, "config.mesh is data=-1, fsdp=-1; expected positive numbers, one of them -1 at most."),
        ({"data": 0}, "config.mesh is data=0, fsdp=1; expected positive numbers, one of them -1 at most."),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        make_mesh(**options, devices=jax.devices() * 4)
    assert str(error.value).startswith(message)


def test_a_placed_tree_is_a_copy_that_survives_a_donation():
    source = {"w": jax.numpy.ones(3)}
    placed = place(source, make_mesh(devices=jax.devices()[:1]))
    jax.jit(lambda tree: {"w": tree["w"] + 1}, donate_argnums=0)(placed)
    assert placed["w"].is_deleted()
    np.testing.assert_array_equal(source["w"], np.ones(3))


if __name__ == "__main__":
    print(json.dumps({name: losses_of(options) for name, options in MESHES.items()}))

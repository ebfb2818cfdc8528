"""Where arrays live: a (data, fsdp) mesh, one rule for parameters, and the way from host batches to global arrays.

Every device holds a part of the batch. With fsdp > 1 large parameters are cut along one axis over that many devices,
so that a model which does not fit on one fits on several; the compiler gathers them where they are used.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SMALL = 2**16  # parameters with fewer entries are copied to every device: gathering them would cost more than it saves


def make_mesh(*, data: int = -1, fsdp: int = 1, devices=None) -> Mesh:
    """A mesh of data x fsdp devices; -1 stands for as many as there are left."""
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp}
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"config.mesh is data={data}, fsdp={fsdp}; expected positive numbers, one of them -1 at most.")
    if free:
        other = sizes["fsdp" if free[0] == "data" else "data"]
        sizes[free[0]] = max(len(devices) // other, 1)
    if sizes["data"] * sizes["fsdp"] != len(devices):
        raise ValueError(
            f"config.mesh is data={data}, fsdp={fsdp}, for {len(devices)} devices; their product must be that number "
            "(use data=-1 for as many as there are left)."
        )
    # jax.sharding.Mesh has automatic axes; jax.make_mesh makes explicit ones, in which convolutions do not work.
    return Mesh(np.asarray(devices).reshape(sizes["data"], sizes["fsdp"]), ("data", "fsdp"))


def parameter_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """The one rule: cut the longest axis that `fsdp` divides, if the array is large; else copy."""
    divisible = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not divisible or np.prod(shape) < SMALL:
        return PartitionSpec()
    cut = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * cut, "fsdp")  # without a tail of None, as compiled programs name it: see jit_step


def shardings(tree, mesh: Mesh):
    """The sharding of every leaf (arrays or their shapes) of states and parameters."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter_spec(leaf.shape, mesh.shape["fsdp"])), tree)


def place(tree, mesh: Mesh):
    """The tree on the mesh, by `shardings`. The copies are the mesh's own, so the source survives a donation."""
    return jax.tree.map(lambda leaf, sharding: jax.device_put(np.asarray(leaf), sharding), tree, shardings(tree, mesh))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are cut along their first axis, over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def place_batch(tree, mesh: Mesh):
    """This process's part of a batch (NumPy) as global arrays."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)

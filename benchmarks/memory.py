"""What is needed to train each public model and to run it, as the tables of the README: estimates, from shapes alone.

    python benchmarks/memory.py [addsr_x4 ...] [--check]                  (2 CPU cores: some minutes; no weights)

What a chip keeps between steps is exact: what learns, its two Adam moments and its average in float32; what never
learns as its networks read it, weights that student and teacher share once; with fsdp, cut as `sharding` cuts it. What
a step takes beside (gradients, activations, weights that were cut and are gathered) is `live.peak` at a few numbers of
pictures, and lines between and beyond: rather high, since compilers for accelerators fuse more. --check has this
machine's compiler plan small steps, and compares.
"""

import argparse
import functools
import itertools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from live import peak
from live import size as bytes_of

from tadsr_jax import bundles, job, train
from tadsr_jax.config import plain
from tadsr_jax.job.run import stored
from tadsr_jax.job.saved import abstract_state, example
from tadsr_jax.networks import abstract_variables, storage
from tadsr_jax.sharding import parameter_spec
from tadsr_jax.types import TrainState
from tadsr_jax.upscale.grid import auto_tile

CONFIGS = Path(__file__).parent.parent / "configs"
NAMES = {
    "teacher_x4": "ResShift, the teacher",
    "sinsr_x4": "SinSR",
    "x4": "TAD-SR",
    "addsr_x4": "AddSR",
    "tad_seesr_x4": "TAD-SeeSR",
}
DEVICES = {"pictures that fit a v5e (16 GB)": 16e9, "a v5p (95 GB)": 95e9, "a GPU of 80 GB": 80e9}
SPLITS = (1, 8)  # fsdp
CHIPS = 8  # that the public batch is shared by
BATCHES = (1, 4, 16)  # pictures a chip that are estimated
TILES = 4  # that an accelerator enlarges at a time
CHECKED = {"x4:small": 8, "addsr_x4:tiny": 2}  # pictures


# ---- what runs -------------------------------------------------------------------------------------------------------


def config_of(name: str) -> dict:
    """The config of NAME[:VARIANT]; of prepared folders where its losses need the teacher's pictures."""
    file, _, variant = name.partition(":")
    config = plain(runpy.run_path(str(CONFIGS / f"{file}.py"))["get_config"](variant))
    if config["losses"].get("target") == "tch":
        config["data"]["source"] = "prepared"
    return config


class Training(NamedTuple):
    """A step of a config, and the shapes of what it works on."""

    config: dict
    step: Callable
    state: TrainState
    frozen: dict

    @property
    def kept(self) -> tuple:
        """What stays on a chip. The tree of a student that learns in part is its teacher's."""
        shared = {"student"} if "teacher" in self.frozen else set()
        return self.state, {name: tree for name, tree in self.frozen.items() if name not in shared}


def training(config: dict) -> Training:
    family, recipe, optimizers, _ = job.parts(config)
    shapes = bundles.expected_shapes(family)
    known = shapes | {"teacher": shapes["student"]}
    known |= {name: abstract_variables(module)["params"] for name, module in recipe.reads.items()}
    frozen = functools.partial(stored, family=family, recipe=recipe)
    step = functools.partial(train.train_step, recipe=recipe, optimizers=optimizers, ema_decay=0.99)
    return Training(
        config,
        jax.jit(step, donate_argnums=0),
        abstract_state(config, family, recipe, optimizers),
        jax.eval_shape(frozen, {name: known[name] for name in recipe.frozen}),
    )


def traced(training: Training, batch: int) -> jax.stages.Traced:
    several = lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)
    return training.step.trace(training.state, training.frozen, jax.tree.map(several, example(training.config)))


# ---- bytes -----------------------------------------------------------------------------------------------------------


def held(tree, fsdp: int = 1) -> int:
    """By a chip, of a tree whose large leaves are cut."""
    share = lambda leaf: fsdp if any(parameter_spec(leaf.shape, fsdp)) else 1
    return sum(leaf.size * leaf.dtype.itemsize // share(leaf) for leaf in jax.tree.leaves(tree))


def beside(training: Training, batch: int) -> int:
    """By a step, beside its arguments."""
    program = traced(training, batch).jaxpr
    arguments = sum(bytes_of(variable) for variable in program.jaxpr.invars)
    return peak(program, donated=range(len(jax.tree.leaves(training.state)))) - arguments


def running(family) -> int:
    """By the enlargement of accelerators' tiles, in one step; weights included, as `Upscaler` has them."""
    side = auto_tile(family, "tpu")
    of = lambda *shape: jax.ShapeDtypeStruct((TILES, *shape), jnp.float32)
    rounded = lambda name, tree: storage.rounded(bundles.module_of(family, name), tree)
    weights = lambda trees: {name: rounded(name, tree) for name, tree in trees.items()}
    stored_weights = jax.eval_shape(weights, bundles.expected_shapes(family))
    inputs = stored_weights, of(side, side, 3), of(*family.latent(side, side))
    return peak(jax.make_jaxpr(functools.partial(family.sample, steps=1))(*inputs))


# ---- tables ----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """Of a model; sizes in bytes."""

    name: str
    parameters: int
    disk: int
    run: int
    learning: int  # parameters
    kept: dict[int, int]  # fsdp -> by a chip between steps
    beside: dict[int, int]  # pictures -> by a step on a chip
    batch: int  # pictures a chip, of the public run

    def memory(self, batch: int, fsdp: int) -> float:
        """Of a chip."""
        (before, last), sizes = list(self.beside)[-2:], list(self.beside.values())
        slope = (sizes[-1] - sizes[-2]) / (last - before)
        return self.kept[fsdp] + np.interp(batch, list(self.beside), sizes) + slope * max(batch - last, 0)

    def fits(self, memory: float) -> str:
        """Pictures that a chip has room for, with a copy of everything if it has, else with a share."""
        for fsdp in self.kept:
            batch = next(batch for batch in itertools.count() if self.memory(batch + 1, fsdp) > memory)
            if batch:
                return f"{batch}" + (f" (fsdp={fsdp})" if fsdp > 1 else "")
        return "-"


def row(name: str) -> Row:
    config = config_of(name)
    family, *_ = job.parts(config)
    model, one = bundles.expected_shapes(family), training(config)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    return Row(
        name=NAMES[name],
        parameters=count(model),
        disk=held(model),
        run=running(family),
        learning=count(one.state.params),
        kept={fsdp: held(one.kept, fsdp) for fsdp in SPLITS},
        beside={batch: beside(one, batch) for batch in BATCHES},
        batch=config["data"]["batch_size"] // CHIPS,
    )


def markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def tables(rows: list[Row]) -> str:
    gb = lambda size: f"{size / 1e9:.1f}"
    million = lambda number: f"{number / 1e6:,.0f} M"
    run = [[row.name, million(row.parameters), gb(row.disk), gb(row.run)] for row in rows]
    fit = [
        [
            row.name,
            million(row.learning),
            *(gb(kept) for kept in row.kept.values()),
            gb(row.beside[1]),
            f"{row.batch} of {row.batch * CHIPS}",
            *(gb(row.memory(row.batch, fsdp)) for fsdp in row.kept),
            *(row.fits(memory) for memory in DEVICES.values()),
        ]
        for row in rows
    ]
    split = [f"with fsdp={fsdp}" for fsdp in SPLITS[1:]]
    kept = ["a chip keeps, GB", *split, "a step of 1 picture takes, GB"]
    memory = [f"public batch on {CHIPS} chips", "GB a chip", *split]
    head = ["to train", "parameters that learn", *kept, *memory, *DEVICES]
    return markdown(["to run", "parameters", "on disk, GB", "memory, GB"], run) + "\n\n" + markdown(head, fit)


def check(name: str, batch: int) -> str:
    """What the compiler of this machine plans for a small step, and the estimate."""
    small = training(config_of(name))
    plan = traced(small, batch).lower().compile().memory_analysis()
    estimated, planned = beside(small, batch), plan.temp_size_in_bytes
    return (
        f"{name}, {batch} pictures: {estimated / 1e6:.1f} MB are estimated beside what is kept, {planned / 1e6:.1f} MB "
        f"planned by the compiler for this {jax.default_backend()}: {estimated / planned:.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"of {', '.join(NAMES)} (all)")
    parser.add_argument("--check", action="store_true", help="compile small steps, too: some minutes")
    options = parser.parse_args()
    if unknown := set(options.configs) - set(NAMES):
        parser.error(f"{min(unknown)} is unknown; expected {', '.join(NAMES)}.")
    print(tables([row(name) for name in options.configs or NAMES]), flush=True)
    for name, batch in CHECKED.items() if options.check else ():
        print(f"\n{check(name, batch)}", flush=True)


if __name__ == "__main__":
    main()

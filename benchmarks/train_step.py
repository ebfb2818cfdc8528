"""Speed and memory of the training step of a config, and of its parts, on random pictures and weights.

    python benchmarks/train_step.py --config=configs/x4.py:small [--steps 10] [--batch N] [--no-parts]
    python benchmarks/train_step.py --config=configs/x4.py --batch 1          (full size: 10 GB on a CPU, minutes)

Needs neither weights nor pictures. Every row is one program, traced and compiled by itself, and timed after a warm-up
with the device waited for: the median of `--steps` runs. The parts repeat work that the step does once, so their sum
need not match it. The share of the peak counts the multiplications and additions of convolutions and matrix products
in the program as written; it is against the device's bfloat16 peak, or, on a CPU, against a measured product of
float32 matrices. Memory is the compiler's plan for one device (arguments, results, and what it needs in between), and
at the bottom what was held at most.
"""

import argparse
import functools
import resource
import runpy
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rates import PEAKS, flops_of

from tadsr_jax import bundles, job, train
from tadsr_jax.config import bind, plain
from tadsr_jax.networks import init_variables
from tadsr_jax.networks.perceptual import Backbone, head_shapes
from tadsr_jax.sharding import make_mesh, place
from tadsr_jax.types import Batch

# ---- measuring -------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What was measured of one program."""

    trace: float  # seconds
    compile: float
    run: float  # median
    best: float
    flops: float
    memory: int  # bytes a device


def measure(function, *arguments, steps: int, carry: bool = False) -> tuple[Row, tuple]:
    """The row of a jitted function, and its last results. `carry`: the first result is the next first argument."""
    begun = time.perf_counter()
    traced = function.trace(*arguments)
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    compiled_at = time.perf_counter()
    plan, seconds = compiled.memory_analysis(), []
    for _ in range(steps + 2):
        started = time.perf_counter()
        results = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - started)
        if carry:
            arguments = (results[0], *arguments[1:])
    memory = (
        sum(getattr(plan, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp"))
        - plan.alias_size_in_bytes
    )
    flops = flops_of(traced.jaxpr.jaxpr)
    row = Row(lowered_at - begun, compiled_at - lowered_at, statistics.median(seconds[2:]), min(seconds), flops, memory)
    return row, results


def peak_of(device) -> tuple[float | None, str]:
    """(flop/s of one device, where the number is from)."""
    if device.platform != "cpu":
        known = next((name for name in PEAKS if name.lower() in device.device_kind.lower()), None)
        return (PEAKS[known], f"{known}, bfloat16") if known else (None, "unknown")
    matrix = jnp.ones((2048, 2048))
    row, _ = measure(jax.jit(lambda a: a @ a), matrix, steps=20)
    return row.flops / row.best, "the best float32 product of 2048 x 2048 matrices, measured"


# ---- what is measured ------------------------------------------------------------------------------------------------


def random_weights(family, recipe, config: dict) -> dict:
    """The recipe's frozen networks with fresh parameters, and a student."""
    key = jax.random.key(config["seed"])
    fresh = jax.jit(family.init)(key)
    made = {"student": fresh["denoiser"], "teacher": fresh["denoiser"], "autoencoder": fresh["autoencoder"]}
    if "lpips" in recipe.frozen:
        heads = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), head_shapes("vgg")["params"])
        backbone = jax.jit(functools.partial(init_variables, Backbone("vgg")))(key)["params"]
        made["lpips"] = {"backbone": backbone, "heads": heads}
    return made


def random_batch(config: dict, size: int, mesh) -> Batch:
    side, scale = config["data"]["gt_size"], config["scale"]
    rng = np.random.default_rng(0)
    draw = lambda pixels: rng.uniform(-1, 1, (size, pixels, pixels, 3)).astype(np.float32)
    return train.as_batch({"lq": draw(side // scale), "gt": draw(side)}, mesh)


def player_update(optimizers: dict, ema_decay: float):
    """(grads, params, opt_state, ema) -> the new ones: what a step does when it has its gradients."""

    def update(grads, params, opt_state, ema):
        made = {name: optimizers[name].update(grads[name], opt_state[name], params[name]) for name in params}
        params = {name: optax.apply_updates(params[name], made[name][0]) for name in params}
        ema = optax.incremental_update(params["student"], ema, 1 - ema_decay)
        return params, {name: made[name][1] for name in params}, ema

    return update


def measure_parts(recipe, optimizers: dict, state, frozen, batch, *, ema_decay: float, steps: int) -> dict[str, Row]:
    """Rows of the parts, each a program of its own over the whole batch."""
    student, rows = state.params["student"], {}
    players = state.params.get("discriminator"), state.stats.get("discriminator")

    def part(name, function, *arguments):
        rows[name], results = measure(jax.jit(function), *arguments, steps=steps)
        return results

    def student_loss(student, players, draws, frozen, batch):
        outputs = recipe.generate(student, frozen, batch, draws)
        return recipe.student_loss(outputs, *players, frozen, batch, draws)

    answer, key = jax.grad(student_loss, has_aux=True), jax.random.key(0)
    draws = part("draw: noise, latents, teacher's samples", recipe.draw, key, frozen, batch)
    outputs = part("student: forward", recipe.generate, student, frozen, batch, draws)
    part("student: forward, losses, backward", answer, student, players, draws, frozen, batch)
    if recipe.discriminator_loss:
        judge = jax.grad(recipe.discriminator_loss, has_aux=True)
        part("discriminator: forward, backward", judge, *players, outputs, frozen, batch, draws)
    update = player_update(optimizers, ema_decay)
    part("update: optimisers, average", update, state.params, state.params, state.opt_state, state.ema)
    return rows


def table(rows: dict[str, Row], peak: float | None, devices: int) -> str:
    head = f"{'':42}{'ms':>10}{'trace s':>9}{'compile s':>11}{'GFLOP':>10}{'of peak':>9}{'MiB':>9}"
    lines = [head]
    for name, row in rows.items():
        share = f"{row.flops / row.run / peak / devices:.1%}" if peak else "-"
        lines.append(
            f"{name:42}{1e3 * row.run:10.1f}{row.trace:9.1f}{row.compile:11.1f}{row.flops / 1e9:10.1f}{share:>9}"
            f"{row.memory / 2**20:9.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="FILE.py[:VARIANT][,KEY=VALUE ...]")
    parser.add_argument("--steps", type=int, default=10, help="runs of each program (default 10)")
    parser.add_argument("--batch", type=int, help="pictures a step, over all devices (default: config.data.batch_size)")
    parser.add_argument("--parts", action=argparse.BooleanOptionalAction, default=True, help="time the parts, too")
    options = parser.parse_args()

    file, _, variant = options.config.partition(":")
    config = plain(runpy.run_path(file)["get_config"](variant))
    family, recipe, optimizers, _ = job.parts(config)
    mesh = make_mesh(**bind(make_mesh, "config.mesh", config["mesh"], given=("devices",)))
    size = options.batch or config["data"]["batch_size"]
    accumulate, ema_decay = config["train"].get("accumulate", 1), config["train"]["ema_decay"]
    if size % (mesh.size * accumulate):
        parser.error(f"--batch is {size}; it must be a multiple of {mesh.size * accumulate} (devices x accumulate).")

    weights, batch = random_weights(family, recipe, config), random_batch(config, size, mesh)
    frozen = {name: place(weights[name], mesh) for name in recipe.frozen}
    initial = jax.jit(functools.partial(train.init_state, family=family, recipe=recipe, optimizers=optimizers))
    one = jax.tree.map(lambda leaf: leaf[:1], batch)
    state = place(initial(jax.random.key(0), student=weights.pop("student"), frozen=frozen, batch=one), mesh)
    del weights

    device = mesh.devices.flat[0]
    peak, source = peak_of(device)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params["student"]))
    print(" ".join(f"{name} {version}" for name, version in bundles.versions().items()))
    print(f"{mesh.size} x {device.device_kind} ({device.platform}), mesh {dict(mesh.shape)}")
    print(f"{config['recipe']}, {options.config}: student of {count:,} parameters, accumulate={accumulate}")
    print(f"lq {batch.lq.shape}, gt {batch.gt.shape}, {family.schedule.num_steps} teacher steps", flush=True)

    rows = {}
    if options.parts:
        rows = measure_parts(recipe, optimizers, state, frozen, batch, ema_decay=ema_decay, steps=options.steps)
    step = train.jit_step(recipe=recipe, optimizers=optimizers, ema_decay=ema_decay, accumulate=accumulate, mesh=mesh)
    whole, (_, logs) = measure(step, state, frozen, batch, steps=options.steps, carry=True)
    print(table({"the whole step": whole} | rows, peak, mesh.size))
    print(f"{1 / whole.run:.3g} steps/s, {size / whole.run:.3g} images/s, {int(logs['skipped_in_row'])} steps left out")
    print(f"peak: {f'{peak / 1e12:.3g} Tflop/s a device ({source})' if peak else source}")
    held = (device.memory_stats() or {}).get("peak_bytes_in_use")
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"held at most: {f'{held / 2**30:.2f} GiB on a device, ' if held else ''}{rss / 2**30:.2f} GiB on the host")


if __name__ == "__main__":
    main()

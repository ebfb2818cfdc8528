"""Speed and memory of one-step upscaling at x4 in full size (118.6 M U-Net, VQ-f4), and what the tuning is worth.

    python benchmarks/upscale.py [--sizes 64 128] [--runs 5]              (2 CPU cores: some ten minutes)
    python benchmarks/upscale.py --small --sizes 64                       (small networks, half a minute)
    python benchmarks/upscale.py --dtype bfloat16 --batches 1 8 32        (an accelerator: latency, then throughput)

Random weights and pictures; nothing is needed. Our form of the networks is timed in turns with the textbook's, which is
kept in this file and runs on the same parameters: group norm by its formula, every pixel four times and then a 3x3
convolution, attention and code search in one piece. Times are minima of --runs, of programs of their own; "total" is
one program for all parts. The share of the peak takes the operations of the textbook's form, so a form with fewer can
exceed 100 %. The peak of a CPU is measured; an accelerator's is that of its data sheet, in bfloat16. Processor time is
a better judge than the clock where other work runs on the machine. Peak memory is that of a fresh process that does
one upscaling, weights (700 MB) and libraries included.
"""

import argparse
import contextlib
import functools
import json
import os
import resource
import subprocess
import sys
import time
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from rates import PEAKS, flops_of

from tadsr_jax import cache
from tadsr_jax.families import resshift
from tadsr_jax.networks import abstract_variables, convolution, layers, norms, vq

SMALL = {
    "denoiser": {"model_channels": 64, "channel_mult": (1, 2), "num_res_blocks": 1, "swin_embed_dim": 64},
    "autoencoder": {"ch": 64, "num_res_blocks": 1, "n_embed": 1024},
}


# ---- the textbook's form ---------------------------------------------------------------------------------------------


def textbook_group_norm(x, scale, bias, groups, epsilon):
    """Mean and variance of each group, one after the other: x (n, ..., c) -> the same, float32."""
    by_group = x.astype(jnp.float32).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = jnp.mean(by_group, axis=(1, 3), keepdims=True)
    var = jnp.mean(jnp.square(by_group - mean), axis=(1, 3), keepdims=True)
    return ((by_group - mean) / jnp.sqrt(var + epsilon)).reshape(x.shape) * norms.along(x, scale) + norms.along(x, bias)


def textbook_codes(codebook, z):
    """Numbers of the nearest codes by the table of all distances."""
    distances = jnp.sum(jnp.square(codebook.codes), axis=-1) - 2 * jnp.einsum("nhwc,kc->nhwk", z, codebook.codes)
    return jnp.argmin(distances, axis=-1)


def textbook():
    """While entered, what is traced is in the textbook's form."""
    changes = (
        (norms, "group_norm", textbook_group_norm),
        (layers, "group_norm", textbook_group_norm),
        (layers, "conv3x3", convolution._plain),
        (layers, "upsampled_conv3x3", convolution._plain_upsampled),
        (vq, "map_chunks", lambda function, x, rows: function(x)),
        (vq.Codebook, "nearest", textbook_codes),
    )
    stack = contextlib.ExitStack()
    for owner, name, change in changes:
        stack.enter_context(mock.patch.object(owner, name, change))
    return stack


FORMS = {"ours": contextlib.nullcontext, "textbook": textbook}


# ---- what is measured ------------------------------------------------------------------------------------------------


def family_of(*, small: bool, dtype: str):
    settings = SMALL if small else {"denoiser": {}, "autoencoder": {}}
    return resshift.build(
        scale=4,
        denoiser={"kind": "swin", "dtype": dtype} | settings["denoiser"],
        autoencoder={"kind": "vq", "dtype": dtype} | settings["autoencoder"],
        diffusion={"num_steps": 15, "kappa": 2.0, "min_noise_level": 0.04, "etas_end": 0.99, "power": 0.3},
    )


def random_weights(family) -> dict:
    """Both networks with kernels that keep deviations near 1: norms 1 and 0, biases 0."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "scale" or leaf.ndim == 1:
            return jnp.full(leaf.shape, float(path[-1].key == "scale"))
        fan_in = np.prod(leaf.shape[:-1])
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(fan_in)))

    tree = lambda module: jax.tree_util.tree_map_with_path(draw, abstract_variables(module)["params"])
    return {"student": tree(family.networks["denoiser"]), "autoencoder": tree(family.networks["autoencoder"])}


def random_inputs(side: int, batch: int) -> tuple:
    """An LQ picture and latent noise."""
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.uniform(-1, 1, (batch, side, side, 3)), jnp.float32) for _ in range(2))


def parts_of(family) -> dict:
    """{row: function of (weights, lq, noise)}; whatever is not a picture is noise of the same shape."""
    schedule = family.schedule
    condition = lambda lq, noise: {"lq": lq, "z_y": noise, "mask": None}
    return {
        "encode": lambda weights, lq, noise: family.encode(weights, resshift.upsample(lq, 4)),
        "U-Net": lambda weights, lq, noise: family.predict_z0(
            weights["student"], noise, schedule.num_steps - 1, condition(lq, noise)
        ),
        "decode": lambda weights, lq, noise: family.decode(weights, noise),
        "total": functools.partial(family.sample, steps=1),
    }


class Program(NamedTuple):
    """A compiled part in one of the forms."""

    run: jax.stages.Compiled
    flops: float
    compile: float  # seconds
    temporary: int  # bytes between its arguments and its results


def compiled(function, form: str, *arguments) -> Program:
    """`function` traced in this form: a new function every time, since traces are cached."""
    begun = time.perf_counter()
    with FORMS[form]():
        traced = jax.jit(lambda *arguments: function(*arguments)).trace(*arguments)
    run = traced.lower().compile()
    seconds = time.perf_counter() - begun
    return Program(run, flops_of(traced.jaxpr.jaxpr), seconds, run.memory_analysis().temp_size_in_bytes)


class Times(NamedTuple):
    """Least seconds of several runs."""

    clock: float
    processor: float


def in_turns(programs: dict[str, Program], arguments: tuple, runs: int) -> dict[str, Times]:
    """Times of each of the programs, run one after the other `runs` times after a warm-up."""
    seconds = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program.run(*arguments))
    for _ in range(runs):
        for name, program in programs.items():
            started, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(program.run(*arguments))
            seconds[name].append((time.perf_counter() - started, time.process_time() - processor))
    return {name: Times(*map(min, zip(*pairs))) for name, pairs in seconds.items()}


def peak_rate() -> tuple[float | None, str]:
    """(flop/s of the device, where the number is from)."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        known = next((name for name in PEAKS if name.lower() in device.device_kind.lower()), None)
        return (PEAKS[known], f"{known}, bfloat16") if known else (None, "unknown")
    conv = lambda x, kernel: convolution.convolve(x, kernel, ((1, 1), (1, 1)))
    products = {
        "product of 2048 x 2048 matrices": (jnp.matmul, (jnp.ones((2048, 2048)),) * 2),
        "3x3 convolution, 256 channels": (conv, (jnp.ones((1, 128, 128, 256)), jnp.ones((3, 3, 256, 256)))),
    }
    rates = {}
    for name, (function, arguments) in products.items():
        program = compiled(function, "ours", *arguments)
        rates[name] = program.flops / in_turns({name: program}, arguments, 10)[name].clock
    return max(rates.values()), ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())


def held_at_most(form: str, side: int, options) -> int:
    """Bytes that a fresh process holds at most while it upscales one picture in this form."""
    arguments = ["--only", form, "--sizes", str(side), "--dtype", options.dtype]
    command = [sys.executable, __file__, *arguments, *(["--small"] if options.small else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def upscale_once(form: str, side: int, options) -> None:
    """What `held_at_most` runs: prints the bytes."""
    family = family_of(small=options.small, dtype=options.dtype)
    arguments = random_weights(family), *random_inputs(side, 1)
    program = compiled(parts_of(family)["total"], form, *arguments)
    cache.release_memory()  # as an Upscaler does
    jax.block_until_ready(program.run(*arguments))
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


# ---- the table -------------------------------------------------------------------------------------------------------


def table(parts: dict, arguments: tuple, peak: float | None, runs: int) -> str:
    """A row for each part: both forms in milliseconds, their ratios, and the rate of ours."""
    lines = [
        f"{'':12}{'ours ms':>10}{'textbook':>10}{'ratio':>7}{'CPU s':>8}{'textbook':>9}{'ratio':>7}"
        f"{'GFLOP':>8}{'GFLOP/s':>9}{'of peak':>9}{'compile s':>11}{'textbook':>9}{'temp MB':>9}{'textbook':>9}"
    ]
    for name, function in parts.items():
        programs = {form: compiled(function, form, *arguments) for form in FORMS}
        times = in_turns(programs, arguments, runs)
        (ours, theirs), (mine, plain) = times.values(), programs.values()
        rate = plain.flops / ours.clock
        lines.append(
            f"{name:12}{1e3 * ours.clock:10.0f}{1e3 * theirs.clock:10.0f}{ours.clock / theirs.clock:7.2f}"
            f"{ours.processor:8.2f}{theirs.processor:9.2f}{ours.processor / theirs.processor:7.2f}"
            f"{plain.flops / 1e9:8.0f}{rate / 1e9:9.0f}{f'{rate / peak:.0%}' if peak else '-':>9}"
            f"{mine.compile:11.1f}{plain.compile:9.1f}{mine.temporary / 1e6:9.0f}{plain.temporary / 1e6:9.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="sides of the LQ picture (64 128)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="pictures at a time (default 1)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each program (default 5)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--small", action="store_true", help="small networks, to try the script")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="and peak memory")
    parser.add_argument("--only", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return upscale_once(options.only, options.sizes[0], options)

    held = {}
    if options.memory and jax.default_backend() == "cpu":
        # First of all: a process inherits the peak of the one that starts it.
        held = {(form, side): held_at_most(form, side, options) for side in options.sizes for form in FORMS}
    device = jax.devices()[0]
    peak, source = peak_rate()
    print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, {options.dtype}; peak: {source}")
    family = family_of(small=options.small, dtype=options.dtype)
    weights, parts = random_weights(family), parts_of(family)
    for side in options.sizes:
        for batch in options.batches:
            print(f"\n{side} -> {4 * side}, batch {batch}")
            print(table(parts, (weights, *random_inputs(side, batch)), peak, options.runs), flush=True)
        if held:
            line = ", ".join(f"{form} {held[form, side] / 1e6:.0f} MB" for form in FORMS)
            print(f"peak memory of a process, batch 1: {line}", flush=True)


if __name__ == "__main__":
    main()

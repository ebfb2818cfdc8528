"""The Python door: a bundle in memory, and pictures through it.

    up = Upscaler.load("runs/small/bundle")
    large = up(picture)                          NumPy or PIL, one or a list of any sizes

Pictures become tiles of few shapes, tiles become batches over all local devices, and their results are blended into
bands of rows that leave the device's side at once. Per picture, memory on the host is the result itself (3 bytes a
pixel, 6 with 16 bits, colour fix or another scale) and one row of tiles; on a device it is one batch of tiles.
"""

import collections
import dataclasses
import inspect
import itertools
import math
import numbers
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from tadsr_jax import bundles, cache, images
from tadsr_jax.networks import storage
from tadsr_jax.sharding import batch_sharding, make_mesh, place, place_batch
from tadsr_jax.types import Bundle
from tadsr_jax.upscale import modes
from tadsr_jax.upscale.enlargement import Enlargement, Options, binary_mask, output_size, seen_size
from tadsr_jax.upscale.grid import Grid, auto_tile, make_grid, smaller_tile


class _OutOfMemory(RuntimeError):
    """A batch does not fit on the device."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a picture will take. Memory is that of a device while it computes, weights included."""

    tiles: int
    tile: tuple[int, int]  # (height, width) in LQ pixels
    output: tuple[int, int]  # (height, width)
    memory_bytes: int
    seconds: float | None  # None: it does not fit on the device

    def __str__(self) -> str:
        height, width = self.output
        time = "which it does not have" if self.seconds is None else f"about {self.seconds:.1f} s"
        return (
            f"{self.tiles} tile(s) of {self.tile[1]}x{self.tile[0]} -> {width}x{height} pixels, "
            f"{self.memory_bytes / 2**30:.2f} GiB on the device, {time}"
        )


class Upscaler:
    """A model that enlarges pictures. Safe to share between threads: calls take turns on the devices.

    info       the bundle's description (bundle.json)
    params     its parameters, on the devices
    scale      output pixels per input pixel, along a side, of the model itself
    smallest   pixels of the shorter side that the model sees; a picture with less is enlarged before
    """

    def __init__(self, bundle: Bundle, *, devices: list | None = None):
        self.info, self.scale, self.smallest = bundle.info, bundle.family.scale, bundle.family.smallest
        self._family, self._texts = bundle.family, bundle.texts
        self._mesh = make_mesh(devices=jax.local_devices() if devices is None else devices)
        self._platform = self._mesh.devices.flat[0].platform
        self.params = place(bundle.params, self._mesh)
        self._sample = jax.jit(bundle.family.sample, static_argnames=("steps", "stochastic"))
        self._lock = threading.RLock()
        self._programs, self._measured = {}, {}  # (tile, batch, steps, stochastic, told) -> itself; memory and time

    @classmethod
    def load(cls, folder: str | Path, *, dtype: str | None = None, devices: list | None = None) -> "Upscaler":
        """The model in a bundle's folder, on all local devices (or on `devices`).

        dtype   "float32" or "bfloat16", for the arithmetic; as the bundle says where it is None
        Raises ValueError, one line, for whatever is wrong with the folder. Compiled programs are kept on disk between
        processes: see `tadsr_jax.cache`.
        """
        cache.enable()
        bundle = bundles.load(Path(folder), dtype=dtype)
        for name, tree in bundle.params.items():  # half the memory, where the arithmetic is of bfloat16
            bundle.params[name] = storage.rounded(bundles.module_of(bundle.family, name), tree)
        return cls(bundle, devices=devices)

    def together(self, batch: int | None = None) -> int:
        """How many pictures of one tile each fill the devices, with this `batch`: give so many in a list."""
        return self._batch(batch)

    def __call__(
        self,
        image,
        *,
        scale: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        tile: int | str | None = "auto",
        batch: int | None = None,
        noise: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        color_fix: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        **words,
    ):
        """The enlarged picture, in the kind of the one that is given; a list of pictures gives a list.

        image      PIL image, or array (h, w) grey, (h, w, 2) grey + alpha, (h, w, 3) RGB, (h, w, 4) RGBA of uint8,
                   uint16, or floats in [0, 1]
        scale      of the result; where it is not the model's, the model's result is resampled to it
        steps      1 .. those the model was trained with; the bundle's default where None
        sampler    "deterministic" or "stochastic" (posterior draws, matters for 2 steps or more); None: the bundle's
        seed       of the latent noise, which depends on it and on the place in the picture alone; 0 .. 2^64 - 1
        tile       side in input pixels, a multiple of what the model needs; "auto"; None or "none" for no tiling
        batch      tiles at once on a device; 1 on a CPU and 4 elsewhere where None
        noise      latent noise instead of the seed's: (h, w, c) or (c, h, w), after the padding that no tiling implies;
                   (steps + 1, ...) for the stochastic sampler, that of the start first
        mask       (h, w), for a model that fills in: from half of its range up, a pixel is unknown. A list with a list.
        color_fix  "none", "wavelet" or "adain": take the colours of the input; None: the bundle's default
        progress   called with (tiles done, tiles in all)
        words      what the model's family can be told besides. SeeSR, AddSR and TAD-SeeSR: prompt, psr_weight, start,
                   guidance, negative_prompt, see `families.seesr_input.request`
        Raises ValueError for wrong arguments, before anything is compiled; BadResult.
        """
        several = isinstance(image, list | tuple)
        pictures, masks = (image, mask) if several else ([image], [mask])
        if several and mask is None:
            masks = [None] * len(pictures)
        if not isinstance(masks, list | tuple) or len(masks) != len(pictures):
            raise ValueError(f"there are {len(pictures)} pictures; expected a list with a mask for each.")
        options = self._options(scale, steps, sampler, seed, tile, color_fix, words)
        batch = self._batch(batch)
        parts = [self._begin(picture, options, noise, own_mask) for picture, own_mask in zip(pictures, masks)]
        with self._lock:
            for part in parts:
                part.told = self._told(part.source.rgb, options)
            self._enlarge(parts, options, batch, progress)
        made = [modes.put_together(part.source, part.canvas.finish()) for part in parts]
        return made if several else made[0]

    def warmup(self, sizes: Iterable[tuple[int, int]] = ((64, 64),), **options) -> None:
        """Compile for pictures of these (height, width), a list of pairs, with the options that the calls will have."""
        for height, width in np.reshape(np.asarray(list(sizes)), (-1, 2)).tolist():
            ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
            self(ramp, mask=ramp[..., 0] if "mask" in self._family.extras else None, **options)

    def grid(
        self,
        height: int,
        width: int,
        *,
        scale: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        tile: int | str | None = "auto",
        batch: int | None = None,
        color_fix: str | None = None,
        masked: bool = False,
        **words,
    ) -> Grid:
        """How a picture of this size is cut with these options; ValueError where a call would raise it for them.

        Computes nothing. `masked`: whether a mask comes with the picture. A picture that is too small for the model is
        cut in the size in which the model sees it.
        """
        options = self._options(scale, steps, sampler, seed, tile, color_fix, words)
        self._batch(batch)
        self._check_picture(height, width, options, masked=masked)
        return self._grid(height, width, options)

    def plan(
        self,
        height: int,
        width: int,
        *,
        scale: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        tile: int | str | None = "auto",
        batch: int | None = None,
        **words,
    ) -> Plan:
        """What a picture of this size takes. A tile's shape is compiled, and one batch computed to time it, once."""
        options = self._options(scale, steps, sampler, 0, tile, None, words)
        grid = self._grid(height, width, options)
        batch = self._mesh.size if len(grid) <= self._mesh.size else self._batch(batch)
        key = (grid.tile, batch, options.steps, options.stochastic, tuple(sorted(words.items())))
        if key not in self._measured:
            self._measured[key] = self._measure(grid.tile, batch, options)
        memory, seconds = self._measured[key]
        seconds = None if seconds is None else seconds * math.ceil(len(grid) / batch)
        return Plan(len(grid), grid.tile, output_size(height, width, options.scale), memory, seconds)

    def _measure(self, tile: tuple[int, int], batch: int, options: Options) -> tuple[int, float | None]:
        """Bytes on a device, and seconds, of a batch of tiles; None where it does not fit."""
        with self._lock:
            told = self._told(np.zeros((*tile, 3), np.uint8), options)
            program = self._program(tile, batch, options, told)
            memory = program.memory_analysis()
            needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
            if needed > self._memory():
                return needed, None
            shapes = self._shapes(tile, batch, options, told)
            zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
            lq, noise, extra = place_batch(zeros, self._mesh)
            started = time.monotonic()
            try:
                jax.block_until_ready(program(self.params, lq, noise, extra=extra))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" in str(error):
                    return needed, None
                raise
            return needed, time.monotonic() - started

    def _told(self, levels: np.ndarray, options: Options) -> dict[str, np.ndarray]:
        """What all tiles of a picture (h, w, 3) are told, where the family tells anything."""
        if self._family.prepare is None:
            return {}
        picture = images.to_signed(modes.to_unit(levels))
        return jax.tree.map(np.asarray, self._family.prepare(self.params, options.request, picture))

    def _program(self, tile: tuple[int, int], batch: int, options: Options, told: dict) -> jax.stages.Compiled:
        """The family's `sample` of a batch of tiles, compiled once."""
        static = {"steps": options.steps, "stochastic": options.stochastic}
        key = (tile, batch, *static.values(), tuple(sorted((name, array.shape) for name, array in told.items())))
        if key not in self._programs:
            lq, noise, extra = self._shapes(tile, batch, options, told)
            self._programs[key] = self._sample.lower(self.params, lq, noise, extra=extra, **static).compile()
            cache.release_memory()
        return self._programs[key]

    def _shapes(self, tile: tuple[int, int], batch: int, options: Options, told: dict) -> tuple:
        """Of what a program takes: (lq, noise, extra)."""
        sharding = batch_sharding(self._mesh)
        of_shape = lambda *shape, dtype=np.float32: jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=sharding)
        draws = (options.steps + 1,) if options.stochastic else ()
        extra = {name: of_shape(*array.shape, dtype=array.dtype) for name, array in told.items()}
        extra |= {name: of_shape(*tile, 1) for name in self._family.extras}
        return of_shape(*tile, 3), of_shape(*draws, *self._family.latent(*tile)), extra

    def _memory(self) -> float:
        """Bytes of a device, as far as it says."""
        if self._platform == "cpu":
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
        return (self._mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit", math.inf)

    # --- what a call asks for -----------------------------------------------------------------------------------------

    def _options(self, scale, steps, sampler, seed, tile, color_fix, words: dict) -> Options:
        longest = min(self._family.longest, self.info.get("longest", self._family.longest))
        steps = self.info.get("steps", 1) if steps is None else steps
        _check_choice("steps", steps, range(1, longest + 1), f"a whole number from 1 to {longest}")
        sampler = self.info.get("sampler", self._family.sampler) if sampler is None else sampler
        _check_choice("sampler", sampler, bundles.SAMPLERS, " or ".join(bundles.SAMPLERS))
        if steps > 1 and sampler not in self._family.samplers:
            raise ValueError(f"sampler is {sampler!r}; several steps of this model are {self._family.sampler}.")
        color_fix = self.info.get("color_fix", self._family.color_fix) if color_fix is None else color_fix
        _check_choice("color_fix", color_fix, bundles.COLOR_FIXES, ", ".join(bundles.COLOR_FIXES))
        _check_choice("seed", seed, range(2**64), "a whole number from 0 to 2^64 - 1")
        scale = self.scale if scale is None else scale
        if isinstance(scale, bool) or not isinstance(scale, numbers.Real) or not 0 < scale <= 64:
            raise ValueError(f"scale is {scale!r}; expected a number above 0, and no more than 64.")
        if tile == "auto":
            tile = auto_tile(self._family, self._platform)
        elif tile == "none":
            tile = None
        elif tile is not None and (isinstance(tile, bool) or not isinstance(tile, numbers.Integral) or tile < 1):
            raise ValueError(f"tile is {tile!r}; expected auto, none, or a side in pixels.")
        if tile is not None and tile < self._family.smallest:
            raise ValueError(f"tile is {tile}; this model sees {self._family.smallest} pixels a side, or more.")
        if "mask" in self._family.extras and color_fix != "none":
            raise ValueError(f"color_fix is {color_fix!r}; expected none for a model that keeps what is known.")
        # One step is a prediction without draws: both samplers mean the same.
        stochastic = sampler == "stochastic" and steps > 1
        return Options(float(scale), steps, stochastic, seed, tile, color_fix, self._request(steps, words))

    def _request(self, steps: int, words: dict):
        """What the family makes of the words of a call; ValueError for those that it does not know."""
        family = self._family
        accepted = _keywords(family.request) - {"steps"} if family.request else set()
        for name, value in words.items():
            if value is not None and name not in accepted:
                known = ", ".join(sorted(accepted | _keywords(Upscaler.__call__)))
                raise ValueError(f"{name} is {value!r}, which is no option of this model; it has {known}.")
        known = {name: words[name] for name in accepted if name in words}
        return family.request(self._texts, steps=steps, **known) if family.request else None

    def _batch(self, batch: int | None) -> int:
        """Tiles at once, over all devices."""
        batch = (1 if self._platform == "cpu" else 4) if batch is None else batch
        _check_choice("batch", batch, range(1, 1025), "a whole number from 1 to 1024")
        return batch * self._mesh.size

    def _grid(self, height: int, width: int, options: Options) -> Grid:
        return make_grid(*seen_size(height, width, self._family.smallest), family=self._family, tile=options.tile)

    def _check_picture(self, height: int, width: int, options: Options, *, masked: bool) -> None:
        if ("mask" in self._family.extras) != masked:
            needs = "takes no mask" if masked else "fills in what a mask marks: give mask="
            raise ValueError(f"this model {needs}.")
        if min(output_size(height, width, options.scale)) < 1:
            raise ValueError(f"a picture of {width}x{height} has no pixel left at scale {options.scale}.")

    def _begin(self, picture, options: Options, given_noise, mask) -> Enlargement:
        source = modes.take_apart(picture)
        height, width, _ = source.rgb.shape
        self._check_picture(height, width, options, masked=mask is not None)
        mask = None if mask is None else binary_mask(mask, height, width)
        return Enlargement(source, mask, self._family, options, given_noise, options.tile)

    # --- the work -----------------------------------------------------------------------------------------------------

    def _enlarge(self, parts: list[Enlargement], options: Options, batch: int, progress) -> None:
        """Fill the canvas of each. Where a device is out of memory: smaller batches, then smaller tiles."""
        done, total = itertools.count(1), sum(len(part.grid) for part in parts)
        report = (lambda: progress(next(done), total)) if progress else lambda: None
        by_shape = collections.defaultdict(list)
        for part in parts:
            by_shape[part.grid.tile].append(part)
        for group in by_shape.values():
            alone = sum(len(part.grid) for part in group) <= self._mesh.size  # no batch to be filled in vain
            try:
                self._run(group, options, self._mesh.size if alone else batch, report)
            except _OutOfMemory as error:
                if batch > self._mesh.size and not alone:
                    batch, advice = self._mesh.size, "one tile at a time"
                else:
                    side = smaller_tile(options.tile or max(group[0].grid.tile), self._family)
                    if side is None:
                        raise ValueError(f"out of memory on {self._platform}, and tiles can be no smaller.") from error
                    options, advice = dataclasses.replace(options, tile=side), f"tiles of {side}"
                warnings.warn(f"out of memory on {self._platform}: going on with {advice}.", stacklevel=3)
                for part in group:
                    part.restart(options.tile)
                self._enlarge(group, options, batch, progress)

    def _run(self, parts: list[Enlargement], options: Options, batch: int, report: Callable[[], None]) -> None:
        """All tiles of enlargements of one shape, in batches of one size; results go back in order."""
        work = ((part, place_) for part in parts for place_ in part.grid.places())
        depth = 0 if self._platform == "cpu" else 1  # an accelerator computes while the host blends and prepares
        running = collections.deque()
        try:
            while group := list(itertools.islice(work, batch)):
                inputs = [part.inputs(*place_, options) for part, place_ in group]
                inputs += inputs[-1:] * (batch - len(inputs))  # the last batch keeps the shape of the others
                lq, start, extra = place_batch(_stack(inputs), self._mesh)
                program = self._program(parts[0].grid.tile, batch, options, parts[0].told)
                running.append((group, program(self.params, lq, start, extra=extra)))
                if len(running) > depth:
                    self._deliver(*running.popleft(), report)
            while running:
                self._deliver(*running.popleft(), report)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise _OutOfMemory(str(error).splitlines()[0]) from None
            raise

    def _deliver(self, group, result, report) -> None:
        for (part, place_), tile in zip(group, np.asarray(result)):
            part.take(place_, tile)
            report()


def _keywords(function: Callable) -> set[str]:
    """Names that a function takes as keywords alone."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _stack(inputs: list[tuple]) -> tuple:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *inputs)


def _check_choice(name: str, value, accepted, words: str) -> None:
    whole = isinstance(accepted, range)
    if (whole and (isinstance(value, bool) or not isinstance(value, numbers.Integral))) or value not in accepted:
        raise ValueError(f"{name} is {value!r}; expected {words}.")

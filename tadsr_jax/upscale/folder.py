"""A folder's worth of pictures through an upscaler: what is there already is skipped, and no picture stops the rest.

survey     what there is to do, from the files' headers alone      outcomes   does it, picture by picture
run        the same, as one report for notebooks
An outcome is ("done", {input, output, size, seconds}), ("failed", {input, reason}) or ("skipped", {input, output});
`size` is [width, height] of the output. Files appear whole or not at all, so that a broken-off run is just repeated.
"""

import dataclasses
import errno
import numbers
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from tadsr_jax import pictures
from tadsr_jax.upscale.enlargement import seen_size
from tadsr_jax.upscale.files import Job
from tadsr_jax.upscale.grid import Grid

Outcome = tuple[str, dict]
DISK_FULL = "the disk is full; make room, and the same command goes on"
# Of a result, which lies in the host's memory with 3 to 6 bytes a pixel. A file of some KB can ask for a hundred
# gigabytes, and what takes the memory of the machine ends the run for all pictures, without a word.
MAX_PIXELS = 2**30
PATIENCE = 256  # pictures that may overtake one that waits for others of its shape


class Task(NamedTuple):
    """A job whose picture looks sound so far, and how that will be cut."""

    job: Job
    size: tuple[int, int]  # (height, width) of the picture
    grid: Grid

    @property
    def work(self) -> int:
        """Pixels that go through the network, padding and overlaps included."""
        return len(self.grid) * self.grid.tile[0] * self.grid.tile[1]


class Moment(NamedTuple):
    """Where a run is: for a line of progress. There is one at the start of a picture, and after each batch."""

    number: int  # of the picture at hand, from 1
    of: int
    name: Path
    shape: tuple[int, int]  # of its tiles
    tile: int  # tiles done, of this picture and those that run with it
    tiles: int
    done: float  # work, see Task
    total: float  # the same of all pictures but those that failed

    @property
    def share(self) -> float:
        """Of all the work, 0 to 1."""
        return self.done / self.total


def survey(
    upscaler, jobs: Iterable[Job], *, options: dict, overwrite: bool = False
) -> tuple[list[Task], list[Outcome]]:
    """What is to be done, and the outcomes that are known without doing it. Computes nothing.

    Raises ValueError for `options` that the model does not serve, whatever the picture.
    """
    jobs = list(jobs)
    _check_options(upscaler, options, masked=any(job.mask for job in jobs))
    tasks, known = [], []
    for job in jobs:
        try:
            if job.output.is_dir():
                raise ValueError(f"{job.output} is a folder; remove it, or give another folder with -o.")
            if job.output.exists() and not overwrite:
                known.append(_skipped(job))
                continue
            height, width = size = pictures.size(job.input)
            if job.mask:
                _check_mask(job, size)
            _check_target(job, height, width, upscaler, options)
            _check_seen(job, height, width, upscaler)
            tasks.append(Task(job, size, upscaler.grid(height, width, masked=job.mask is not None, **options)))
        except Exception as error:
            known.append(failure(job, error))
    return tasks, known


def outcomes(
    upscaler,
    jobs: Iterable[Job],
    *,
    options: dict | None = None,
    noise: np.ndarray | None = None,
    quality: int = 95,
    overwrite: bool = False,
    progress: Callable[[Moment], None] = lambda moment: None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Outcome]:
    """Enlarge the pictures of `jobs`; yields what became of each as soon as it is known.

    options    keywords of `Upscaler.__call__`: scale, steps, sampler, seed, tile, batch, color_fix, and words
    noise      latent noise, for every picture
    quality    of JPEG and WebP, 1 to 100
    note       gets a line on what is particular about a picture
    """
    options = options or {}
    tasks, known = survey(upscaler, jobs, options=options, overwrite=overwrite)
    yield from known
    worker = _Worker(upscaler, options, noise, quality, overwrite, note)
    at_once = upscaler.together(options.get("batch"))
    account = _Account(tasks, at_once, progress)
    for group in _groups(tasks, at_once if noise is None else 1):
        account.begin(group)
        try:
            for task, outcome in worker.enlarge(group, account.tell):
                del account.left[task.job]
                yield outcome
        except _DiskFull:
            yield from (failure(job, ValueError(DISK_FULL)) for job in account.left)
            return
        account.end()


def run(upscaler, jobs: Iterable[Job], **settings) -> dict[str, list[dict]]:
    """{"done": [...], "failed": [...], "skipped": [...]} of all `jobs`; settings as of `outcomes`."""
    report = {"done": [], "failed": [], "skipped": []}
    for kind, entry in outcomes(upscaler, jobs, **settings):
        report[kind].append(entry)
    return report


def _groups(tasks: list[Task], size: int) -> Iterator[list[Task]]:
    """Pictures of one tile, up to `size` of one shape together; all others on their own."""
    waiting, since = {}, {}  # by shape, those that wait the longest first
    for number, task in enumerate(tasks):
        shape = task.grid.tile
        if len(task.grid) > 1 or task.job.mask:
            yield [task]
        else:
            since.setdefault(shape, number)
            waiting.setdefault(shape, []).append(task)
        if len(waiting.get(shape, ())) == size:
            del since[shape]
            yield waiting.pop(shape)
        oldest = next(iter(since), None)
        if oldest and number - since[oldest] >= max(PATIENCE, size):
            del since[oldest]
            yield waiting.pop(oldest)
    yield from waiting.values()


class _Account:
    """What is left, and how much work that is."""

    def __init__(self, tasks: list[Task], at_once: int, progress: Callable[[Moment], None]):
        self._at_once, self._progress, self._count = at_once, progress, len(tasks)
        self.left = {task.job: None for task in tasks}
        self._done, self._total = 0.0, sum(task.work for task in tasks)

    def begin(self, group: list[Task]) -> None:
        self._first, self._tiles = group[0], sum(len(task.grid) for task in group)
        self._work, self._computed = sum(task.work for task in group), 0.0
        self.tell(0, self._tiles)

    def tell(self, tile: int, tiles: int) -> None:
        # There are fewer tiles than planned where a picture could not be read, and more where memory was short.
        self._computed = self._work * tile / max(tiles, self._tiles)
        if tile % self._at_once and tile < tiles:
            return  # a batch is told tile by tile, when all of them are done
        number, name, shape = self._count - len(self.left) + 1, self._first.job.input, self._first.grid.tile
        done = self._done + self._computed
        self._progress(Moment(number, self._count, name, shape, tile, tiles, done, self._total))

    def end(self) -> None:
        """What was not computed by now never will be: no part of the work any more."""
        self._done += self._computed
        self._total += self._computed - self._work


class _DiskFull(Exception):
    """Nothing can be written any more."""


@dataclasses.dataclass(frozen=True)
class _Worker:
    upscaler: Any
    options: dict
    noise: np.ndarray | None
    quality: int
    overwrite: bool
    note: Callable[[str], None]

    def enlarge(self, group: list[Task], tell) -> Iterator[tuple[Task, Outcome]]:
        """Read, enlarge and write a group of pictures, and say what became of each."""
        begun, read = time.monotonic(), []
        for task in group:
            if task.job.output.exists() and not self.overwrite:  # another run on the same folder made it meanwhile
                yield task, _skipped(task.job)
                continue
            try:
                read.append((task, *self._read(task.job)))
            except Exception as error:
                yield task, failure(task.job, error, size=task.size)
        for task, picture, made in self._enlarged(read, tell):
            job = task.job
            try:
                if isinstance(made, Exception):
                    raise made
                self._write(job, made, picture)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _DiskFull from None
                yield task, failure(job, error, size=task.size)
            else:
                seconds = round((time.monotonic() - begun) / len(read), 3)
                size = [made.shape[1], made.shape[0]]
                about = {"input": str(job.input), "output": str(job.output), "size": size, "seconds": seconds}
                yield task, ("done", about)

    def _read(self, job: Job) -> tuple[pictures.Picture, np.ndarray | None]:
        """The picture and its mask."""
        picture = pictures.read(job.input)
        for text in picture.notes:
            self.note(f"{job.input}: {text}")
        height, width, *channels = picture.pixels.shape
        bits = 8 * picture.pixels.dtype.itemsize
        _check_target(job, height, width, self.upscaler, self.options, *(channels or [1]), bits)
        return picture, None if job.mask is None else self._read_mask(job.mask)

    def _read_mask(self, path: Path) -> np.ndarray:
        """(h, w): the grey levels, or the red ones of colours."""
        levels = pictures.read(path).pixels
        if levels.ndim == 2:
            return levels
        if levels.shape[-1] in (2, 4) and (levels[..., -1] < np.iinfo(levels.dtype).max).any():
            self.note(f"{path}: transparency says nothing in a mask; white is unknown, black is known")
        return levels[..., 0]

    def _write(self, job: Job, pixels: np.ndarray, like: pictures.Picture) -> None:
        lost = []
        job.output.parent.mkdir(parents=True, exist_ok=True)
        pictures.write(job.output, pixels, like=like, quality=self.quality, notes=lost)
        for text in lost:
            self.note(f"{job.output}: {text}")

    def _enlarged(self, read: list, tell) -> Iterator[tuple[Task, pictures.Picture, np.ndarray | Exception]]:
        """Enlarged pictures, or why there is none: all at once, or one by one where that fails."""
        if not read:
            return
        try:
            made = self._call([picture.pixels for _, picture, _ in read], [mask for *_, mask in read], tell)
        except Exception as error:
            made = [error.with_traceback(None)]  # whose frames hold what may have been too large
        if len(made) == len(read):
            yield from ((task, picture, result) for (task, picture, _), result in zip(read, made))
        else:
            for number, one in enumerate(read):
                yield from self._enlarged([one], lambda tile, tiles, before=number: tell(before + tile, len(read)))

    def _call(self, images: list[np.ndarray], masks: list, tell) -> list[np.ndarray]:
        masks = None if all(mask is None for mask in masks) else masks
        return self.upscaler(images, mask=masks, noise=self.noise, progress=tell, **self.options)


def _scale(upscaler, options: dict) -> float:
    return upscaler.scale if options.get("scale") is None else options["scale"]


def _check_options(upscaler, options: dict, *, masked: bool) -> None:
    """ValueError for what the model serves for no picture. At a scale below 1 no size stands for all."""
    scale = _scale(upscaler, options)
    shrinks = isinstance(scale, numbers.Real) and 0 < scale < 1
    upscaler.grid(256, 256, masked=masked, **options | ({"scale": 1} if shrinks else {}))


def _check_mask(job: Job, size: tuple[int, int]) -> None:
    if not job.mask.is_file():
        raise ValueError(f"there is no mask for {job.input}; expected {job.mask}, or that name in another format.")
    (height, width), (mask_height, mask_width) = size, pictures.size(job.mask)
    if (mask_height, mask_width) != size:
        raise ValueError(f"{job.mask} is {mask_width}x{mask_height}; expected the picture's {width}x{height}.")


def _check_seen(job: Job, height: int, width: int, upscaler) -> None:
    """Refuse a thin picture that the model would see as a huge one."""
    seen = seen_size(height, width, upscaler.smallest)
    pixels = seen[0] * seen[1] * upscaler.scale**2
    if seen != (height, width) and pixels > MAX_PIXELS:
        raise ValueError(
            f"{job.input} is {width}x{height}, which this model sees as {seen[1]}x{seen[0]} and makes {pixels:,} "
            f"pixels of; no more than {MAX_PIXELS:,} are made; cut it into parts."
        )


def _check_target(job: Job, height: int, width: int, upscaler, options: dict, channels: int = 3, bits: int = 8) -> None:
    """Refuse what neither memory nor the output's format can hold, before the work."""
    scale = _scale(upscaler, options)
    largest = max(scale, upscaler.scale)  # what is to be smaller than the model's result is made from that
    pixels = round(height * largest) * round(width * largest)
    if pixels > MAX_PIXELS:
        remedy = "cut it into parts" + (", or give a smaller --scale" if scale > upscaler.scale else "")
        raise ValueError(
            f"{job.input} is {width}x{height}, which makes {pixels:,} pixels at scale {largest:g}; no more than "
            f"{MAX_PIXELS:,} are made; {remedy}."
        )
    pictures.check_target(job.output.suffix, round(height * scale), round(width * scale), channels, bits)


def _skipped(job: Job) -> Outcome:
    return "skipped", {"input": str(job.input), "output": str(job.output)}


def failure(job: Job, error: Exception, *, size: tuple[int, int] | None = None) -> Outcome:
    """The outcome of a picture, of (height, width) `size`, that could not be enlarged."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    kind = "" if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: "
    if isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
        what = f"{size[1]}x{size[0]}" if size else "it"
        kind, text = "", f"not enough memory for {what}; a smaller --scale or --tile may do"
    return "failed", {"input": str(job.input), "reason": " ".join(f"{kind}{text}".split())[:500]}

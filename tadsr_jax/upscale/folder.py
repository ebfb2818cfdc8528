"""A folder's worth of pictures through an upscaler: what is there already is skipped, and no picture stops the rest.

survey     what there is to do, from the files' headers alone      outcomes   does it, picture by picture
run        the same, as one report for notebooks
An outcome is ("done", {input, output, size, seconds}), ("failed", {input, reason}) or ("skipped", {input, output});
`size` is [width, height] of the output. Files appear whole or not at all, so that a broken-off run is just repeated.
"""

import dataclasses
import errno
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tadsr_jax import pictures
from tadsr_jax.upscale.files import Job
from tadsr_jax.upscale.grid import Grid

Outcome = tuple[str, dict]
DISK_FULL = "the disk is full; make room, and the same command goes on"


class Task(NamedTuple):
    """A job whose picture looks sound so far, and how that will be cut."""

    job: Job
    grid: Grid

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.grid.height, self.grid.width

    @property
    def work(self) -> int:
        """Pixels that go through the network, padding and overlaps included."""
        return len(self.grid) * self.grid.tile[0] * self.grid.tile[1]


class Moment(NamedTuple):
    """Where a run is: for a line of progress."""

    number: int  # of the picture at hand, from 1
    of: int
    name: Path
    tile: int  # tiles done, of this picture and those that run with it
    tiles: int
    share: float  # of all the work, 0 to 1


def survey(
    upscaler, jobs: Iterable[Job], *, options: dict, overwrite: bool = False
) -> tuple[list[Task], list[Outcome]]:
    """What is to be done, and the outcomes that are known without doing it. Computes nothing.

    Raises ValueError for `options` that the model does not serve, whatever the picture.
    """
    jobs = list(jobs)
    upscaler.grid(256, 256, masked=any(job.mask for job in jobs), **options)
    tasks, known = [], []
    for job in jobs:
        try:
            if job.output.is_dir():
                raise ValueError(f"{job.output} is a folder; remove it, or give another folder with -o.")
            if job.output.exists() and not overwrite:
                known.append(("skipped", {"input": str(job.input), "output": str(job.output)}))
                continue
            height, width = size = pictures.size(job.input)
            if job.mask and pictures.size(job.mask) != size:
                mask_height, mask_width = pictures.size(job.mask)
                raise ValueError(f"{job.mask} is {mask_width}x{mask_height}; expected the picture's {width}x{height}.")
            _check_target(job, height, width, _scale(upscaler, options))
            tasks.append(Task(job, upscaler.grid(height, width, masked=job.mask is not None, **options)))
        except Exception as error:
            known.append(_failed(job, error))
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

    options    keywords of `Upscaler.__call__`: scale, steps, sampler, seed, tile, batch, color_fix
    noise      latent noise, for every picture
    quality    of JPEG and WebP, 1 to 100
    note       gets a line on what is particular about a picture
    """
    options = options or {}
    tasks, known = survey(upscaler, jobs, options=options, overwrite=overwrite)
    yield from known
    worker = _Worker(upscaler, options, noise, quality, note)
    at_once = 1 if noise is not None else max(upscaler.at_once, options.get("batch") or 1)
    left, everything, done = {task.job: None for task in tasks}, sum(task.work for task in tasks), 0
    for group in _groups(tasks, at_once):
        work = sum(task.work for task in group)

        def tell(tile: int, tiles: int, before=done, here=work, name=group[0].job.input) -> None:
            share = (before + here * tile / tiles) / everything
            progress(Moment(len(tasks) - len(left) + 1, len(tasks), name, tile, tiles, share))

        tell(0, sum(len(task.grid) for task in group))
        try:
            for job, outcome in worker.enlarge(group, tell):
                del left[job]
                yield outcome
        except _DiskFull:
            yield from (_failed(job, ValueError(DISK_FULL)) for job in left)
            return
        done += work


def run(upscaler, jobs: Iterable[Job], **settings) -> dict[str, list[dict]]:
    """{"done": [...], "failed": [...], "skipped": [...]} of all `jobs`; settings as of `outcomes`."""
    report = {"done": [], "failed": [], "skipped": []}
    for kind, entry in outcomes(upscaler, jobs, **settings):
        report[kind].append(entry)
    return report


def _groups(tasks: list[Task], size: int) -> Iterator[list[Task]]:
    """Pictures of one tile, up to `size` of them together; all others on their own."""
    waiting = []
    for task in tasks:
        if len(task.grid) > 1 or task.job.mask:
            yield [task]
            continue
        waiting.append(task)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class _DiskFull(Exception):
    """Nothing can be written any more."""


@dataclasses.dataclass(frozen=True)
class _Worker:
    upscaler: Any
    options: dict
    noise: np.ndarray | None
    quality: int
    note: Callable[[str], None]

    def enlarge(self, group: list[Task], tell) -> Iterator[tuple[Job, Outcome]]:
        """Read, enlarge and write a group of pictures, and say what became of each."""
        begun, read = time.monotonic(), []
        for task in group:
            try:
                read.append((task.job, *self._read(task.job)))
            except Exception as error:
                yield task.job, _failed(task.job, error)
        for job, picture, made in self._enlarged(read, tell):
            try:
                if isinstance(made, Exception):
                    raise made
                self._write(job, made, picture)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _DiskFull from None
                yield job, _failed(job, error)
            else:
                seconds = round((time.monotonic() - begun) / len(read), 3)
                size = [made.shape[1], made.shape[0]]
                about = {"input": str(job.input), "output": str(job.output), "size": size, "seconds": seconds}
                yield job, ("done", about)

    def _read(self, job: Job) -> tuple[pictures.Picture, np.ndarray | None]:
        """The picture and its mask."""
        picture = pictures.read(job.input)
        for text in picture.notes:
            self.note(f"{job.input}: {text}")
        height, width, *channels = picture.pixels.shape
        bits = 8 * picture.pixels.dtype.itemsize
        _check_target(job, height, width, _scale(self.upscaler, self.options), *(channels or [1]), bits)
        mask = None if job.mask is None else pictures.read(job.mask).pixels
        return picture, mask if mask is None or mask.ndim == 2 else mask[..., 0]

    def _write(self, job: Job, pixels: np.ndarray, like: pictures.Picture) -> None:
        lost = []
        job.output.parent.mkdir(parents=True, exist_ok=True)
        pictures.write(job.output, pixels, like=like, quality=self.quality, notes=lost)
        for text in lost:
            self.note(f"{job.output}: {text}")

    def _enlarged(self, read: list, tell) -> Iterator[tuple[Job, pictures.Picture, np.ndarray | Exception]]:
        """Enlarged pictures, or why there is none: all at once, or one by one where that fails."""
        if not read:
            return
        try:
            made = self._call([picture.pixels for _, picture, _ in read], [mask for *_, mask in read], tell)
        except Exception as error:
            if len(read) > 1:
                for one in read:
                    yield from self._enlarged([one], lambda tile, tiles: None)
            else:
                yield *read[0][:2], error
        else:
            yield from ((job, picture, pixels) for (job, picture, _), pixels in zip(read, made))

    def _call(self, images: list[np.ndarray], masks: list, tell) -> list[np.ndarray]:
        masks = None if all(mask is None for mask in masks) else masks
        return self.upscaler(images, mask=masks, noise=self.noise, progress=tell, **self.options)


def _scale(upscaler, options: dict) -> float:
    return upscaler.scale if options.get("scale") is None else options["scale"]


def _check_target(job: Job, height: int, width: int, scale: float, channels: int = 3, bits: int = 8) -> None:
    """Refuse what the output's format cannot hold, before the work."""
    pictures.check_target(job.output.suffix, round(height * scale), round(width * scale), channels, bits)


def _failed(job: Job, error: Exception) -> Outcome:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    kind = "" if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: "
    return "failed", {"input": str(job.input), "reason": " ".join(f"{kind}{text}".split())[:500]}

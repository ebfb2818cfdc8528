"""Crops a second of the data pipeline, decoding included: one core, then worker processes; real and simulated JPEG.

    python benchmarks/degrade.py [--folder DIR] [--gt_size 256] [--batch_size 16] [--workers 2] [--seconds 10]

Without --folder, ImageNet-sized copies (500 pixels wide, JPEG) of the packaged photographs are decoded anew for every
crop. The degradation has the x4 settings. "degradation alone" leaves reading and cropping out.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tadsr_jax import data, degrade, images
from tadsr_jax.data import demo, sources
from tadsr_jax.data.examples import Example

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def copy_demo(folder: str) -> None:
    """The training photographs at 500 pixels wide, as baseline JPEG of quality 90."""
    for path in demo.paths(is_training=True):
        with Image.open(path) as image:
            size = (500, round(500 * image.height / image.width))
            image.resize(size, Image.Resampling.LANCZOS).save(Path(folder, path.name), quality=90)


def stream_rate(seconds: float, *, batch_size: int, **config) -> float:
    """Crops a second by the clock of the steady stream: start-up is not counted."""
    with data.training_stream(batch_size=batch_size, prefetch=1, **config) as stream:
        for _ in range(2 * max(1, config["num_workers"])):
            next(stream)
        started = time.perf_counter()
        for batches in itertools.count(1):
            next(stream)
            elapsed = time.perf_counter() - started
            if elapsed > seconds:
                return batches * batch_size / elapsed


def one_core_rates(seconds: float, *, folder: str, gt_size: int, jpeg: str) -> tuple[float, float]:
    """Crops a second of CPU time (one thread): whole examples, and the degradation alone; medians of five parts.

    CPU time, because other work on the machine would otherwise count as ours.
    """
    source = sources.open_source("folder", folder)
    example, count = Example(source, gt_size, 4, {"jpeg": jpeg}), len(source)
    rng = np.random.default_rng(0)
    crops = [images.from_signed(example(i, rng)["gt"]) for i in range(min(count, 20))]

    def rate(work) -> float:
        rates = []
        for _ in range(5):
            started, done = time.process_time(), 0
            while time.process_time() - started < seconds / 5:
                work(done)
                done += 1
            rates.append(done / (time.process_time() - started))
        return statistics.median(rates)

    whole = rate(lambda i: example(i % count, rng))
    return whole, rate(lambda i: degrade.degrade(crops[i % len(crops)], rng, scale=4, jpeg=jpeg))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="pictures to read instead of copies of the packaged ones")
    parser.add_argument("--gt_size", type=int, default=256, help="side of a crop in pixels (default 256)")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the last rows (default 2)")
    parser.add_argument("--seconds", type=float, default=10, help="time for each number (default 10)")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when NumPy is loaded, so start again: the table is about cores
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    cv2.setNumThreads(0)

    with tempfile.TemporaryDirectory() as copies:
        folder = options.folder or copies
        if not options.folder:
            copy_demo(copies)
        print(f"{os.cpu_count()} cores, crops of {options.gt_size} px, x4 settings, OpenCV {cv2.__version__}")
        print(f"{'crops/s':28}{'real JPEG':>12}{'simulated':>12}")
        cores = [
            one_core_rates(options.seconds, folder=folder, gt_size=options.gt_size, jpeg=jpeg)
            for jpeg in ("real", "simulated")
        ]
        for row, rates in zip(("one core (CPU time)", "  degradation alone"), zip(*cores)):
            print(f"{row:28}" + "".join(f"{rate:12.1f}" for rate in rates), flush=True)
        rates = [
            stream_rate(
                options.seconds,
                source="folder",
                path=folder,
                batch_size=options.batch_size,
                gt_size=options.gt_size,
                scale=4,
                degradation={"kind": "realesrgan", "realesrgan": {"jpeg": jpeg}},
                num_workers=options.workers,
            )
            for jpeg in ("real", "simulated")
        ]
        print(f"{f'{options.workers} worker processes (clock)':28}" + "".join(f"{rate:12.1f}" for rate in rates))


if __name__ == "__main__":
    main()

"""What a run tells: one progress line on the console, JSON lines, and TensorBoard event files.

    WORKDIR/metrics.jsonl   {"step": 20, "mse": 0.012, ...}, one object a line      WORKDIR/tensorboard/   events
Lines of steps that a killed run did not get to save are removed when it is resumed, so that
each step appears once.
"""

import contextlib
import json
import logging
import math
import os
import sys
import time
from pathlib import Path

import numpy as np


class Writer:
    """Scalars and pictures of one run. `resume_step`: the step that the run goes on from; 0 for a fresh one."""

    def __init__(self, workdir: Path, *, resume_step: int = 0):
        # Imported here, because reading a log needs no writer. Its SummaryWriter writes in a thread: that dies when the
        # disk is full, and whoever adds an event then waits for ever.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._summary, self._event = summary, Event
        self._path = Path(workdir) / "metrics.jsonl"
        self._keep_up_to(resume_step)
        self._lines = self._path.open("a")
        folder = Path(workdir) / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._events = EventsWriter(str(folder / "events"))
        # TensorBoard hides what a killed run wrote from this step on.
        self._add(resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def _keep_up_to(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a killed run may be cut
        fresh = self._path.with_suffix(".jsonl.writing")
        fresh.write_text("".join(kept))
        os.replace(fresh, self._path)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        # JSON has no NaN; null is what every reader understands.
        finite = {name: float(v) if math.isfinite(v) else None for name, v in values.items()}
        self._lines.write(json.dumps({"step": step} | finite) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._add(step, summary=self._summary.scalar(name, float(value)))
        self._events.flush()  # a viewer follows the run, and a killed one leaves what it told

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """`picture`: (h, w, 3) uint8."""
        self._add(step, summary=self._summary.image(name, picture, dataformats="HWC"))

    def _add(self, step: int, **what) -> None:
        self._events.write_event(self._event(wall_time=time.time(), step=step, **what))

    def close(self) -> None:
        self._lines.close()
        self._events.close()


def clock(seconds: float) -> str:
    """3725 -> '1:02:05'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def progress(name: str, step: int, steps: int, rate: float, waiting: float, values: dict[str, float]) -> None:
    """One line on standard error, over the one before it where that is a terminal.

    `rate`: steps a second; `waiting`: share of the time spent waiting for data, 0 to 1.
    """
    shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
    remaining = clock((steps - step) / rate) if rate > 0 else "?"
    line = f"{name} {step}/{steps}  {rate:.3g} steps/s  ETA {remaining}  {shown}  data {waiting:.0%}"
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="\n" if step == steps else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line of its own on standard error."""
    print(("\r\x1b[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


class _Lines(logging.Handler):
    """Warnings as lines of ours. What asyncio and Orbax say about a failed save is left out: it is raised as well."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in ("asyncio", "absl"):
            say(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}")


def warn_in_lines() -> None:
    """Send all logging of this process, from warnings on, to standard error, one line each."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines()], force=True)
    for name in ("absl", "jax"):  # these set a level of their own
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.unraisablehook = _unless_expected


def _unless_expected(report) -> None:
    """Threads of a save that failed report to an event loop that is gone; the failure itself is raised."""
    if str(report.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(report)


class Meter:
    """Means of the logs since the last report, the rate, and the share of time spent waiting for data."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        self._sums, self._count = {}, 0
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Forget the time that went into something else than training."""
        self._waited, self._step, self._since = 0.0, step, time.monotonic()

    @contextlib.contextmanager
    def waiting(self):
        begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    def add(self, values: dict) -> None:
        self._count += 1
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + float(value)

    def means(self) -> dict[str, float]:
        return {key: total / max(self._count, 1) for key, total in self._sums.items()}

    def report(self, name: str, step: int, steps: int, values: dict) -> dict:
        """Print the progress line and start anew; the values and what they cost, for the log."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate, waiting = (step - self._step) / seconds, self._waited / seconds
        shown = {key: value for key, value in values.items() if not key.startswith(("grad_norm", "logit", "learning"))}
        if not shown["skipped"]:
            del shown["skipped"]
        progress(name, step, steps, rate, waiting, shown)
        self.restart(step)
        return values | {"steps_per_second": rate, "waiting_for_data": waiting}

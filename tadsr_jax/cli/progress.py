"""What `tadsr upscale` tells as it works, on standard error: one line on a terminal, plain lines elsewhere."""

import shutil
import sys
import time

from tadsr_jax.logs import clock, say
from tadsr_jax.upscale.folder import Moment

SECONDS = 15  # between two plain lines about the tiles of one picture


class Progress:
    """Lines about a run. Where `quiet`, about what failed alone."""

    def __init__(self, *, quiet: bool = False):
        self._quiet, self._on_terminal = quiet, sys.stderr.isatty()
        self._moment, self._told = None, time.monotonic()
        # What the rest is judged by: work on shapes whose first batch is done, for that one's time is a compiler's.
        self._shapes, self._seconds, self._work = set(), 0.0, 0
        self._at = 0.0  # the time of the last moment

    def __call__(self, moment: Moment) -> None:
        now, before = time.monotonic(), self._moment
        if before and moment.shape in self._shapes:
            self._seconds += now - self._at
            self._work += max(moment.done - before.done, 0)  # tiles are begun anew when a device is out of memory
        elif moment.tile:
            self._shapes.add(moment.shape)
        self._moment, self._at = moment, now
        if self._quiet or (not self._on_terminal and time.monotonic() - self._told < SECONDS):
            return
        self._told = time.monotonic()
        tiles = f"tile {moment.tile}/{moment.tiles}  " if moment.tiles > 1 else ""
        count = f"[{moment.number}/{moment.of}]"
        line = f"{count} {moment.share:.0%}  ETA {self._eta()}  {tiles}{one_line(moment.name)}"
        if self._on_terminal:  # a line that wraps could not be written over
            print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def _eta(self) -> str:
        left = self._moment.total - self._moment.done
        if left and not self._work:
            return "?"
        return clock(left * self._seconds / self._work if left else 0)

    def note(self, text: object) -> None:
        if not self._quiet:
            say(f"note: {one_line(text)}")

    def outcome(self, kind: str, entry: dict) -> None:
        if kind == "failed":
            name = "" if entry["input"] in entry["reason"] else f"{entry['input']}: "
            say(f"failed: {one_line(name + entry['reason'])}")
        elif kind == "done" and not self._quiet:
            self._told = time.monotonic()
            count, size = f"[{self._moment.number}/{self._moment.of}]", "x".join(map(str, entry["size"]))
            say(f"{count} {one_line(entry['input'])}  {size}  {entry['seconds']:.1f} s  ETA {self._eta()}")

    def end(self, report: dict) -> None:
        if not self._quiet:
            why = " (they are there already; --overwrite makes them anew)" if report["skipped"] else ""
            say(", ".join(f"{len(entries)} {kind}" for kind, entries in report.items()) + why)


def one_line(text: object) -> str:
    """For names that hold line breaks, or bytes that are no text."""
    return " ".join(str(text).split()).encode(errors="backslashreplace").decode()

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
        self._begun = None  # (time, share) of the first work that was done: compiling is no measure of the rest

    def __call__(self, moment: Moment) -> None:
        self._moment = moment
        if self._begun is None and moment.share > 0:
            self._begun = time.monotonic(), moment.share
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
        share = self._moment.share
        if self._begun is None or share <= self._begun[1]:
            return "?"
        seconds, gained = time.monotonic() - self._begun[0], share - self._begun[1]
        return clock(seconds * (1 - share) / gained)

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

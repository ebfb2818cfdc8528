"""tadsr download: a thin door over `download.get`."""

import json
import sys
import time
from pathlib import Path

import click

from tadsr_jax.cli import refusing

SECONDS = 10  # between two lines about a file, where there is no terminal
FOOTNOTES = (
    "A SHA-256 that is not given is recorded when the file first comes, and checked ever after.",
    "Sizes are computed from the number of parameters. Next: tadsr download NAME",
)


@click.command("download", short_help="Fetch public weights: address, licence, checksum.")
@click.argument("name", required=False, metavar="[NAME]")
@click.option(
    "-o", "--output", default="weights", show_default=True, metavar="FOLDER", help="Where the files go, and stay."
)
@click.option("-l", "--list", "listed", is_flag=True, help="Only print the table of releases, as without NAME.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask after showing the licence; scripts are never asked.")
@click.option(
    "--mirror",
    metavar="ADDRESS",
    show_default="the authors' own",
    help="Address (http or https) of a folder with the same files, to fetch them from.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress; licence, notes and errors remain.")
@click.option("--json", "as_json", is_flag=True, help="Print one object: the files and what to run next, or the table.")
@refusing()
def command(name, output, listed, yes, mirror, quiet, as_json):
    """Public weights and the autoencoder that they need; then prints the command that makes a bundle of them.

    \b
    Examples:
      tadsr download                      # the table of releases
      tadsr download sinsr-v2
      tadsr download sinsr-v2 | tail -n 1 | sh
    \b
    NAME is a release or its file, in any spelling. A download that was cut goes on where it stopped, in this call or
    the next; a file appears when it is whole. Its SHA-256 is recorded beside it when it first comes, and checked ever
    after. Exit codes: 0 everything is there, 1 something could not be had, 2 wrong use.
    """
    from tadsr_jax import download, releases

    if listed or name is None:
        return click.echo(_as_json(releases.RELEASES) if as_json else _table(releases.RELEASES))
    download.check_published(name, output, mirror=mirror)
    files = releases.files_of(name)
    missing = [file for file in files if not (Path(output) / file.file).exists()]
    _tell_licences(missing or files)
    if missing and not yes and sys.stdin.isatty() and sys.stderr.isatty():
        size = sum(file.about_bytes for file in missing)
        if not click.confirm(f"Download {_megabytes(size)} under these terms?", default=True, err=True):
            raise click.exceptions.Exit(1)
    progress = None if quiet else _Progress()
    try:
        fetched = download.get(name, output, mirror=mirror, progress=progress, note=_note)
    except download.DownloadFailed as error:
        _note(f"error: {error}", before="")
        raise click.exceptions.Exit(1) from None
    following = download.next_command(name, output)
    if as_json:
        return click.echo(json.dumps({"files": [_described(file) for file in fetched], "next": following}, indent=1))
    for file in fetched:
        _note(f"{file.path}: {file.status}, {file.bytes:,} bytes, SHA-256 {file.sha256}", before="")
    click.echo(following or fetched[0].path)


def _tell_licences(files) -> None:
    for file in files:
        _note(f"{file.file}: {file.part} of about {_megabytes(file.about_bytes)}. Licence: {file.licence}", before="")


def _note(text: str, before: str = "note: ") -> None:
    """A line on standard error, over a progress line if there is one."""
    over = "\r\x1b[K" if sys.stderr.isatty() else ""
    click.echo(f"{over}{before}{' '.join(text.split())}", err=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


class _Progress:
    """One line about the file that is coming: written over on a terminal, else again every few seconds."""

    def __init__(self):
        self._on_terminal = sys.stderr.isatty()
        self._name, self._first, self._begun, self._told = "", 0, 0.0, 0.0

    def __call__(self, name: str, count: int, total: int | None) -> None:
        now = time.monotonic()
        if name != self._name or count < self._first:  # a file begins, or begins anew
            self._name, self._first, self._begun, self._told = name, count, now, now
        if count == total or now - self._told >= (0.2 if self._on_terminal else SECONDS):
            self._told = now
            self._tell(count, total, (count - self._first) / max(now - self._begun, 1e-3))

    def _tell(self, count: int, total: int | None, rate: float) -> None:
        share = f"{count / total:4.0%} of {_megabytes(total)}" if total else _megabytes(count)
        eta = f"  ETA {(total - count) / rate:.0f} s" if total and rate and count < total else ""
        line = f"{self._name}  {share}  {rate / 1e6:.1f} MB/s{eta}"
        over = "\r\x1b[K" if self._on_terminal else ""
        click.echo(f"{over}{line}", nl=not self._on_terminal or count == total, err=True)


def _described(file) -> dict:
    return {"path": str(file.path), "bytes": file.bytes, "sha256": file.sha256, "status": file.status}


def _as_json(table: dict) -> str:
    keys = ("file", "part", "task", "scale", "steps", "needs", "about_bytes", "sha256", "licence", "addresses")
    return json.dumps({name: {key: getattr(release, key) for key in keys} for name, release in table.items()}, indent=1)


def _table(table: dict) -> str:
    """For people: a row a release; then the addresses, and what holds for all."""
    rows = [("NAME", "SCALE", "STEPS", "ABOUT", "NEEDS", "FOR")]
    for name, release in table.items():
        scale = f"x{release.scale}" if release.scale else ""
        about = _megabytes(release.about_bytes)
        rows.append((name, scale, str(release.steps or ""), about, release.needs or "", release.task))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    where = []
    for name, release in table.items():
        addresses = " or ".join(release.addresses) or f"{release.file}: no public address"
        where.append(
            f"{name.ljust(widths[0])}  {addresses}" + (f"  SHA-256 {release.sha256}" if release.sha256 else "")
        )
    licences = sorted({f"Licence: {release.licence}." for release in table.values()})
    return "\n".join([*lines, "", *where, "", *licences, *FOOTNOTES])

"""Files of weights that are in place and checked: those of a release, or any other.

get   the files of a release       fetch    one file        next_command    what to do with a release's files
                                   verify   one at hand     check_published   whether there is anything to get
Checksums are those that the authors published or, as they published none, those of the first file that came.
"""

import dataclasses
import functools
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tadsr_jax import releases
from tadsr_jax.download import transfer
from tadsr_jax.download.transfer import DownloadFailed, NotThere, Partial

FOLDER = "weights"  # in the current folder, as the public code has it


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that is in place and was checked. `status`: "downloaded" or "already there"."""

    path: Path
    bytes: int
    sha256: str
    status: str


# --- releases -------------------------------------------------------------------------------------------------------


def get(
    name: str,
    folder: str | Path = FOLDER,
    *,
    mirror: str | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    **options,
) -> list[Fetched]:
    """The files of a release in `folder`, downloaded where they are not there yet.

    mirror     address of a folder that has files of the same names, instead of the authors' own
    progress   is called with (file name, bytes so far, bytes in all)
    options    those of `fetch`
    Raises ValueError for an unknown release, or one without a public address; DownloadFailed.
    """
    check_published(name, folder, mirror=mirror)
    return [
        fetch(
            file.addresses if mirror is None else (f"{mirror.rstrip('/')}/{file.file}",),
            Path(folder) / file.file,
            sha256=file.sha256,
            about_bytes=file.about_bytes,
            progress=progress and functools.partial(progress, file.file),
            **options,
        )
        for file in releases.files_of(name)
    ]


def check_published(name: str, folder: str | Path, *, mirror: str | None) -> None:
    """ValueError where the release has no public address, and is neither in `folder` nor on a mirror."""
    if mirror is not None and not re.match(r"https?://.", mirror):
        raise ValueError(f"the mirror is {mirror!r}; expected an address that starts with http:// or https://.")
    file = releases.files_of(name)[0]
    if file.addresses or mirror is not None or (Path(folder) / file.file).exists():
        return
    raise ValueError(
        f"{releases.find(name)}: {file.repository} names no public address of {file.file}. Once you have that file in "
        f"{folder}, run `tadsr download {file.needs}` for its autoencoder, and `{next_command(name, folder)}`."
    )


def next_command(name: str, folder: str | Path) -> str | None:
    """The command that makes a bundle of a release in `folder`; None for an autoencoder alone."""
    key, files = releases.find(name), releases.files_of(name)
    if files[0].part != "unet":
        return None
    sources = [word for file in files for word in (f"--{file.part}", str(Path(folder) / file.file))]
    return shlex.join(["tadsr", "convert", "resshift", *sources, "--preset", key, "-o", str(Path(folder) / key)])


# --- one file -------------------------------------------------------------------------------------------------------


def fetch(
    addresses: Sequence[str],
    path: str | Path,
    *,
    sha256: str | None = None,
    about_bytes: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    note: Callable[[str], None] = lambda line: None,
    tries: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> Fetched:
    """The file at the first of `addresses` that has it, as `path`; nothing is fetched where it is there and right.

    sha256       that it must have; None: what was recorded beside it, or is recorded now
    about_bytes  expected size: less than a quarter of it is refused, a tenth more or less is noted
    progress     is called with (bytes so far, bytes in all), the latter None where the server does not say
    note         is told, in lines, of what goes wrong and is tried again
    tries        connections to an address; pauses between them are `wait` seconds, doubled each time
    timeout      seconds without a byte after which a connection counts as cut
    Raises DownloadFailed; what has come is kept in PATH.part for the next call, except where its checksum is wrong.
    """
    path = Path(path)
    if path.exists():
        return Fetched(path, path.stat().st_size, verify(path, sha256), "already there")
    path.parent.mkdir(parents=True, exist_ok=True)
    expected = _expected(path, sha256)
    partial = Partial(path)
    with partial.alone(), transfer.room(path):
        for address in addresses:
            try:
                transfer.complete(
                    partial, address, about_bytes, progress=progress, note=note, tries=tries, wait=wait, timeout=timeout
                )
                break
            except NotThere as error:
                if address == addresses[-1]:
                    raise
                note(str(error))
        size, found = partial.size, _digest(partial.file)
        if expected.sha256 not in (None, found):
            partial.discard()  # or the next call would complete the same wrong file
            raise DownloadFailed(f"{path}: {_differs(found, expected)} What came was removed.")
        if expected.sha256 is None:
            _record(path, found)
        partial.place()
    return Fetched(path, size, found, "downloaded")


def verify(path: str | Path, sha256: str | None = None) -> str:
    """The SHA-256 of a file, which must be `sha256` or what was recorded beside it; recorded now if there is neither.

    DownloadFailed where it is another one.
    """
    path = Path(path)
    expected, found = _expected(path, sha256), _digest(path)
    if expected.sha256 is None:
        _record(path, found)
    elif found != expected.sha256:
        raise DownloadFailed(f"{path}: {_differs(found, expected)} Delete the file to download it anew.")
    return found


class _Expected(NamedTuple):
    sha256: str | None
    whence: str


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _expected(path: Path, published: str | None) -> _Expected:
    """What the file at `path` must be."""
    record = _record_of(path)
    if published is not None or not record.exists():
        return _Expected(published, "as published")
    digest = record.read_text(errors="replace")[:64].lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{record} holds no SHA-256; delete it, and the next one will be recorded.")
    return _Expected(digest, f"recorded in {record} when it first came; delete that if a new version is meant")


def _differs(found: str, expected: _Expected) -> str:
    return f"its SHA-256 is {found}, expected {expected.sha256} ({expected.whence})."


def _record(path: Path, digest: str) -> None:
    new = path.with_name(f".{path.name}.sha256.{os.getpid()}")
    new.write_text(f"{digest}  {path.name}\n")
    new.replace(_record_of(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

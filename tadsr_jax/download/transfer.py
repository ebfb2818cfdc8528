"""HTTP into a partial file, in as many connections as it takes.

Partial    what has come of a file, and of which     complete   the rest of it
room       a full disk, in words                     DownloadFailed, NotThere
A connection ends in one of four ways: the file is whole; it was cut, and the next goes on there (Cut); the server has
no such file (NotThere, another address may); or trying again is of no use (DownloadFailed). Proxies are taken from the
environment (https_proxy), as everywhere.
"""

import contextlib
import errno
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CHUNK = 2**20  # bytes
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may be others in a moment


class DownloadFailed(OSError):
    """A file could not be had: one line that says why, and what to do."""


class NotThere(DownloadFailed):
    """The server answered that it has no such file, or not for us."""


class Cut(Exception):
    """This connection brings no more; the next may."""


class Partial:
    """What has come of the file that is to be `path`, and of which file that is."""

    def __init__(self, path: Path):
        self.path = path
        self.file, self._about = (path.with_name(path.name + end) for end in (".part", ".part.json"))

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def origin(self, address: str) -> dict:
        """{"validator", "total"} of the file at `address` that this is the start of; {} where it is none's."""
        try:
            about = json.loads(self._about.read_text())
            return about if about["address"] == address and about["validator"] and self.size <= about["total"] else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def start(self, address: str, validator: str | None, total: int | None) -> None:
        """Nothing has come yet, of this file."""
        self.discard()  # first: old bytes must never be taken for the start of the new file
        self.file.write_bytes(b"")
        self._about.write_text(json.dumps({"address": address, "validator": validator, "total": total}))

    def discard(self) -> None:
        self._about.unlink(missing_ok=True)
        if self.file.exists():
            os.truncate(self.file, 0)  # not removed: another process could take the new one for its own

    def place(self) -> None:
        """The file is whole."""
        self.file.replace(self.path)
        self._about.unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """DownloadFailed where another process is filling the file, if the system can tell; Windows cannot."""
        with contextlib.ExitStack() as stack:
            if os.name == "posix":
                self._lock(stack.enter_context(self.file.open("ab")))
            try:
                yield
            finally:
                if self.file.exists() and not self.size:
                    self._about.unlink(missing_ok=True)
                    self.file.unlink()

    def _lock(self, file) -> None:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadFailed(f"{self.path}: another process is downloading it; wait for that one.") from None
        except OSError:
            pass  # a file system without locks


@contextlib.contextmanager
def room(path: Path) -> Iterator[None]:
    """A disk that is full, in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DownloadFailed(
            f"{path.parent}: no room left on the disk ({error.strerror}). What came is kept in {path.name}.part; make "
            "room and run the same command again."
        ) from None


def complete(
    partial: Partial, address: str, about_bytes: int | None, *, progress, note, tries: int, wait: float, timeout: float
) -> None:
    """Fill the partial file with what is at `address`; arguments as in `files.fetch`."""
    for number in range(tries):
        try:
            return _connection(partial, address, about_bytes, progress, note, timeout)
        except Cut as cut:
            if number == tries - 1:
                kept = f" {partial.size:,} bytes are kept; the same command goes on there." if partial.size else ""
                raise DownloadFailed(f"{address}: {cut}; gave up after {tries} tries.{kept}") from None
            pause = wait * 2**number
            note(f"{cut}; trying again in {pause:g} s")
            time.sleep(pause)


def _connection(partial: Partial, address: str, about_bytes: int | None, progress, note, timeout: float) -> None:
    """What one connection brings. Returns where the file is whole."""
    origin, held = partial.origin(address), partial.size
    if origin and held == origin["total"]:
        return
    headers = {"User-Agent": "tadsr_jax", "Accept-Encoding": "identity"}
    if origin and held:  # If-Range: where it is another file by now, the whole of that comes
        headers |= {"Range": f"bytes={held}-", "If-Range": origin["validator"]}
    with _answer(urllib.request.Request(address, headers=headers), partial, timeout) as response:
        if response.status == 206:
            total = origin.get("total", 0)
            _check_part(response, partial, origin, f"bytes {held}-{total - 1}/{total}")
        else:
            held, total = 0, response.length
            _check_length(address, response, about_bytes, note)
            partial.start(address, _validator(response), total)
        _check_room(partial.path, (total or 0) - held)
        _receive(response, partial, held, total, progress)


def _answer(request: urllib.request.Request, partial: Partial, timeout: float) -> http.client.HTTPResponse:
    """The server's answer, of status 200 or 206."""
    address, host = request.full_url, request.host
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        answer = f"the server answered HTTP {error.code} {error.reason}"
        if error.code == 416:  # more is here than the file has there
            partial.discard()
        if error.code in (416, *AGAIN):
            raise Cut(answer) from None
        raise NotThere(
            f"{address}: {answer}. If you have the file from elsewhere, put it at {partial.path}; a copy of the "
            "authors' folder is read with --mirror."
        ) from None
    except (OSError, http.client.HTTPException) as error:  # URLError among them
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadFailed(
                f"{address}: the certificate of {host} is not trusted: {reason.verify_message}."
            ) from None
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise Cut(f"{host} cannot be reached ({words})") from None
    if response.status not in (200, 206) or (address.startswith("https:") and not response.url.startswith("https:")):
        response.close()
        raise DownloadFailed(f"{address}: HTTP {response.status} from {response.url}, which is not the file.")
    return response


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What tells this version of a file from another: a strong ETag, else its date. None: it cannot be resumed."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _check_part(response: http.client.HTTPResponse, partial: Partial, origin: dict, content_range: str) -> None:
    """Cut, and nothing is kept, where what comes does not continue what is here."""
    same_file = _validator(response) in (None, origin.get("validator"))
    if not same_file or response.headers.get("Content-Range") != content_range:
        partial.discard()
        raise Cut("the server sent another part than the one asked for")


def _check_length(address: str, response: http.client.HTTPResponse, about_bytes: int | None, note) -> None:
    """Whether what comes can be the file, before its first byte is taken."""
    length = response.length
    if length is None and not response.chunked:
        raise DownloadFailed(f"{address}: the server does not say how long it is, so a cut would go unnoticed.")
    if length is None or about_bytes is None:
        return
    if length < about_bytes / 4:  # in half precision it would be a half
        raise DownloadFailed(
            f"{address}: {length:,} bytes, where about {about_bytes:,} are expected; this is no file of weights, but "
            "perhaps the page of a login or an error."
        )
    if abs(length - about_bytes) > about_bytes / 10:
        note(f"{address} has {length:,} bytes, where about {about_bytes:,} are expected")


def _check_room(path: Path, more: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < more:
        raise DownloadFailed(
            f"{path.parent}: {more:,} bytes are to come, and {free:,} are free on the disk; make room and run the same "
            "command again."
        )


def _receive(response: http.client.HTTPResponse, partial: Partial, held: int, total: int | None, progress) -> None:
    """Append what comes. Cut where it ends before the file does."""
    with partial.file.open("ab") as file:
        while chunk := _read(response):
            file.write(chunk)
            held += len(chunk)
            if progress:
                progress(held, total)
    if total is not None and held < total:
        raise Cut(f"the connection was cut at {held:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has arrived; b"" at the end. Errors of the network are kept apart from those of the disk."""
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Cut(f"the connection was cut ({str(error) or type(error).__name__})") from None

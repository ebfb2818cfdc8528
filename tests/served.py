"""A small HTTP server that misbehaves as it is told, for whoever downloads."""

import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Served:
    """What the server says next; tests change it while it runs."""

    address: str = ""  # of its folder, without a slash at the end
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)  # by name
    etag: str | None = '"1"'
    date: str | None = None  # Last-Modified
    ranges: bool = True  # whether it honours Range
    minds_if_range: bool = True
    chunked: bool = False
    says_length: bool = True
    statuses: list[int] = dataclasses.field(default_factory=list)  # of the next answers, before all goes well
    cuts: list[int] = dataclasses.field(default_factory=list)  # bytes after which the next bodies end
    asked: list[tuple[str, dict]] = dataclasses.field(default_factory=list)  # (path, headers) of every request

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


@contextlib.contextmanager
def served(**files: bytes) -> Iterator[Served]:
    """A running server of `files`; a double underscore in a name stands for its dot."""
    told = Served(files={name.replace("__", "."): body for name, body in files.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            _answer(self, told)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, told: Served) -> None:
    told.asked.append((request.path, dict(request.headers)))
    request.close_connection = True
    body = told.files.get(request.path.lstrip("/"))
    status = told.statuses.pop(0) if told.statuses else (200 if body is not None else 404)
    if status != 200:
        return request.send_error(status)

    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    current = request.headers.get("If-Range") in (None, told.etag, told.date) or not told.minds_if_range
    first = int(asked[1]) if asked and told.ranges and current else None
    if first is not None and first >= len(body):
        return request.send_error(416)
    part = body if first is None else body[first:]
    request.send_response(200 if first is None else 206)
    if first is not None:
        request.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
    for name, value in (("ETag", told.etag), ("Last-Modified", told.date)):
        if value:
            request.send_header(name, value)
    if told.chunked:
        request.send_header("Transfer-Encoding", "chunked")
    elif told.says_length:
        request.send_header("Content-Length", str(len(part)))
    request.end_headers()

    cut = told.cuts.pop(0) if told.cuts else None
    sent = part if cut is None else part[:cut]
    if told.chunked:
        sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if cut is None else b"")
    with contextlib.suppress(OSError):  # who asked has left
        request.wfile.write(sent)

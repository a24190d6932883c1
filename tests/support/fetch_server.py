"""A real HTTP server for files, as good or as bad as a test wants it.

FileServer({"/m.tar.gz": File(bytes)})  -->  http://127.0.0.1:PORT/m.tar.gz, and what was asked of it
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class File:
    """What lies under a path, and how it is given."""

    content: bytes = b""
    etag: str | None = '"one"'
    ranges: bool = True
    #: Answers with the whole to whoever sends If-Range.
    if_range: bool = True
    #: Cuts the connection after so many bytes of a body, so many times.
    cut_after: int | None = None
    cuts: int = 1 << 30
    #: Seconds between pieces of 64 KiB.
    pause_s: float = 0.0
    #: Says nothing more after so many bytes, until the server ends.
    stall_after: int | None = None
    #: Added to the Content-Length that it tells.
    lie: int = 0
    #: Bytes that follow each body and are none of it.
    extra: bytes = b""
    #: Answers so before it answers well, once for each.
    failures: list[int] = field(default_factory=list)
    redirect: str | None = None
    #: Whether it has ranges begin one byte too late.
    shifted: bool = False
    #: Takes the place of this one when so many requests for it were answered.
    then: tuple[int, File] | None = None


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    range: str | None
    if_range: str | None
    authorization: str | None


class FileServer(ThreadingHTTPServer):
    """Serves `files` on a loopback port while its `with` block lasts."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: dict[str, File]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: list[Asked] = []
        #: Bytes of bodies that were written.
        self.sent = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is nothing to speak of."""

    def url(self, path: str, user: str = "") -> str:
        """The URL of a path."""
        return f"http://{user}127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Answers with a file, a range of it, or whatever the file says."""
        file = self._file()
        if file is None:
            return self._end(404)
        if file.failures:
            return self._end(file.failures.pop(0))
        if file.redirect is not None:
            return self._end(302, Location=file.redirect)
        found = _RANGE.fullmatch(self.headers.get("Range", "")) if file.ranges else None
        changed = self.headers.get("If-Range") not in (None, file.etag) or (
            "If-Range" in self.headers and not file.if_range
        )
        if found is None or changed:
            return self._body(file, 200, 0, len(file.content))
        start, end = int(found[1]), min(int(found[2] or len(file.content)) + 1, len(file.content))
        if start >= len(file.content):
            return self._end(416, **{"Content-Range": f"bytes */{len(file.content)}"})
        return self._body(file, 206, start + file.shifted, end)

    def _file(self) -> File | None:
        with self.server.lock:
            self.server.asked.append(
                Asked(self.path, *(self.headers.get(name) for name in ("Range", "If-Range", "Authorization")))
            )
            file = self.server.files.get(self.path)
            if file is not None and file.then is not None:
                left, other = file.then
                file.then = (left - 1, other)
                if left <= 0:
                    file = self.server.files[self.path] = other
            return file

    def _end(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, file: File, status: int, start: int, end: int) -> None:
        self.close_connection = True
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(file.content)}")
        if file.etag is not None:
            self.send_header("ETag", file.etag)
        self.send_header("Content-Length", str(end - start + len(file.extra) + file.lie))
        self.end_headers()
        body, written = file.content[start:end] + file.extra, 0
        while written < len(body):
            piece = body[written : written + (1 << 16)]
            if file.cut_after is not None and file.cuts and written + len(piece) > file.cut_after:
                file.cuts -= 1
                self._write(piece[: file.cut_after - written])
                return
            if file.stall_after is not None and written + len(piece) > file.stall_after:
                self.server.ended.wait()
                return
            self._write(piece)
            written += len(piece)
            time.sleep(file.pause_s)

    def _write(self, piece: bytes) -> None:
        self.wfile.write(piece)
        with self.server.lock:
            self.server.sent += len(piece)

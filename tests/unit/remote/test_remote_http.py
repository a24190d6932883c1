"""One HTTP request of a download: whom it goes to, what it carries, and what each end of an answer means."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fetch_server import File, FileServer
from thriftserve.errors import FailedPrecondition
from thriftserve.remote.address import parse
from thriftserve.remote.http import HttpAnswer, HttpFailed, HttpRange, get

CONTENT = bytes(range(256)) * 16


@contextmanager
def asked(url: str, byte_range: HttpRange | None = None, redirects: int = 5) -> Iterator[HttpAnswer]:
    with get(parse(url), byte_range, timeout_s=10.0, redirects=redirects) as answer:
        yield answer


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """The URL of a server that answers one request with these bytes, and closes the connection."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/m"
        thread.join()


def test_range_and_all_of_it() -> None:
    """A range has its place in the file; the answer without one has the file's size."""
    with FileServer({"/m": File(CONTENT)}) as server:
        with asked(server.url("/m"), HttpRange(10, 20, '"one"')) as answer:
            assert b"".join(answer.chunks()) == CONTENT[10:20]
            assert (answer.partial, answer.start, answer.total, answer.validator) == (True, 10, len(CONTENT), '"one"')
        with asked(server.url("/m")) as answer:
            assert b"".join(answer.chunks()) == CONTENT
            assert (answer.partial, answer.start, answer.total) == (False, 0, len(CONTENT))
        assert [(each.range, each.if_range) for each in server.asked] == [("bytes=10-19", '"one"'), (None, None)]


def test_password_goes_to_the_first_server_alone() -> None:
    """A redirect, also to another path of the same server, carries no Authorization; a range it does carry."""
    with FileServer({"/m": File(CONTENT)}) as other, FileServer({"/m": File(redirect=other.url("/m"))}) as first:
        first.files["/near"] = File(redirect="/m")
        with asked(first.url("/near", user="me:s3cret@"), HttpRange(0, 4)) as answer:
            assert b"".join(answer.chunks()) == CONTENT[:4]
        assert [(each.path, each.authorization is not None) for each in first.asked] == [("/near", True), ("/m", False)]
        assert [(each.range, each.authorization) for each in other.asked] == [("bytes=0-3", None)]


def test_redirects_are_counted() -> None:
    """As many as allowed are followed, and not one more."""
    with FileServer({"/0": File(CONTENT)}) as server:
        for number in range(1, 4):
            server.files[f"/{number}"] = File(redirect=f"/{number - 1}")
        with asked(server.url("/2"), redirects=2) as answer:
            assert b"".join(answer.chunks()) == CONTENT
        with pytest.raises(FailedPrecondition, match="too often"), asked(server.url("/3"), redirects=2):
            pass


def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy is used, but for the hosts in no_proxy; ALL_PROXY is not."""
    with (
        FileServer({"/m": File(CONTENT)}) as server,
        FileServer({"http://models.invalid/m": File(b"proxied")}) as proxy,
    ):
        monkeypatch.setenv("http_proxy", proxy.url(""))
        with asked("http://models.invalid/m") as answer:
            assert b"".join(answer.chunks()) == b"proxied"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with asked(server.url("/m")) as answer:
            assert b"".join(answer.chunks()) == CONTENT
        monkeypatch.delenv("http_proxy")
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
        with asked(server.url("/m")) as answer:
            assert b"".join(answer.chunks()) == CONTENT


def test_cut_of_a_file_with_a_length_is_left_to_who_counts() -> None:
    """What arrived before the cut is not lost."""
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nseven b") as url, asked(url) as answer:
        assert answer.total == 100
        assert b"".join(answer.chunks()) == b"seven b"


def test_cut_of_a_file_without_a_length_is_a_failure() -> None:
    """Nobody could count: a chunked answer that ends early must not pass for the file."""
    cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nseven b\r\n"
    with raw_server(cut) as url, asked(url) as answer:
        chunks = answer.chunks()
        assert next(chunks) == b"seven b"
        with pytest.raises(HttpFailed, match="the connection broke"):
            next(chunks)
    with raw_server(cut + b"0\r\n\r\n") as url, asked(url) as answer:
        assert b"".join(answer.chunks()) == b"seven b"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx", HttpFailed, "without saying which"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", FailedPrecondition, "neither http nor https"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://h/m\r\n\r\n", FailedPrecondition, "neither http nor https"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://h:x/\r\n\r\n", FailedPrecondition, "/m: "),
        (b"SSH-2.0-OpenSSH_9.2\r\n", HttpFailed, "/m: "),
        (b"", HttpFailed, "/m: "),
        (b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n", FailedPrecondition, "answered 418 I'm a teapot"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", HttpFailed, "answered 503 Busy"),
    ],
)
def test_answers_that_are_no_file(answer: bytes, error: type[Exception], message: str) -> None:
    """What another try may change is told apart from what it may not."""
    with raw_server(answer) as url, pytest.raises(error, match=message), asked(url):
        pass


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        (b'ETag: "one"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n', '"one"'),
        (b'ETag: W/"one"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n', "Mon, 01 Jan 2024 00:00:00 GMT"),
        (b'ETag: W/"one"\r\n', None),
        (b"", None),
    ],
)
def test_what_tells_a_file_from_the_next(headers: bytes, validator: str | None) -> None:
    """A weak tag is none: ranges of two files that mean the same can't be joined."""
    answer = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n" + headers
    with raw_server(answer + b"\r\nx") as url, asked(url, HttpRange(0, 1)) as piece:
        assert (piece.validator, piece.total) == (validator, 9)


def test_range_beyond_the_end() -> None:
    """An empty file has no first byte: the answer is empty, and has the file's size."""
    empty = b"HTTP/1.1 416 Nope\r\nContent-Range: bytes */0\r\nContent-Length: 0\r\n\r\n"
    with raw_server(empty) as url, asked(url, HttpRange(0, 1)) as answer:
        assert (answer.partial, answer.total, list(answer.chunks())) == (True, 0, [])


def test_server_that_is_not_there() -> None:
    """A refused connection may be accepted the next time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(HttpFailed, match="Connection refused"), asked(f"http://127.0.0.1:{port}/m"):
        pass


def test_controller_imports_no_http_client() -> None:
    """It would cost each start of a controller 80 ms of its processor; only the agents that download import one."""
    code = "import sys, thriftserve.controller; print([name for name in ('httpx', 'fsspec') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"

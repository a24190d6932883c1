"""TBatchingServer and what clients send: messages of every size and protocol, and what would end a lesser server."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from batched_load import Pipe, frame, fronts, right, steered, told
from certificates import Authority
from dialect_client import DialectClient
from hosting import Hosted, Wire, client_on, eventually, read_to_end
from served import Served
from thriftserve_idl.ttypes import PredictError

#: Around what is sent along, put into the arena, joined, and read at once.
SIZES = [edge + step for edge in (32 << 10, 40 << 10, 64 << 10, 128 << 10, 256 << 10) for step in range(-60, 5, 4)]
HUGE = 16_000_000  # what Apache's client takes
X = np.ones((1, 3), np.float32)


@pytest.mark.parametrize("protocol", ["binary", "compact"])
def test_messages_of_every_size(protocol: str) -> None:
    """Messages about the sizes at which they take another way come through unharmed, and so does a huge one."""
    with Hosted("TBatchingServer", wire=Wire(protocol=protocol)) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(3)]
        for place, size in enumerate(SIZES):
            content = bytes([place % 251]) * size
            assert clients[place % 3].echo(content) == content
        huge = np.arange(HUGE, dtype=np.uint8).tobytes()
        assert clients[0].echo(huge) == huge


def test_large_messages_of_all_kinds(tmp_path: Path) -> None:
    """Large messages at the same time, through TLS and in the dialects of THeader."""
    authority = Authority(tmp_path, "ours")
    certificate = authority.issue("server")
    content = bytes(range(256)) * 20_000
    with Hosted("TBatchingServer", tls_cert=certificate.cert, tls_key=certificate.key) as server:

        def work(number: int) -> None:
            with server.client(tls=authority.trusting()) as client:
                for size in (*SIZES[number::9], len(content)):
                    assert client.echo(content[:size]) == content[:size]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with server.connect(authority.trusting()) as sock:  # several frames in a TLS record, parts of them in others
            message = server.wire.message(lambda client: client.send_echo(content[:70_000]))
            sock.sendall(message * 10)
            client = client_on(sock, server.wire)
            for _ in range(10):
                assert client.recv_echo() == content[:70_000]
    with Hosted("TBatchingServer", protocol="header") as server:
        for dialect in ("compact", "header-binary", "header-zlib"):
            with DialectClient(server, dialect) as client:
                for size in (10, *SIZES[::16], len(content)):
                    assert client.echo(content[:size]) == content[:size]


def test_out_of_step_behind_many(tmp_path: Path) -> None:
    """A length that no frame has, behind as many requests as are taken ahead: its client is answered and closed."""
    ahead = 256
    with steered(tmp_path, "--workers", "2") as server, Pipe(server) as pipe, server.client() as other:
        (front,) = fronts(server)
        pipe.send(frame(0, told("hold:gate", 0)))
        eventually((tmp_path / "gate.held").exists, "a busy worker")
        pipe.send(*map(frame, range(1, ahead)), b"\xff" * 4)
        while requests(server) < ahead - 1:  # all but the first are done, and wait for it
            assert (other.predict("m", {"x": X})["y"] == 3).all()
        (tmp_path / "gate").touch()
        assert [right(number, answer) for number, answer in pipe.answers(ahead)] == [True] * ahead
        assert read_to_end(pipe.sock) == b""
        assert (other.predict("m", {"x": X})["y"] == 3).all()
        assert fronts(server) == [front]


def requests(server: Served) -> int:
    """How many requests its workers have answered."""
    with server.client() as client:
        return sum(each.requests for each in client.server_status().workers if each.role == "worker")


def test_a_model_that_exits(tmp_path: Path) -> None:
    """SystemExit in a model fails its own request alone; no worker is lost by it, nor is the batch around it."""
    with steered(tmp_path, "--workers", "1") as server, Pipe(server) as pipe, Pipe(server) as others:
        pipe.send(frame(0, told("hold:gate", 0)))
        eventually((tmp_path / "gate.held").exists, "a busy worker")
        pipe.send(frame(1, told("exit", 1)))
        others.send(*map(frame, range(10)))
        (tmp_path / "gate").touch()
        (_, first), (_, second) = pipe.answers(2)
        assert right(0, first)
        assert isinstance(second, PredictError)
        assert "failed in 'serving_default': SystemExit: 3" in second.message
        assert [right(number, answer) for number, answer in others.answers(10)] == [True] * 10
        assert "ended" not in server.log()


def test_a_batch_size_beyond_all_bounds(tmp_path: Path) -> None:
    """A size that nobody reaches is as good as any."""
    with steered(tmp_path, "--workers", "1", "--max-batch-size", "100000") as server, Pipe(server) as pipe:
        pipe.send(*map(frame, range(100)))
        assert all(right(number, answer) for number, answer in pipe.answers(100))

"""TBatchingServer's bounds: full queues, deadlines, clients that send much or read nothing, and the turns of many."""

from __future__ import annotations

import contextlib
import selectors
import socket
import statistics
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from batched_load import Loops, Pipe, busy, decoded, frame, fronts, queued, right, steered, told
from hosting import eventually, read_to_end
from served import Served
from thriftserve_client import ResourceExhaustedError

MEGABYTE = 1 << 20
PIPELINED = 10_000
FAIR_CLIENTS = 64
#: Of one core.
SPINNING = 0.5


def peers(server: Served) -> set[int]:
    """The ports of the clients that the front holds."""
    (front,) = fronts(server)
    return {each.raddr.port for each in front.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED}


def memory(server: Served) -> int:
    """Bytes that the front has for itself: not what it shares with its workers, which has a bound of its own."""
    (front,) = fronts(server)
    info = front.memory_info()
    return int(info.rss - info.shared)


def large(number: int, floats: int, **fields: Any) -> bytes:
    """A request of that many numbers."""
    return frame(number, {"x": np.full(floats, number, np.float32)}, **fields)


def ledger(folder: Path) -> list[int]:
    """The requests that ran, in their order."""
    return [int(line) for line in (folder / "ran").read_text().split()] if (folder / "ran").exists() else []


def test_full_queues_refuse_at_once(tmp_path: Path) -> None:
    """Past the bound of requests or of bytes the answer is a refusal, while workers are busy; then all is well."""
    arguments = ("--workers", "1", "--max-queued", "8", "--max-queued-bytes", str(8 * MEGABYTE))
    with steered(tmp_path, *arguments) as server, Pipe(server) as pipe, server.client() as other:
        with busy(pipe, tmp_path, "requests"):
            pipe.send(*map(frame, range(2, 10)))  # all that may wait
            eventually(lambda: queued(server)[0] == 8, "a full queue")
            for x in (np.ones(3, np.float32), np.ones(MEGABYTE, np.float32)):
                with pytest.raises(ResourceExhaustedError, match="8 requests are waiting") as caught:
                    other.predict("m", {"x": x})
                assert caught.value.retryable
        assert all(right(number, answer) for number, answer in pipe.answers(9))

        before = memory(server)
        with busy(pipe, tmp_path, "bytes"):
            pipe.send(*(large(number, 750_000) for number in (2, 3)))
            eventually(lambda: queued(server)[1] > 6_000_000, "waiting bytes")
            for _ in range(20):
                with pytest.raises(ResourceExhaustedError, match="bytes, the limit"):
                    other.predict("m", {"x": np.ones(750_000, np.float32)})
            assert memory(server) - before < 2 * MEGABYTE
            pipe.send(frame(4))  # a small one has room
        assert [(number, right(number, answer)) for number, answer in pipe.answers(4)] == [
            (n, True) for n in (1, 2, 3, 4)
        ]
        for number in range(20):  # more than there is room for at once: all of it came back
            assert (other.predict("m", {"x": np.full(750_000, number, np.float32)})["y"] == 2 * number + 1).all()
        eventually(lambda: queued(server) == (0, 0), "an empty queue")
        assert memory(server) - before < 10 * MEGABYTE


def test_expired_while_it_waits(tmp_path: Path) -> None:
    """A request whose time is over is answered while the worker is still busy, in its place or out of it; never run."""
    with steered(tmp_path, "--workers", "1") as server, Pipe(server) as pipe, Pipe(server) as other:
        with busy(pipe, tmp_path, "gate"):
            pipe.send(frame(2, told("", 2, note=True), timeout_ms=30), frame(3, told("", 3, note=True)))
            eventually(lambda: queued(server)[1] > 0, "requests that are held")
            other.send(frame(4, told("", 4, note=True) | {"more": np.ones(200_000, np.float32)}, timeout_ms=100))
            ((_, refused),) = other.answers(1)
            assert "not executed" in refused.message
        answers = dict(pipe.answers(3))
        assert right(1, answers[1]) and right(3, answers[3])
        assert "not executed" in answers[2].message
        assert ledger(tmp_path) == [3]


def test_one_client_sends_much(tmp_path: Path) -> None:
    """10,000 requests of one client: answered in order; others are served between, within a batch or two each."""
    with steered(tmp_path, "--workers", "1", "--max-batch-size", "8") as server:
        received = bytearray()
        with Pipe(server) as pipe, server.client() as other:
            size = len(frame(0))
            one = b"".join(frame(number) for number in range(PIPELINED))
            sender = threading.Thread(target=pipe.send, args=(one,))
            reader = threading.Thread(target=_read_all, args=(pipe, received))
            sender.start()
            reader.start()
            eventually(lambda: len(received) > 20 * size, "its first answers")
            between: list[float] = []
            while reader.is_alive() and len(between) < 100:
                before = len(received)
                assert right_now(other)
                between.append((len(received) - before) / size)
            sender.join()
            reader.join()
        print(f"\nanswers of the one between two of the other: median {statistics.median(between):.0f}")
        assert len(between) > 20
        assert statistics.median(between) < 100  # of 256 that wait
        answers = [decoded(message) for message in messages(received)]
        assert [number for number, _ in answers] == list(range(PIPELINED))
        assert all(right(number, answer) for number, answer in answers)


def _read_all(pipe: Pipe, received: bytearray) -> None:
    """Reads `PIPELINED` answers."""
    left, at = PIPELINED, 0
    while left:
        received += pipe.sock.recv(65536)
        while len(received) >= at + 4 and len(received) >= (
            end := at + 4 + int.from_bytes(received[at : at + 4], "big")
        ):
            at, left = end, left - 1


def _end(data: bytes | bytearray, at: int) -> int:
    """Where the frame at `at` ends."""
    return at + 4 + int.from_bytes(data[at : at + 4], "big")


def messages(data: bytes | bytearray) -> list[bytes]:
    """The messages of a stream of frames."""
    found, at = [], 0
    while at < len(data):
        end = _end(data, at)
        found.append(bytes(data[at + 4 : end]))
        at = end
    return found


def right_now(client: Any) -> bool:
    """Whether a call is answered rightly."""
    return bool((client.predict("m", {"x": np.full(3, 5, np.float32)})["y"] == 11).all())


def spins(server: Served) -> bool:
    """Whether the front, which has nothing to do, takes all of a core."""
    (front,) = fronts(server)
    busy_s, began = sum(front.cpu_times()[:2]), time.monotonic()
    time.sleep(0.4)
    return sum(front.cpu_times()[:2]) - busy_s >= SPINNING * (time.monotonic() - began)


def test_a_client_that_does_not_read(tmp_path: Path) -> None:
    """Its answers are neither run ahead nor kept: others are served, memory stays, in the end it is closed."""
    arguments = ("--workers", "1", "--max-batch-size", "4", "--write-timeout-s", "1")
    with steered(tmp_path, *arguments) as server, Pipe(server) as pipe, server.client() as other:
        before = memory(server)
        pipe.send(*(frame(number, told(f"grow:{MEGABYTE}", number, note=True)) for number in range(100)))
        eventually(lambda: len(ledger(tmp_path)) > 0, "its first run")
        assert not spins(server)
        most = 0
        while pipe.sock.getsockname()[1] in peers(server):
            assert right_now(other)
            most = max(most, memory(server))
        assert most - before < 64 * MEGABYTE  # of 400
        assert len(ledger(tmp_path)) < 20
        assert len(read_to_end(pipe.sock)) < 64 * MEGABYTE
        assert "was not taken within 1 s" in server.log()
        assert right_now(other)


def test_a_lone_client_never_waits_for_others(tmp_path: Path) -> None:
    """Where company makes runs cheaper, and has been there, a client that is alone now still does not wait for it."""
    with steered(tmp_path, "--workers", "1", ms=20) as server:
        with Loops(server, 8) as loops:
            loops.go_on(100)
        assert max(loops.sizes) > 1
        with server.client() as client:
            timings = [client.predict("m", told("")).timing for _ in range(12)]
    assert loops.failures == []
    assert {timing.batch_size for timing in timings if timing} == {1}
    queue_us = statistics.median(timing.queue_us for timing in timings if timing)
    assert queue_us < statistics.median(timing.compute_us for timing in timings if timing) / 4


def test_clients_that_ask_together_share_runs(tmp_path: Path) -> None:
    """Eight clients in closed loops get runs of eight, where a run takes what it takes however many share it."""
    with steered(tmp_path, "--workers", "1", "--runs-per-worker", "1", ms=20) as server, Loops(server, 8) as loops:
        eventually(lambda: len(loops.recent) == 80 and statistics.median(loops.recent.copy()) >= 7, "runs of eight")
    assert loops.failures == []


@pytest.mark.parametrize("columns", [3, 11_000, 20_000, 150_000])
def test_a_timeout_fills_batches(tmp_path: Path, columns: int) -> None:
    """Told to wait by --batch-timeout-ms, slow-coming requests of any size make full runs, but none that can't wait."""
    arguments = ("--workers", "1", "--max-batch-size", "4", "--batch-timeout-ms", "60000")
    with steered(tmp_path, *arguments) as server, server.client() as other, contextlib.ExitStack() as stack:
        assert right_now(other)  # nothing is known of the worker before
        pipes = [stack.enter_context(Pipe(server)) for _ in range(4)]
        for number, pipe in enumerate(pipes):
            other.ping()  # what was sent before has been seen
            pipe.send(frame(number, {"x": np.full((1, columns), number, np.float32)}))
        for number, pipe in enumerate(pipes):
            ((_, answer),) = pipe.answers(1)
            assert right(number, answer)
            assert answer.timing.batch_size == 4
        assert (other.predict("m", told(""), timeout_s=1.2)["y"] == 1).all()


def test_nobody_left_to_wait_for(tmp_path: Path) -> None:
    """A client that leaves while its request is held back for others: its wait goes with it."""
    with steered(tmp_path, "--workers", "1", "--batch-timeout-ms", "300") as server, server.client() as other:
        assert right_now(other)  # nothing is known of the worker before
        with Pipe(server) as pipe:
            pipe.send(frame(1))
            other.ping()  # it has been seen
            pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at once
        eventually(lambda: len(peers(server)) == 1, "its end")
        time.sleep(0.3)  # what it waited for is past
        assert not spins(server)


@pytest.mark.parametrize(("workers", "share"), [(1, 0.65), (2, 0.4)])
def test_everybody_gets_as_much(tmp_path: Path, workers: int, share: float) -> None:
    """64 clients in closed loops: the slowest gets no much less than the fastest, or than its worker's core allows."""
    with steered(tmp_path, "--workers", str(workers)) as server, contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(Pipe(server)) for _ in range(FAIR_CLIENTS)]
        counts = [0] * FAIR_CLIENTS
        selector = stack.enter_context(selectors.DefaultSelector())
        for number, pipe in enumerate(pipes):
            selector.register(pipe.sock, selectors.EVENT_READ, number)
            pipe.send(frame(number))
        while sum(counts) < 200 * FAIR_CLIENTS:
            for key, _ in selector.select():
                number = key.data
                ((got, answer),) = pipes[number].answers(1)
                assert got == number and right(number, answer)
                counts[number] += 1
                pipes[number].send(frame(number))
        print(f"\nslowest {min(counts)}, fastest {max(counts)}: {min(counts) / max(counts):.2f}")
        assert min(counts) >= share * max(counts)

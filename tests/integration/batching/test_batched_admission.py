"""A front's door: crowds that are turned away, and what clients that send or read nothing can make it hold."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from batched_load import Pipe, frame, fronts, right, steered, told
from hosting import eventually, read_to_end
from served import Served
from thriftserve_client import Client, ResourceExhaustedError
from thriftserve_client.results import ServerStatus
from thriftserve_idl.ttypes import ErrorCode

MEGABYTE = 1 << 20
CROWD = 200
AHEAD = 50


def status(server: Served) -> ServerStatus:
    """As the front tells it, which does so at any time."""
    with server.client() as client:
        return client.server_status()


def refused(answer: Any) -> bool:
    """Whether it is the refusal of a full queue."""
    return bool(getattr(answer, "code", None) == ErrorCode.RESOURCE_EXHAUSTED)


def memory(server: Served) -> int:
    """Bytes that the front has for itself, and in the memory that it shares with its workers."""
    (front,) = fronts(server)
    return int(front.memory_info().rss)


def large_right(client: Client, floats: int) -> bool:
    """Whether a large request is answered rightly."""
    return bool((client.predict("m", {"x": np.full(floats, 3, np.float32)})["y"] == 7).all())


def test_a_crowd_is_turned_away(tmp_path: Path) -> None:
    """With a full queue each request of many clients is refused, with its own number and in its order, and counted."""
    with steered(tmp_path, "--workers", "1", "--max-queued", "2") as server, contextlib.ExitStack() as stack:
        first, *crowd = (stack.enter_context(Pipe(server)) for _ in range(CROWD))
        first.send(frame(1, told("hold:gate", 1)))
        eventually((tmp_path / "gate.held").exists, "a busy worker")
        first.send(frame(2), frame(3))
        eventually(lambda: status(server).queued == 2, "a full queue")
        before = status(server).refused
        for number, pipe in enumerate(crowd):
            pipe.send(*(frame(number + place) for place in range(AHEAD if number == 0 else 1)))
        for number, pipe in enumerate(crowd):
            answers = list(pipe.answers(AHEAD if number == 0 else 1))
            assert [seqid for seqid, _ in answers] == [number + place for place in range(len(answers))]
            assert all(refused(answer) for _, answer in answers)
        after = status(server).refused
        assert after - before == len(crowd) - 1 + AHEAD
        (tmp_path / "gate").touch()
        assert all(right(number, answer) for number, answer in first.answers(3))
        crowd[0].send(frame(7))
        assert all(right(number, answer) for number, answer in crowd[0].answers(1))


def test_announced_frames_hold_nothing(tmp_path: Path) -> None:
    """Clients that announce large messages and send little of them leave the memory to those who send theirs."""
    with steered(tmp_path, "--workers", "1", "--max-queued-bytes", str(8 * MEGABYTE)) as server:
        with contextlib.ExitStack() as stack, server.client() as honest:
            liars = [stack.enter_context(Pipe(server)) for _ in range(20)]
            for part in (100, 70_000):
                for liar in liars:
                    liar.send((7 * MEGABYTE).to_bytes(4, "big")[: 4 if part == 100 else 0] + bytes(part))
                for _ in range(3):
                    assert large_right(honest, 750_000)
            before = memory(server)
            for liar in liars:
                liar.send(bytes(2 * MEGABYTE))  # in all five times what there is room for
            assert memory(server) - before < 16 * MEGABYTE
        eventually(lambda: status(server).queued_bytes == 0, "memory that is free again")


def test_the_silent_make_room(tmp_path: Path) -> None:
    """Clients that filled the memory with parts of messages, or never read their answers, are closed for others."""
    arguments = ("--workers", "1", "--max-batch-size", "1", "--max-queued-bytes", str(8 * MEGABYTE))
    with (
        steered(tmp_path, *arguments) as server,
        Pipe(server) as silent,
        Pipe(server) as deaf,
        server.client() as honest,
    ):
        before = memory(server)
        silent.send((8 * MEGABYTE).to_bytes(4, "big"), bytes(6 * MEGABYTE))
        deaf.send(*(frame(number, told(f"grow:{MEGABYTE}", number)) for number in range(30)))
        served = False
        while not served:
            with contextlib.suppress(ResourceExhaustedError):
                served = large_right(honest, 750_000)
        assert memory(server) - before < 40 * MEGABYTE
        read_to_end(silent.sock)
        assert "makes no headway" in server.log()
        silent.sock.close()


def test_answers_out_of_order_have_a_bound(tmp_path: Path) -> None:
    """A client whose first request takes long gets the others' answers kept up to a bound, and all in the end."""
    arguments = ("--workers", "2", "--runs-per-worker", "1", "--max-batch-size", "1")
    with steered(tmp_path, *arguments) as server, Pipe(server) as pipe:
        before = memory(server)
        pipe.send(frame(0, told("hold:gate", 0)))
        eventually((tmp_path / "gate.held").exists, "a busy worker")
        pipe.send(*(frame(number, told(f"grow:{MEGABYTE}", number, note=True)) for number in range(1, 60)))
        most = 0
        with server.client() as other:
            for _ in range(50):  # the other worker runs some of them, and these
                assert large_right(other, 1000)
                most = max(most, memory(server))
        assert most - before < 25 * MEGABYTE
        (tmp_path / "gate").touch()
        assert [number for number, _ in pipe.answers(60)] == list(range(60))

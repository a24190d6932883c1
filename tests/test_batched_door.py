"""A front's door: crowds that are turned away, and what clients that send or read nothing can make it hold."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from batched_load import Pipe, frame, right, steered, told
from hosting import eventually
from served import Served
from thriftserve_client.results import ServerStatus
from thriftserve_idl.ttypes import ErrorCode

CROWD = 200
AHEAD = 50


def status(server: Served) -> ServerStatus:
    """As the front tells it, which does so at any time."""
    with server.client() as client:
        return client.server_status()


def refused(answer: Any) -> bool:
    """Whether it is the refusal of a full queue."""
    return bool(getattr(answer, "code", None) == ErrorCode.RESOURCE_EXHAUSTED)


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

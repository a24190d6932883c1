"""Admission in a front: which request gets a place, which one is refused, and with what words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from thriftserve.errors import Code
from thriftserve.servers.batching.admission import AdmissionControl, MemoryBudget
from thriftserve.servers.batching.request_queue import ClientQueue, Clock, Request, RequestQueue

MAX_QUEUED, MAX_BYTES = 3, 10_000


class FakeReplies:
    """As much of `LocalReplies` as admission uses: a fault is its code and its words."""

    def __init__(self) -> None:
        self.lanes: dict[Request, str] = {}
        self.expires = float("inf")

    def is_local(self, frame: bytes) -> bool:
        return frame == b"ping"

    def local(self, frame: bytes, arrived: float) -> bytes:
        return b"pong"

    def fault(self, request: Request, code: Code, message: str) -> Any:
        return code, message

    def refusals(self, code: Code, message: str) -> Any:
        return SimpleNamespace(of=lambda frame: b"refused" if frame != b"unreadable" else None)

    def lane_of(self, request: Request) -> str | None:
        return self.lanes.get(request)

    def fingerprint(self, request: Request) -> bytes:
        return bytes(request.frame or b"")

    def expiry(self, request: Request) -> float:
        return self.expires


class Front:
    """An admission control, its queue, and what clients got of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.replies = FakeReplies()
        self.queue = RequestQueue(ordered=False)
        self.budget = MemoryBudget(MAX_BYTES, MAX_BYTES)
        self.counted = {"refused": 0, "errors": 0}
        replies: Any = self.replies
        counters: Any = SimpleNamespace(
            add_refused=lambda count: self._count("refused", count), add_error=lambda: self._count("errors", 1)
        )
        batch_wait: Any = SimpleNamespace(arrived=lambda client, now: None)
        self.admission = AdmissionControl(
            MAX_QUEUED, self.queue, self.budget, replies, counters, self.clock, batch_wait
        )
        self.sent: list[Any] = []

    def _count(self, what: str, count: int) -> None:
        self.counted[what] += count

    def request(self, size: int = 10, *, frame: bytes | None = None, refusal: str | None = None) -> Request:
        """A request of a client of its own."""
        client: Any = SimpleNamespace(
            queue=ClientQueue(), refusal=refusal, reply=lambda request, data: self.sent.append(data)
        )
        return Request(client, bytes(size) if frame is None else frame, None, size, self.clock.now)

    def arrives(self, request: Request) -> Any:
        """What its client gets at once; None if it is queued."""
        self.sent.clear()
        self.admission.arrived(request)
        return self.sent[0] if self.sent else None


def test_what_is_admitted_is_held() -> None:
    """A request that nothing speaks against waits, and its bytes count; what the front answers itself does neither."""
    front = Front()
    assert front.arrives(front.request(100)) is None
    assert (len(front.queue), front.budget.used_bytes) == (1, 100)
    assert front.arrives(front.request(frame=b"ping")) == b"pong"
    assert (len(front.queue), front.counted["refused"]) == (1, 0)


def test_each_limit_says_which_it_is() -> None:
    """The connection's refusal goes first, then the full queue, then memory, then the model's own limit."""
    front = Front()
    code, text = front.arrives(front.request(refusal="9 connections are open"))
    assert (code, text) == (Code.RESOURCE_EXHAUSTED, "9 connections are open")
    _, text = front.arrives(front.request(MAX_BYTES + 1))
    assert f"{MAX_BYTES} bytes, the limit" in text
    assert front.budget.clear_shortage()
    front.admission.set_model_limits({"m": 1})
    first, second, other = front.request(), front.request(), front.request()
    front.replies.lanes = {first: "m", second: "m", other: "other"}
    assert front.arrives(first) is None
    assert "the queue of 'm' is full: 1 requests are waiting" in front.arrives(second)[1]
    assert front.arrives(other) is None
    assert front.arrives(front.request()) is None
    assert "3 requests are waiting" in front.arrives(front.request())[1]
    assert front.counted == {"refused": 4, "errors": 0}
    assert len(front.queue) == MAX_QUEUED


def test_a_full_queue_turns_away_unread_frames() -> None:
    """Only a full queue refuses without reading; what was turned away is counted once, later."""
    front = Front()
    assert front.admission.turn_away(b"frame") is None
    for _ in range(MAX_QUEUED):
        front.arrives(front.request())
    assert front.admission.turn_away(b"frame") == b"refused"
    assert front.admission.turn_away(b"unreadable") is None
    assert front.counted["refused"] == 0
    front.admission.settle()
    front.admission.settle()
    assert front.counted["refused"] == 1


@pytest.mark.parametrize("full", [True, False])
def test_large_frames_without_room(full: bool) -> None:
    """A large frame gets no block if the queue is full or memory is short, and is refused for that."""
    front = Front()
    block = front.admission.allocate(1000)
    assert block is not None
    front.budget.free(block)
    if full:
        for _ in range(MAX_QUEUED):
            front.arrives(front.request())
    else:
        front.budget.change_partial(MAX_BYTES + 1)
    assert front.admission.allocate(1000) is None
    front.sent.clear()
    front.admission.refuse_discarded(front.request())
    assert ("requests are waiting" in front.sent[0][1]) == full
    assert front.budget.clear_shortage() != full


def test_late_requests_leave_the_queue() -> None:
    """A request whose time is over is answered, and its memory is free; the others stay."""
    front = Front()
    front.replies.expires = front.clock.now + 0.25
    late, early = front.request(), front.request()
    front.arrives(late)
    front.clock.now += 0.2
    early.arrived = front.clock.now
    front.arrives(early)
    front.clock.now += 0.1
    early.expires = float("inf")
    front.sent.clear()
    front.admission.expire()
    ((code, text),) = front.sent
    assert code == Code.DEADLINE_EXCEEDED
    assert text == "deadline exceeded: queued 300.0 ms, timeout_ms is 250; not executed"
    assert front.queue.requests() == [early]
    assert (front.budget.used_bytes, front.counted["errors"]) == (early.size, 1)

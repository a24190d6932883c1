"""Answers that a front makes itself: of the methods it has at its own desk, and of what it must refuse.

    Request --local()--> the answer of its own processor        (Request, Code, message) --fault()--> a typed error

A refusal costs next to nothing, for it is what an overloaded server does most: under the binary protocol the
answer to a method and a message is made once, and only the sequence number is put in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve.errors import Code
from thriftserve.rpc import BadMessage, make_exchange
from thriftserve.rpc.scan import find_i32, find_string
from thriftserve.servers.batching.request_queue import Request
from thriftserve.supervisor.context import WorkerContext
from thriftserve_client.wire.framing import HEADER_BYTES, Frame

# What a front may do by itself for the service that it fronts, told by whoever hosts the service.

#: Makes the result struct of a method that failed: (method, code, message); None for a TApplicationException.
Fault = Callable[[str, Code, str], Any]


def no_result(method: str, code: Code, message: str) -> Any:
    """What a service without errors of its own answers."""
    return None


@dataclass(frozen=True)
class FrontPolicy:
    """A service's own rules for its fronts.

    Attributes:
        fault: makes the answer to a request that fails before any handler saw it.
        make_processor: called in each front with its context and with what workers said of themselves (a dict that is
            kept up to date); answers the methods in `local`.
        local: methods that the front answers itself, whatever the workers do.
        timeouts: where a method's time-out in milliseconds stands: field numbers from its arguments down to an i32.
        ordered: whether a client's requests run one after the other, as on the other server types; where they are
            independent of each other, a client that sends several at once gets them run together.
        lanes: where a method's part of the service stands (a model's name): field numbers from its arguments down to a
            string. What workers say of themselves under "max_waiting" limits how many requests of a part may wait.
        repeatable: methods that may be run again when the worker that ran them died.
    """

    fault: Fault = no_result
    make_processor: Callable[[WorkerContext, dict[str, Any]], TProcessor] | None = None
    local: frozenset[str] = frozenset()
    timeouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lanes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ordered: bool = True
    repeatable: frozenset[str] = frozenset()


log = logging.getLogger(__name__)

_CALL = b"\x80\x01\x00\x01\x00\x00\x00"
#: Where a binary message's method name begins in its frame, and how much of a frame holds name and number.
_NAME_AT = 12
_HEAD_BYTES = 2048
_MOST_KEPT = 256
_NEVER = float("inf")


class LocalReplies:
    """The front's own answers.

    Args:
        desk: the service's rules.
        processor: answers the desk's local methods; None where there are none.
        protocol: "binary", "compact" or "header".
        max_bytes: the largest message.
    """

    def __init__(self, desk: FrontPolicy, processor: TProcessor | None, protocol: str, max_bytes: int) -> None:
        self._desk = desk
        self._binary = protocol == "binary"
        self._exchange = make_exchange(processor, protocol, max_bytes)
        self._namer = make_exchange(None, protocol, max_bytes)
        self._local = desk.local if processor is not None else frozenset()
        self._local_raw = frozenset(name.encode() for name in self._local)
        self._kept: dict[tuple[bytes, Code, str], bytes] = {}

    def is_local(self, frame: bytes) -> bool:
        """Whether the front answers this message itself."""
        if not self._local_raw or len(frame) < _NAME_AT:
            return False
        if self._binary:
            return frame[_NAME_AT : _NAME_AT + frame[_NAME_AT - 1]] in self._local_raw and frame[4:11] == _CALL
        return self.method(frame) in self._local

    def method(self, frame: bytes) -> str:
        """The name of the method that a message calls; empty where it can't be read."""
        try:
            name, _, _ = self._namer.peek(_message(frame))
        except BadMessage:
            return ""
        return name

    def method_of(self, request: Request) -> str:
        """The name of the method that a request calls; empty where it can't be read."""
        return self.method(_head(request))

    def expiry(self, request: Request) -> float:
        """When a request must have begun to run, monotonic seconds; infinity where a front can't tell."""
        if not self._desk.timeouts or not self._binary:
            return _NEVER  # its worker looks
        path = self._desk.timeouts.get(self.method_of(request))
        if path is None:
            return _NEVER
        timeout_ms = find_i32(_whole(request), path)
        return request.arrived + timeout_ms / 1000 if timeout_ms and timeout_ms > 0 else _NEVER

    def lane_of(self, request: Request) -> str | None:
        """The part of the service that a request is for, where that is known and has a limit of its own."""
        if not self._binary:
            return None
        path = self._desk.lanes.get(self.method_of(request))
        found = None if path is None else find_string(_whole(request), path)
        return None if found is None else found.decode(errors="replace")

    def local(self, frame: bytes, arrived: float) -> bytes | None:
        """The framed answer of the desk's processor; None where the connection has to be closed."""
        try:
            parts = self._exchange.answer(_message(frame), arrived)
        except BadMessage as error:
            log.warning("%s", error)
            return None
        return _framed(parts)

    def fault(self, request: Request, code: Code, message: str) -> bytes | None:
        """The framed answer to a request that fails here; None where the connection has to be closed."""
        head = _head(request)
        if self._binary and (name := _raw_name(head)) is not None:
            return self._patched(head, name, code, message)
        return self._made(head, code, message)

    def _patched(self, head: bytes, name: bytes, code: Code, message: str) -> bytes | None:
        at = _NAME_AT + len(name)
        kept = self._kept.get((name, code, message))
        if kept is None:
            made = self._made(head, code, message)
            if not made:
                return made
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[name, code, message] = kept = made
        return kept[:at] + head[at : at + 4] + kept[at + 4 :]

    def _made(self, head: bytes, code: Code, message: str) -> bytes | None:
        try:
            parts = self._namer.refuse(
                _message(head), message, lambda method, reason: self._desk.fault(method, code, reason)
            )
        except BadMessage as error:
            log.warning("%s: %s", message, error)
            return None
        return _framed(parts)

    def refusals(self, code: Code, message: str) -> Refusals:
        """Refusals of small requests for one reason."""
        return Refusals(self, code, message)

    @property
    def patches(self) -> bool:
        """Whether the protocol has its sequence numbers where they can be put in."""
        return self._binary

    def answer_like(self, frame: bytes, code: Code, message: str) -> tuple[bytes, bytes] | None:
        """What stands before and behind the sequence number in the answer to frames that begin as this one does.

        None where they are answered here, or can't be answered so.
        """
        name = _raw_name(frame)
        if name is None or name in self._local_raw:
            return None
        made = self._patched(frame, name, code, message)
        at = _NAME_AT + len(name)
        return (made[:at], made[at + 4 :]) if made else None


class Refusals:
    """Answers of one kind to any number of frames: two pieces that are there already, and the sequence number.

    Made by `DeskAnswers.refusals`.
    """

    def __init__(self, answers: LocalReplies, code: Code, message: str) -> None:
        self._answers = answers
        self._code, self._message = code, message
        #: By what stands between a frame's length and its sequence number: version, type and name.
        self._kept: dict[bytes, tuple[bytes, bytes] | None] = {}

    def of(self, frame: bytes) -> bytes | None:
        """The framed answer; None where the frame has to be looked at."""
        if len(frame) < _NAME_AT or not self._answers.patches:
            return None
        at = _NAME_AT + frame[_NAME_AT - 1]
        head = frame[HEADER_BYTES:at]
        kept = self._kept.get(head)
        if kept is None or len(frame) < at + 4:
            return self._made(frame, head)
        return kept[0] + frame[at : at + 4] + kept[1]

    def _made(self, frame: bytes, head: bytes) -> bytes | None:
        if head in self._kept:
            return None
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[head] = kept = self._answers.answer_like(frame, self._code, self._message)
        return self.of(frame) if kept is not None else None


def _raw_name(head: bytes) -> bytes | None:
    """The method's name where a frame is a binary call whose name is shorter than 256 bytes."""
    if head[4:11] != _CALL or len(head) < _NAME_AT + head[_NAME_AT - 1] + 4:
        return None
    return head[_NAME_AT : _NAME_AT + head[_NAME_AT - 1]]


def _message(frame: bytes) -> Frame:
    return Frame(BytesIO(frame[HEADER_BYTES:]), len(frame) - HEADER_BYTES)


def _whole(request: Request) -> bytes | memoryview:
    """The message of a request, where it is."""
    if request.frame is not None:
        return request.frame[HEADER_BYTES:]
    assert request.block is not None
    return request.block.view


def _head(request: Request) -> bytes:
    """The frame of a request, or as much of it as tells its method: a large one is not copied."""
    if request.frame is not None:
        return request.frame
    assert request.block is not None
    return request.size.to_bytes(HEADER_BYTES, "big") + bytes(request.block.view[:_HEAD_BYTES])


def _framed(parts: list[bytes]) -> bytes:
    """A message with its length before it; nothing for a oneway call."""
    return b"".join([sum(map(len, parts)).to_bytes(HEADER_BYTES, "big"), *parts]) if parts else b""

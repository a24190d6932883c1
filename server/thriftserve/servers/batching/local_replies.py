"""Replies that a front makes itself: of methods that it answers, and to requests that are refused.

    frame --local()--> the reply of the front's own processor        (Request, Code, message) --fault()--> a typed error

An overloaded server refuses more than anything else, so a refusal costs next to nothing: under the binary protocol
the reply to a method and a message is made once, and only the sequence number is put in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from typing import Any

from thrift.Thrift import TMessageType, TProcessor

from thriftserve.errors import Code
from thriftserve.rpc import BadMessage, make_exchange
from thriftserve.rpc.scan import LOST, Scanner, find_i32, find_string
from thriftserve.servers.batching.request_queue import Request
from thriftserve.supervisor.context import WorkerContext
from thriftserve_client.wire.framing import HEADER_BYTES, Frame

log = logging.getLogger(__name__)

#: Replies that are cached, at most: clients choose the names of methods.
MAX_CACHED = 256
_CALL = b"\x80\x01\x00\x01\x00\x00\x00"
#: Where a binary message's method name begins in its frame, and how much of a frame holds name and number.
_NAME_AT = 12
_HEAD_BYTES = 2048
#: Before each value of a struct in a binary message: its type and number.
_FIELD_HEAD_BYTES = 3
_NEVER = float("inf")

#: Makes the result struct of a method that failed: (method, code, message); None for a TApplicationException.
Fault = Callable[[str, Code, str], Any]


def no_result(method: str, code: Code, message: str) -> Any:
    """Return None: a service without errors of its own answers with a TApplicationException."""
    return None


@dataclass(frozen=True)
class FrontPolicy:
    """What a front may do by itself for the service behind it; the host of the service sets it.

    Attributes:
        fault: makes the result of a request that fails before any handler saw it.
        make_processor: called in each front with its context, with what workers reported of themselves (a dict that
            is kept up to date), and with what tells whether a worker would run a request now; answers the methods in
            `local`.
        local: methods that the front answers itself, whatever the workers do.
        timeouts: where a method's time-out in milliseconds is: field numbers from its arguments down to an i32.
        ordered: whether a client's requests run one after the other, as on the other server types. Otherwise requests
            that a client sends without waiting may share runs.
        lanes: where the part of the service that a method uses (a model's name) is: field numbers from its arguments
            down to a string. What workers report under "max_waiting" limits how many requests of a part may wait.
        repeatable: methods that may run again if the worker that ran them died.
        ids: where a request's own id is: field numbers from its arguments down to a string.
    """

    fault: Fault = no_result
    make_processor: Callable[[WorkerContext, dict[str, Any], Callable[[], bool]], TProcessor] | None = None
    local: frozenset[str] = frozenset()
    timeouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lanes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ordered: bool = True
    repeatable: frozenset[str] = frozenset()
    ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class LocalReplies:
    """Makes the front's own replies, and reads what they need of a request. One thread uses it.

    Args:
        policy: the service's rules.
        processor: answers the policy's local methods; None if there are none.
        protocol: "binary", "compact" or "header".
        max_bytes: the largest message.
    """

    def __init__(self, policy: FrontPolicy, processor: TProcessor | None, protocol: str, max_bytes: int) -> None:
        self._policy = policy
        self._binary = protocol == "binary"
        self._exchange = make_exchange(processor, protocol, max_bytes)
        self._header_reader = make_exchange(None, protocol, max_bytes)
        self._local = policy.local if processor is not None else frozenset()
        self._local_raw = frozenset(name.encode() for name in self._local)
        self._cache: dict[tuple[bytes, Code, str], bytes] = {}

    @property
    def cached(self) -> int:
        """The number of replies that are cached."""
        return len(self._cache)

    @property
    def patches(self) -> bool:
        """Whether the protocol has its sequence numbers where they can be put in."""
        return self._binary

    # Reading requests

    def is_local(self, frame: bytes) -> bool:
        """Return whether the front answers this message itself."""
        if not self._local_raw or len(frame) < _NAME_AT:
            return False
        if self._binary:
            return frame[_NAME_AT : _NAME_AT + frame[_NAME_AT - 1]] in self._local_raw and frame[4:11] == _CALL
        return self.method(frame) in self._local

    def method(self, frame: bytes) -> str:
        """Return the name of the method that a message calls; empty if it can't be read."""
        try:
            name, _, _ = self._header_reader.peek(_message(frame))
        except BadMessage:
            return ""
        return name

    def method_of(self, request: Request) -> str:
        """Return the name of the method that a request calls; empty if it can't be read."""
        return self.method(_head(request))

    def is_oneway(self, request: Request) -> bool:
        """Return whether nobody waits for a reply to a request."""
        try:
            _, kind, _ = self._header_reader.peek(_message(_head(request)))
        except BadMessage:
            return False
        return bool(kind == TMessageType.ONEWAY)

    def expiry(self, request: Request) -> float:
        """Return when a request must have begun to run, monotonic seconds; infinity if a front can't tell."""
        if not self._policy.timeouts or not self._binary:
            return _NEVER  # its worker reads it
        path = self._policy.timeouts.get(self.method_of(request))
        if path is None:
            return _NEVER
        timeout_ms = find_i32(_body(request), path)
        return request.arrived + timeout_ms / 1000 if timeout_ms and timeout_ms > 0 else _NEVER

    def lane_of(self, request: Request) -> str | None:
        """Return the part of the service that a request is for; None if that can't be read."""
        if not self._binary:
            return None
        path = self._policy.lanes.get(self.method_of(request))
        name = None if path is None else find_string(_body(request), path)
        return None if name is None else name.decode(errors="replace")

    def fingerprint(self, request: Request) -> bytes:
        """Return the same 16 bytes for requests that ask for the same, whatever their numbers, ids and time-outs.

        Under the compact protocol and THeader ids and time-outs count, too.
        """
        body, name = _body(request), self.method_of(request)
        digest = blake2b(name.encode(), digest_size=16)
        # In a binary message the sequence number is behind the name, in the others some fields' heads.
        at = bytes(body[:_HEAD_BYTES]).find(name.encode()) + len(name) + 4
        for start, end in self._own_parts(name, body):
            digest.update(body[at:start])
            at = end
        digest.update(body[at:])
        return digest.digest()

    def _own_parts(self, name: str, body: bytes | memoryview) -> list[tuple[int, int]]:
        """Return where a request's id and time-out are, with the heads of their fields: (begin, end) each."""
        if not self._binary:
            return []
        scanner, policy = Scanner(body), self._policy
        heads = [(policy.ids, _FIELD_HEAD_BYTES + HEADER_BYTES), (policy.timeouts, _FIELD_HEAD_BYTES)]
        paths = [(path, head) for where, head in heads if (path := where.get(name))]
        try:
            return sorted((start - head, end) for path, head in paths for _, (start, end) in scanner.reach(path))
        except LOST:
            return []

    # Making replies

    def local(self, frame: bytes, arrived: float) -> bytes | None:
        """Return the framed reply of the front's processor; None if the connection has to be closed."""
        try:
            parts = self._exchange.answer(_message(frame), arrived)
        except BadMessage as error:
            log.warning("closed: %s", error)
            return None
        return _framed(parts)

    def fault(self, request: Request, code: Code, message: str) -> bytes | None:
        """Return the framed reply to a request that fails here; None if the connection has to be closed."""
        head = _head(request)
        if self._binary and (name := _raw_name(head)) is not None:
            return self._patched(head, name, code, message)
        return self.encode_fault(head, code, message)

    def _patched(self, head: bytes, name: bytes, code: Code, message: str) -> bytes | None:
        at = _NAME_AT + len(name)
        reply = self._cache.get((name, code, message))
        if reply is None:
            reply = self.encode_fault(head, code, message)
            if not reply:
                return reply
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[name, code, message] = reply
        return reply[:at] + head[at : at + 4] + reply[at + 4 :]

    def encode_fault(self, head: bytes, code: Code, message: str) -> bytes | None:
        """Return the framed error for the request that a frame begins with, encoded anew; None as for `fault`."""
        try:
            parts = self._header_reader.refuse(
                _message(head), message, lambda method, reason: self._policy.fault(method, code, reason)
            )
        except BadMessage as error:
            log.warning("%s: %s", message, error)
            return None
        return _framed(parts)

    def refusals(self, code: Code, message: str) -> Refusals:
        """Return what refuses small requests for one reason."""
        return Refusals(self, code, message)

    def pieces(self, frame: bytes, code: Code, message: str) -> tuple[bytes, bytes] | None:
        """Return what is before and behind the sequence number in the refusal of frames that begin as this one.

        None if they are answered here, or can't be refused so.
        """
        name = _raw_name(frame)
        if name is None or name in self._local_raw:
            return None
        reply = self._patched(frame, name, code, message)
        at = _NAME_AT + len(name)
        return (reply[:at], reply[at + 4 :]) if reply else None


class Refusals:
    """Refusals for one reason, of any number of frames: two pieces that are cached, and the sequence number.

    Made by `LocalReplies.refusals`.
    """

    def __init__(self, replies: LocalReplies, code: Code, message: str) -> None:
        self._replies = replies
        self._code, self._message = code, message
        #: By what is between a frame's length and its sequence number: version, type and name.
        self._cache: dict[bytes, tuple[bytes, bytes] | None] = {}

    @property
    def cached(self) -> int:
        """The number of kinds of frames that are cached."""
        return len(self._cache)

    def of(self, frame: bytes) -> bytes | None:
        """Return the framed refusal; None if the frame has to be read."""
        if len(frame) < _NAME_AT or not self._replies.patches:
            return None
        at = _NAME_AT + frame[_NAME_AT - 1]
        head = frame[HEADER_BYTES:at]
        pieces = self._cache.get(head)
        if pieces is None or len(frame) < at + 4:
            return self._of_new(frame, head)
        return pieces[0] + frame[at : at + 4] + pieces[1]

    def _of_new(self, frame: bytes, head: bytes) -> bytes | None:
        if head in self._cache:
            return None
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[head] = pieces = self._replies.pieces(frame, self._code, self._message)
        return self.of(frame) if pieces is not None else None


def _raw_name(head: bytes) -> bytes | None:
    """Return the method's name if a frame is a binary call whose name is shorter than 256 bytes."""
    if head[4:11] != _CALL or len(head) < _NAME_AT + head[_NAME_AT - 1] + 4:
        return None
    return head[_NAME_AT : _NAME_AT + head[_NAME_AT - 1]]


def _message(frame: bytes) -> Frame:
    return Frame(BytesIO(frame[HEADER_BYTES:]), len(frame) - HEADER_BYTES)


def _body(request: Request) -> bytes | memoryview:
    """Return the message of a request."""
    if request.frame is not None:
        return request.frame[HEADER_BYTES:]
    assert request.block is not None
    return request.block.view


def _head(request: Request) -> bytes:
    """Return the frame of a request, or as much of a large one as holds its method's name."""
    if request.frame is not None:
        return request.frame
    assert request.block is not None
    return request.size.to_bytes(HEADER_BYTES, "big") + bytes(request.block.view[:_HEAD_BYTES])


def _framed(parts: list[bytes]) -> bytes:
    """Return a message with its length before it; nothing for a oneway call."""
    return b"".join([sum(map(len, parts)).to_bytes(HEADER_BYTES, "big"), *parts]) if parts else b""

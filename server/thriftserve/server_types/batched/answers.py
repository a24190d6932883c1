"""Answers that a front makes itself: of the methods it has at its own desk, and of what it must refuse.

    Request --local()--> the answer of its own processor        (Request, Code, message) --fault()--> a typed error

A refusal costs next to nothing, for it is what an overloaded server does most: under the binary protocol the
answer to a method and a message is made once, and only the sequence number is put in.
"""

from __future__ import annotations

import logging
from io import BytesIO
from struct import Struct
from struct import error as struct_error
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve.errors import Code
from thriftserve.rpc import BadMessage, make_exchange
from thriftserve.server_types.batched.desk import Desk
from thriftserve.server_types.batched.request import Request
from thriftserve_client.framing import HEADER_BYTES, Frame

log = logging.getLogger(__name__)

_U32 = Struct("!I").unpack_from
_CALL = b"\x80\x01\x00\x01\x00\x00\x00"
#: Where a binary message's method name begins in its frame, and how much of a frame holds name and number.
_NAME_AT = 12
_HEAD_BYTES = 2048
_MOST_KEPT = 256
_NEVER = float("inf")


class DeskAnswers:
    """The front's own answers.

    Args:
        desk: the service's rules.
        processor: answers the desk's local methods; None where there are none.
        protocol: "binary", "compact" or "header".
        max_bytes: the largest message.
    """

    def __init__(self, desk: Desk, processor: TProcessor | None, protocol: str, max_bytes: int) -> None:
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
        message: Any = request.frame[HEADER_BYTES:] if request.frame is not None else request.block.view  # type: ignore[union-attr]
        timeout_ms = find_i32(message, path)
        return request.arrived + timeout_ms / 1000 if timeout_ms and timeout_ms > 0 else _NEVER

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


def _raw_name(head: bytes) -> bytes | None:
    """The method's name where a frame is a binary call whose name is shorter than 256 bytes."""
    if head[4:11] != _CALL or len(head) < _NAME_AT + head[_NAME_AT - 1] + 4:
        return None
    return head[_NAME_AT : _NAME_AT + head[_NAME_AT - 1]]


def _message(frame: bytes) -> Frame:
    return Frame(BytesIO(frame[HEADER_BYTES:]), len(frame) - HEADER_BYTES)


def _head(request: Request) -> bytes:
    """The frame of a request, or as much of it as tells its method: a large one is not copied."""
    if request.frame is not None:
        return request.frame
    assert request.block is not None
    return request.size.to_bytes(HEADER_BYTES, "big") + bytes(request.block.view[:_HEAD_BYTES])


def _framed(parts: list[bytes]) -> bytes:
    """A message with its length before it; nothing for a oneway call."""
    return b"".join([sum(map(len, parts)).to_bytes(HEADER_BYTES, "big"), *parts]) if parts else b""


def find_i32(message: bytes | memoryview, path: tuple[int, ...]) -> int | None:
    """An i32 within the arguments of a binary call, found by field numbers without decoding the rest.

    Args:
        message: the whole message, without its length.
        path: field numbers from the arguments down.

    Returns:
        None where it is not there, the message is none that can be followed, or it stands behind too many parts.

        >>> call = bytes.fromhex("80010001" "00000001" "70" "00000000" "0c0001" "080004" "00000064" "00" "00")
        >>> find_i32(call, (1, 4))
        100
    """
    walk = _Walk(message)
    try:
        at = 8 + _U32(message, 4)[0] + 4
        for wanted in path[:-1]:
            found = walk.field(at, wanted, _STRUCT)
            if found is None:
                return None
            at = found
        found = walk.field(at, path[-1], _I32)
        return None if found is None else Struct("!i").unpack_from(message, found)[0]
    except (IndexError, ValueError, struct_error):  # a broken message, or a long one: its worker says how
        return None


_STOP, _I32, _STRING, _STRUCT, _MAP = 0, 8, 11, 12, 13
_SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}
_DEEPEST = 16
#: Values that are stepped over: a front has no time to walk through a tensor of a million strings.
_MOST_STEPS = 2000


class _Walk:
    """Steps over the values of a binary message.

    Its methods raise IndexError or struct.error at the message's end, ValueError where it is too deep or too long.
    """

    def __init__(self, message: Any) -> None:
        self._message = message
        self._steps = 0

    def field(self, at: int, wanted: int, wanted_kind: int) -> int | None:
        """Where the value of a field of the struct at `at` begins."""
        message = self._message
        while (kind := message[at]) != _STOP:
            number = message[at + 1] << 8 | message[at + 2]
            at += 3
            if number == wanted:
                return at if kind == wanted_kind else None
            at = self._behind(at, kind, 0)
        return None

    def _behind(self, at: int, kind: int, depth: int) -> int:
        """Where the value of a type ends."""
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _DEEPEST:
            raise ValueError("too many values, or too deep")
        if (size := _SIZES.get(kind)) is not None:
            return at + size
        if kind == _STRING:
            return at + 4 + int(_U32(self._message, at)[0])
        if kind == _STRUCT:
            while (inner := self._message[at]) != _STOP:
                at = self._behind(at + 3, inner, depth + 1)
            return at + 1
        return self._behind_container(at, kind, depth)

    def _behind_container(self, at: int, kind: int, depth: int) -> int:
        head = 2 if kind == _MAP else 1
        kinds = [self._message[at + place] for place in range(head)]
        count = int(_U32(self._message, at + head)[0])
        at += head + 4
        if all(each in _SIZES for each in kinds):
            return at + count * sum(_SIZES[each] for each in kinds)
        for _ in range(count):
            for each in kinds:
                at = self._behind(at, each, depth + 1)
        return at

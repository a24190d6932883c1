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
        head = request.frame if request.frame is not None else _head(request)
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
        None where it is not there, or the message is none that can be followed.

        >>> call = bytes.fromhex("80010001" "00000001" "70" "00000000" "0c0001" "080004" "00000064" "00" "00")
        >>> find_i32(call, (1, 4))
        100
    """
    try:
        at = 8 + _U32(message, 4)[0] + 4
        for wanted in path[:-1]:
            found = _field(message, at, wanted, _STRUCT)
            if found is None:
                return None
            at = found
        found = _field(message, at, path[-1], _I32)
        return None if found is None else Struct("!i").unpack_from(message, found)[0]
    except (IndexError, ValueError, struct_error):  # a broken message: its worker says how
        return None


_STOP, _I32, _STRUCT = 0, 8, 12
_SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}
_DEEPEST = 16


def _field(message: Any, at: int, wanted: int, wanted_kind: int) -> int | None:
    """Where the value of a field of the struct at `at` begins."""
    while (kind := message[at]) != _STOP:
        number = message[at + 1] << 8 | message[at + 2]
        at += 3
        if number == wanted:
            return at if kind == wanted_kind else None
        at = _behind(message, at, kind, 0)
    return None


def _behind(message: Any, at: int, kind: int, depth: int) -> int:
    """Where the value of a type ends."""
    if (size := _SIZES.get(kind)) is not None:
        return at + size
    if kind == 11:
        return at + 4 + int(_U32(message, at)[0])
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if kind == _STRUCT:
        while (inner := message[at]) != _STOP:
            at = _behind(message, at + 3, inner, depth + 1)
        return at + 1
    if kind == 13:
        key, value, count = message[at], message[at + 1], _U32(message, at + 2)[0]
        kinds, at = [key, value], at + 6
    else:
        kinds, count, at = [message[at]], _U32(message, at + 1)[0], at + 5
    if all(each in _SIZES for each in kinds):
        return at + int(count) * sum(_SIZES[each] for each in kinds)
    for _ in range(count):
        for each in kinds:
            at = _behind(message, at, each, depth + 1)
            if at > len(message):
                raise ValueError("the message ends early")
    return at

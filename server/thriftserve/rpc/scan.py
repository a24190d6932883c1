"""Parts of a binary message, found by field numbers without decoding the rest.

    message --Scanner.find(path, kind)--> where that value begins        find_i32, find_string: the value
    message --cut_out--> message with marks for its large fields, their bytes as views --put_back--> decoded tensors

Strings and arrays of numbers are skipped whatever their size; a message of very many parts is not followed to its
end, because a front must not spend its time on one request.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct
from struct import error as struct_error
from typing import Any

#: Shorter fields are cheaper to copy than to cut out.
LARGE_BYTES = 32 * 1024
#: Thrift's type numbers.
STOP, I32, STRING, STRUCT, MAP = 0, 8, 11, 12, 13
_SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}
_MAX_DEPTH = 16
_MAX_STEPS = 2000
_LENGTH = Struct("!I")
_U32 = _LENGTH.unpack_from
_I32 = Struct("!i").unpack_from
_NAME_AT = 8
#: Stands in for what was cut out, with a number behind it; nobody outside can know it.
_MARK = secrets.token_bytes(16)
_MARK_BYTES = len(_MARK) + 4

#: What a message that can't be followed raises.
LOST = (IndexError, ValueError, struct_error)


def find_i32(message: bytes | memoryview, path: tuple[int, ...]) -> int | None:
    """Return an i32 within the arguments of a binary call.

    Args:
        message: the whole message, without its length.
        path: field numbers from the arguments down.

    Returns:
        None if the field is missing, the message can't be followed, or there are too many parts before it.

        >>> call = bytes.fromhex("80010001" "00000001" "70" "00000000" "0c0001" "080004" "00000064" "00" "00")
        >>> find_i32(call, (1, 4))
        100
    """
    try:
        at = Scanner(message).find(path, I32)
        return None if at is None else int(_I32(message, at)[0])
    except LOST:
        return None


def find_string(message: bytes | memoryview, path: tuple[int, ...]) -> bytes | None:
    """Return a string within the arguments of a binary call; arguments and None as for `find_i32`."""
    scanner = Scanner(message)
    try:
        at = scanner.find(path, STRING)
        if at is None or at + 4 + (size := scanner.length(at)) > len(message):
            return None
        return bytes(message[at + 4 : at + 4 + size])
    except LOST:
        return None


def cut_out(message: memoryview, paths: Mapping[str, tuple[int, ...]]) -> tuple[bytes | memoryview, list[memoryview]]:
    """Return a message with its large fields replaced by marks, and what was cut out of it.

    Args:
        message: a call under the binary protocol, without its frame's length.
        paths: for each method, where its large fields are: field numbers from the arguments down to a map of
            structs, and at the end that of a field in each of those.

    Returns:
        The same message and an empty list if it has no large field, or can't be followed (its decoder says why).
    """
    scanner = Scanner(message)
    try:
        path = paths.get(bytes(message[8 : 8 + scanner.length(4)]).decode())
        fields = [] if path is None else _large_fields(scanner, path)
    except LOST:
        fields = []
    if not fields:
        return message, []
    pieces: list[bytes | memoryview] = []
    at = 0
    for number, (start, size) in enumerate(fields):
        pieces += (message[at : start - 4], _LENGTH.pack(_MARK_BYTES), _MARK, _LENGTH.pack(number))
        at = start + size
    pieces.append(message[at:])
    return b"".join(pieces), [message[start : start + size] for start, size in fields]


def _large_fields(scanner: Scanner, path: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the large strings at the end of a path: (start, size) each."""
    fields: list[tuple[int, int]] = []
    entries = scanner.find(path[:-1], MAP)
    if entries is None:
        return fields
    for _, struct in scanner.structs(entries):
        at = scanner.field(struct, path[-1], STRING)
        if at is not None and (size := scanner.length(at)) >= LARGE_BYTES:
            if at + 4 + size > len(scanner.message):
                raise ValueError("the message ends early")
            fields.append((at + 4, size))
    return fields


def put_back(tensors: Iterable[Any], views: list[memoryview], *, copied: bool) -> None:
    """Give tensors (anything with a `content`) what was cut out of their message.

    Args:
        tensors: those of the message; small ones still have their content.
        views: what was cut out.
        copied: whether the content may be used for longer than its message is in memory.
    """
    for tensor in tensors:
        content = tensor.content
        if content is not None and len(content) == _MARK_BYTES and content.startswith(_MARK):
            view = views[_U32(content, len(_MARK))[0]]
            tensor.content = bytes(view) if copied else view


class Scanner:
    """Steps over the values of a message, given without its frame's length.

    Its methods raise one of `LOST` at the message's end, or if it is too deep or too long.
    """

    def __init__(self, message: bytes | memoryview) -> None:
        self.message = message
        self._steps = 0

    @property
    def arguments(self) -> int:
        """Where the struct of the call's arguments begins."""
        return _NAME_AT + self.length(4) + 4

    def length(self, at: int) -> int:
        """Return the length or count at a place."""
        return int(_U32(self.message, at)[0])

    def find(self, path: tuple[int, ...], kind: int) -> int | None:
        """Return where the value at the end of a path of field numbers, through structs, begins; None if missing."""
        at: int | None = self.arguments
        for number in path[:-1]:
            at = None if at is None else self.field(at, number, STRUCT)
        return None if at is None else self.field(at, path[-1], kind)

    def field(self, struct: int, number: int, kind: int) -> int | None:
        """Return where a field's value of the struct at a place begins; None if none has that number and kind."""
        field_kind, at = self._find_field(struct, number)
        return at if field_kind == kind else None

    def reach(self, path: tuple[int, ...]) -> Iterator[tuple[tuple[bytes, ...], tuple[int, int]]]:
        """Yield the keys of the maps on the way, and beginning and end, of each value at the end of a path.

        A map of structs on the way leads to a value in each. The span of a string is without its length. A field that
        was sent twice is a ValueError: only the decoder can say which one counts.
        """
        places: list[tuple[tuple[bytes, ...], int]] = [((), self.arguments)]
        for depth, number in enumerate(path, 1):
            last, structs = depth == len(path), []
            for keys, struct in places:
                kind, at = self._find_field(struct, number)
                if kind != STOP and self._find_field(self.end(at, kind), number)[0] != STOP:
                    raise ValueError(f"field {number} was sent twice")
                if last and kind != STOP:
                    yield keys, (at + 4 if kind == STRING else at, self.end(at, kind))
                elif kind == STRUCT:
                    structs.append((keys, at))
                elif kind == MAP:
                    structs += [((*keys, key), inner) for key, inner in self.structs(at)]
            places = structs

    def _find_field(self, at: int, wanted: int) -> tuple[int, int]:
        """Return the kind of a field of the struct at a place, and where its value begins; STOP if it is missing."""
        message = self.message
        while (kind := message[at]) != STOP:
            number = message[at + 1] << 8 | message[at + 2]
            at += 3
            if number == wanted:
                break
            at = self.end(at, kind)
        return kind, at

    def structs(self, at: int) -> Iterator[tuple[bytes, int]]:
        """Yield the key of each entry of a map of structs, and where its struct begins; nothing of any other map."""
        key_kind, kind = self.message[at], self.message[at + 1]
        if kind != STRUCT:
            return
        count, at = self.length(at + 2), at + 6
        for _ in range(count):
            key_at, at = at, self.end(at, key_kind)
            yield bytes(self.message[key_at + 4 : at] if key_kind == STRING else self.message[key_at:at]), at
            at = self.end(at, STRUCT)

    def end(self, at: int, kind: int, depth: int = 0) -> int:
        """Return where a value of a type ends."""
        self._steps += 1
        if self._steps > _MAX_STEPS or depth > _MAX_DEPTH:
            raise ValueError("too many values, or too deep")
        if (size := _SIZES.get(kind)) is not None:
            return at + size
        if kind == STRING:
            return at + 4 + self.length(at)
        if kind == STRUCT:
            while (inner := self.message[at]) != STOP:
                at = self.end(at + 3, inner, depth + 1)
            return at + 1
        return self._container_end(at, kind, depth)

    def _container_end(self, at: int, kind: int, depth: int) -> int:
        head = 2 if kind == MAP else 1
        kinds = [self.message[at + place] for place in range(head)]
        count = self.length(at + head)
        at += head + 4
        if all(kind in _SIZES for kind in kinds):
            return at + count * sum(_SIZES[kind] for kind in kinds)
        for _ in range(count):
            for kind in kinds:
                at = self.end(at, kind, depth + 1)
        return at

"""Parts of a binary message found by field numbers, without decoding the rest.

message --find(path, kind)--> where that value begins        Walk: over one value to the next

Strings and arrays of numbers are stepped over whatever their size; a message of very many parts is not followed
to its end, for whoever looks has other things to do.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct
from struct import error as struct_error
from typing import Any

# Large binary fields of a message, left where they are.

#: Shorter fields are cheaper to copy than to cut out.
LARGE_BYTES = 32 * 1024
_LENGTH = Struct("!I")
#: Stands in for what was cut out, with a number behind it; nobody outside can know it.
_MARK = secrets.token_bytes(16)
_MARK_BYTES = len(_MARK) + 4


def cut_out(message: memoryview, paths: Mapping[str, tuple[int, ...]]) -> tuple[bytes, list[memoryview]] | None:
    """A message with its large fields replaced by marks.

    Args:
        message: a call under the binary protocol, without its frame's length.
        paths: for each method, where its large fields are: field numbers from the arguments down to a map of
            structs, and at the end that of a field in each of those.

    Returns:
        The message and what was cut out of it; None where nothing was, or where the message can't be followed
        (whoever decodes it says why).
    """
    walk = Scanner(message)
    try:
        path = paths.get(bytes(message[8 : 8 + walk.length(4)]).decode())
        found = [] if path is None else _large_fields(walk, path)
    except LOST:
        return None
    if not found:
        return None
    pieces: list[bytes | memoryview] = []
    at = 0
    for number, (start, size) in enumerate(found):
        pieces += (message[at : start - 4], _LENGTH.pack(_MARK_BYTES), _MARK, _LENGTH.pack(number))
        at = start + size
    pieces.append(message[at:])
    return b"".join(pieces), [message[start : start + size] for start, size in found]


def _large_fields(walk: Scanner, path: tuple[int, ...]) -> list[tuple[int, int]]:
    """The large strings at the end of a path: (start, size) each."""
    found: list[tuple[int, int]] = []
    entries = walk.find(path[:-1], MAP)
    if entries is None:
        return found
    for _, at in walk.structs(entries):
        field = walk.field(at, path[-1], STRING)
        if field is not None and (size := walk.length(field)) >= LARGE_BYTES:
            if field + 4 + size > len(walk.message):
                raise ValueError("the message ends early")
            found.append((field + 4, size))
    return found


def put_back(tensors: Iterable[Any], views: list[memoryview], *, copied: bool) -> None:
    """Gives tensors (anything with a `content`) what was cut out of their message.

    Args:
        tensors: some of them may have kept their content.
        views: what was cut out.
        copied: True where the content may be kept for longer than its message is in memory.
    """
    for tensor in tensors:
        content = tensor.content
        if content is not None and len(content) == _MARK_BYTES and content.startswith(_MARK):
            view = views[_LENGTH.unpack_from(content, len(_MARK))[0]]
            tensor.content = bytes(view) if copied else view


STOP, I32, STRING, STRUCT, MAP = 0, 8, 11, 12, 13
_SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}
_DEEPEST = 16
_MOST_STEPS = 2000
_U32 = Struct("!I").unpack_from
_I32 = Struct("!i").unpack_from
_NAME_AT = 8

#: What a message that can't be followed raises.
LOST = (IndexError, ValueError, struct_error)


class Scanner:
    """Steps over the values of a message, given without its frame's length.

    Its methods raise one of `LOST` at the message's end, or where it is too deep or too long.
    """

    def __init__(self, message: bytes | memoryview) -> None:
        self.message = message
        self._steps = 0

    @property
    def arguments(self) -> int:
        """Where the struct of the call's arguments begins."""
        return _NAME_AT + self.length(4) + 4

    def length(self, at: int) -> int:
        """The length or count that stands at `at`."""
        return int(_U32(self.message, at)[0])

    def find(self, path: tuple[int, ...], kind: int) -> int | None:
        """Where the value at the end of a path of field numbers begins, structs on the way; None: it is not there."""
        at: int | None = self.arguments
        for number in path[:-1]:
            at = None if at is None else self.field(at, number, STRUCT)
        return None if at is None else self.field(at, path[-1], kind)

    def field(self, at: int, wanted: int, wanted_kind: int) -> int | None:
        """Where the value of a field of the struct at `at` begins; None where it has none of that number and kind."""
        kind, at = self._any_field(at, wanted)
        return at if kind == wanted_kind else None

    def reach(self, path: tuple[int, ...]) -> Iterator[tuple[tuple[bytes, ...], tuple[int, int]]]:
        """Where values at the end of a path of field numbers begin and end, with the keys of the maps on the way.

        A map of structs on the way leads to a value in each. Of a string the span is without its length. A field that
        was sent twice is a ValueError: which one counts is the decoder's to say.
        """
        places: list[tuple[tuple[bytes, ...], int]] = [((), self.arguments)]
        for depth, number in enumerate(path, 1):
            last, found = depth == len(path), []
            for keys, struct in places:
                kind, at = self._any_field(struct, number)
                if kind != STOP and self._any_field(self.behind(at, kind), number)[0] != STOP:
                    raise ValueError(f"field {number} was sent twice")
                if last and kind != STOP:
                    yield keys, (at + 4 if kind == STRING else at, self.behind(at, kind))
                elif kind == STRUCT:
                    found.append((keys, at))
                elif kind == MAP:
                    found += [((*keys, key), each) for key, each in self.structs(at)]
            places = found

    def _any_field(self, at: int, wanted: int) -> tuple[int, int]:
        """The kind of a field of the struct at `at`, and where its value begins; STOP where it has no such field."""
        message = self.message
        while (kind := message[at]) != STOP:
            number = message[at + 1] << 8 | message[at + 2]
            at += 3
            if number == wanted:
                break
            at = self.behind(at, kind)
        return kind, at

    def structs(self, at: int) -> Iterator[tuple[bytes, int]]:
        """The key of each entry of a map of structs, and where its struct begins; nothing of any other map."""
        key_kind, kind = self.message[at], self.message[at + 1]
        if kind != STRUCT:
            return
        count, at = self.length(at + 2), at + 6
        for _ in range(count):
            key_at, at = at, self.behind(at, key_kind)
            yield bytes(self.message[key_at + 4 : at] if key_kind == STRING else self.message[key_at:at]), at
            at = self.behind(at, STRUCT)

    def behind(self, at: int, kind: int, depth: int = 0) -> int:
        """Where the value of a type ends."""
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _DEEPEST:
            raise ValueError("too many values, or too deep")
        if (size := _SIZES.get(kind)) is not None:
            return at + size
        if kind == STRING:
            return at + 4 + self.length(at)
        if kind == STRUCT:
            while (inner := self.message[at]) != STOP:
                at = self.behind(at + 3, inner, depth + 1)
            return at + 1
        return self._behind_container(at, kind, depth)

    def _behind_container(self, at: int, kind: int, depth: int) -> int:
        head = 2 if kind == MAP else 1
        kinds = [self.message[at + place] for place in range(head)]
        count = self.length(at + head)
        at += head + 4
        if all(each in _SIZES for each in kinds):
            return at + count * sum(_SIZES[each] for each in kinds)
        for _ in range(count):
            for each in kinds:
                at = self.behind(at, each, depth + 1)
        return at


def find_i32(message: bytes | memoryview, path: tuple[int, ...]) -> int | None:
    """An i32 within the arguments of a binary call.

    Args:
        message: the whole message, without its length.
        path: field numbers from the arguments down.

    Returns:
        None where it is not there, the message is none that can be followed, or it stands behind too many parts.

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
    """A string within the arguments of a binary call; arguments and None as for `find_i32`."""
    walk = Scanner(message)
    try:
        at = walk.find(path, STRING)
        if at is None or at + 4 + (size := walk.length(at)) > len(message):
            return None
        return bytes(message[at + 4 : at + 4 + size])
    except LOST:
        return None

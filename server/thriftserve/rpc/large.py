"""Large binary fields of a message, left where they are.

    message in shared memory --cut_out()--> the message without them, small --C decoder--> struct --put_back()--> struct

The decoder copies every field. A tensor of a megabyte is copied once less where it is cut out before, and its
field becomes a view of the memory in which it arrived. Binary protocol only.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from struct import Struct
from struct import error as struct_error
from typing import Any

#: Shorter fields are cheaper to copy than to cut out.
LARGE_BYTES = 32 * 1024
_U32 = Struct("!I")
_STOP, _STRING, _STRUCT, _MAP = 0, 11, 12, 13
_SIZES = {2: 1, 3: 1, 4: 8, 6: 2, 8: 4, 10: 8}
_DEEPEST = 16
#: Stands in for what was cut out, with a number behind it; nobody outside can know it.
_MARK = secrets.token_bytes(16)
_MARK_BYTES = len(_MARK) + 4


def cut_out(message: memoryview, paths: Mapping[str, tuple[int, ...]]) -> tuple[bytes, list[memoryview]] | None:
    """A message with its large fields replaced by marks.

    Args:
        message: a call under the binary protocol, without its frame's length.
        paths: for each method, where its large fields are: field numbers from the arguments down; a list's or a
            map's members count as the field's own.

    Returns:
        The message and what was cut out of it; None where nothing was, or where the message can't be followed
        (whoever decodes it says why).
    """
    found: list[tuple[int, int]] = []
    try:
        size = _U32.unpack_from(message, 4)[0]
        path = paths.get(bytes(message[8 : 8 + size]).decode())
        if path is None:
            return None
        _walk_struct(message, 12 + size, path, 0, found)
    except (IndexError, ValueError, struct_error):
        return None
    if not found:
        return None
    pieces: list[bytes | memoryview] = []
    at = 0
    for number, (start, size) in enumerate(found):
        pieces += (message[at : start - 4], _U32.pack(_MARK_BYTES), _MARK, _U32.pack(number))
        at = start + size
    pieces.append(message[at:])
    return b"".join(pieces), [message[start : start + size] for start, size in found]


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
            view = views[_U32.unpack_from(content, len(_MARK))[0]]
            tensor.content = bytes(view) if copied else view


_Path = tuple[int, ...] | None


def _walk_struct(message: memoryview, at: int, path: _Path, depth: int, found: list[tuple[int, int]]) -> int:
    """Where the struct at `at` ends; notes the large strings at the end of `path`, (start, size) each."""
    while (kind := message[at]) != _STOP:
        number = message[at + 1] << 8 | message[at + 2]
        further = path[1:] if path and path[0] == number else None
        at = _walk(message, at + 3, kind, further, depth, found)
    return at + 1


def _walk(message: memoryview, at: int, kind: int, path: _Path, depth: int, found: list[tuple[int, int]]) -> int:
    if (fixed := _SIZES.get(kind)) is not None:
        return at + fixed
    if kind == _STRING:
        size = int(_U32.unpack_from(message, at)[0])
        if path == () and size >= LARGE_BYTES:
            if at + 4 + size > len(message):
                raise ValueError("the message ends early")
            found.append((at + 4, size))
        return at + 4 + size
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if kind == _STRUCT:
        return _walk_struct(message, at, path, depth + 1, found)
    if kind == _MAP:
        kinds: tuple[int, ...] = (message[at], message[at + 1])
        count, at = _U32.unpack_from(message, at + 2)[0], at + 6
    else:
        kinds = (message[at],)
        count, at = _U32.unpack_from(message, at + 1)[0], at + 5
    if all(each in _SIZES for each in kinds):
        return at + int(count) * sum(_SIZES[each] for each in kinds)
    for _ in range(count):
        for each in kinds:
            at = _walk(message, at, each, path, depth + 1, found)
        if at > len(message):
            raise ValueError("the message ends early")
    return at

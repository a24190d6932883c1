"""Large binary fields of a message, left where they are.

    message in shared memory --cut_out()--> the message without them, small --C decoder--> struct --put_back()--> struct

The decoder copies every field. A tensor of a megabyte is copied once less where it is cut out before, and its
field becomes a view of the memory in which it arrived. Binary protocol only.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Any

from thriftserve.rpc.walk import LOST, MAP, STRING, Walk

#: Shorter fields are cheaper to copy than to cut out.
LARGE_BYTES = 32 * 1024
_U32 = Struct("!I")
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
    walk = Walk(message)
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
        pieces += (message[at : start - 4], _U32.pack(_MARK_BYTES), _MARK, _U32.pack(number))
        at = start + size
    pieces.append(message[at:])
    return b"".join(pieces), [message[start : start + size] for start, size in found]


def _large_fields(walk: Walk, path: tuple[int, ...]) -> list[tuple[int, int]]:
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
            view = views[_U32.unpack_from(content, len(_MARK))[0]]
            tensor.content = bytes(view) if copied else view

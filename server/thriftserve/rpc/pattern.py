"""Messages that are the same but for some of their parts.

a message, paths of what varies --pattern_of()--> Pattern --parts_of(another one)--> its parts | None: it is not alike
                                                          `--made(parts)--> a message
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from thriftserve.rpc.walk import LOST, Walk

#: Field numbers, from a message's struct down.
Path = tuple[int, ...]


class Part(NamedTuple):
    """A part of a message: which path led there, the keys of the maps on the way, and its bytes."""

    path: Path
    keys: tuple[bytes, ...]
    value: bytes


class Pattern:
    """A message, and where others may differ from it.

    >>> pattern = Pattern(b"x = 12, y = 34;", [(4, 6), (12, 14)])
    >>> pattern.parts_of(b"x = 56, y = 78;")
    (b'56', b'78')
    >>> pattern.parts_of(b"x = 56, z = 78;") is None
    True
    >>> pattern.made([b"90", b"12"])
    b'x = 90, y = 12;'

    Args:
        message: any of them.
        spans: beginning and end of each part that varies, in order.
    """

    __slots__ = ("_all", "_fixed", "_unpack")

    def __init__(self, message: bytes, spans: Iterable[tuple[int, int]]) -> None:
        at = 0
        layout = "="
        self._all: list[bytes] = []
        for start, end in spans:
            layout += f"{start - at}s{end - start}s"
            self._all += (message[at:start], b"")
            at = end
        self._all.append(message[at:])
        self._unpack: Callable[[bytes], tuple[bytes, ...]] = Struct(f"{layout}{len(message) - at}s").unpack
        self._fixed = tuple(self._all[::2])

    def parts_of(self, message: bytes) -> tuple[bytes, ...] | None:
        """The parts that vary of a message of the same size; None where it differs elsewhere, too."""
        every = self._unpack(message)
        return every[1::2] if every[::2] == self._fixed else None

    def made(self, parts: Sequence[bytes]) -> bytes:
        """The message with these parts, each of the size that it had."""
        every = self._all.copy()
        every[1::2] = parts
        return b"".join(every)


def pattern_of(message: bytes, paths: Sequence[Path]) -> tuple[Pattern, list[Part]] | None:
    """The pattern of messages that differ in their number and at the ends of these paths.

    Returns:
        The pattern, whose first part is the message's number, and its other parts in their order; None where the
        message can't be followed.
    """
    walk = Walk(message)
    try:
        number = walk.arguments - 4
        found = sorted((span, path, keys) for path in paths for keys, span in walk.reach(path))
    except LOST:
        return None
    pattern = Pattern(message, [(number, number + 4), *(span for span, _, _ in found)])
    return pattern, [Part(path, keys, message[slice(*span)]) for span, path, keys in found]

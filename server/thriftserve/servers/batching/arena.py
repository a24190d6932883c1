"""Memory that a front and its workers share, for the frames that are too large to send twice.

    front: allocate(size) -> Block --recv_into--> the client's bytes     worker: read(offset, size) -> bytes

The front reads a large frame off its client's socket straight into a block; a worker is told the place.
A block takes addresses, of which there are plenty, and memory only as bytes come: those are counted elsewhere.
Lower addresses go first, so that a quiet server keeps using the same few pages.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from bisect import bisect_left, insort

_ALIGN = 4096


class Block:
    """A piece of an arena. Free it once."""

    __slots__ = ("offset", "size", "view")

    def __init__(self, offset: int, size: int, view: memoryview) -> None:
        self.offset = offset
        self.size = size
        #: Writable, of the size asked for.
        self.view = view


class Arena:
    """The front's end: hands out blocks.

    Args:
        size: bytes; memory is taken as it is used.
        kept: bytes at its beginning whose memory is kept for the next blocks; what lies behind goes back with its
            block. None: all.
    """

    def __init__(self, size: int, kept: int | None = None) -> None:
        self.size = _rounded(size)
        self._kept = self.size if kept is None else min(self.size, _rounded(kept))
        self.fd = os.memfd_create("thriftserve-arena", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._map = mmap.mmap(self.fd, self.size)
        self._view = memoryview(self._map)
        self._free: list[tuple[int, int]] = [(0, self.size)]
        self._touched = 0

    def allocate(self, size: int) -> Block | None:
        """A block of at least `size` bytes; None where there is no room for it."""
        whole = _rounded(size)
        for place, (offset, free) in enumerate(self._free):
            if free >= whole:
                if free == whole:
                    del self._free[place]
                else:
                    self._free[place] = (offset + whole, free - whole)
                self._touched = min(self._kept, max(self._touched, offset + whole))
                return Block(offset, whole, self._view[offset : offset + size])
        return None

    def free(self, block: Block) -> None:
        """Takes a block back; its neighbours that are free and it become one."""
        block.view.release()
        offset, size = block.offset, block.size
        if offset + size > self._kept:
            begin = max(offset, self._kept)
            self._map.madvise(mmap.MADV_REMOVE, begin, offset + size - begin)
        place = bisect_left(self._free, (offset, 0))
        if place < len(self._free) and self._free[place][0] == offset + size:
            size += self._free.pop(place)[1]
        if place and sum(self._free[place - 1]) == offset:
            before, its_size = self._free.pop(place - 1)
            offset, size = before, its_size + size
        insort(self._free, (offset, size))

    def trim(self) -> None:
        """Gives the memory behind the last block in use back to the system."""
        first = self._free[-1][0] if self._free and sum(self._free[-1]) == self.size else self.size
        if first < self._touched:
            self._map.madvise(mmap.MADV_REMOVE, first, self._touched - first)
            self._touched = first


class SharedFrames:
    """A worker's end: reads what a front put there."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of a block."""
        return self._map[offset : offset + size]

    def view(self, offset: int, size: int) -> memoryview:
        """The same in place: they stay as they are until the front takes the block back."""
        return memoryview(self._map)[offset : offset + size]

    def close(self) -> None:
        """Ends this process's hold of it; what still has a view ends it with that."""
        with contextlib.suppress(BufferError):
            self._map.close()


def _rounded(size: int) -> int:
    return max(_ALIGN, -(-size // _ALIGN) * _ALIGN)

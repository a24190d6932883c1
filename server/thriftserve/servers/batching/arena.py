"""Memory that a front and its workers share, for the frames that are too large to send twice.

    front: allocate(size) -> Block --recv_into--> the client's bytes     worker: read(offset, size) -> bytes

The front reads a large frame off its client's socket straight into a block; a worker is sent its place. A block takes
addresses, of which there are plenty, and memory only as bytes come: `MemoryBudget` counts those. Lower addresses go
first, so that a quiet server keeps using the same few pages.
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
    """The front's end: allocates blocks. One thread uses it.

    Args:
        size: bytes; memory is taken as it is used.
        resident: bytes at its beginning whose memory stays for the next blocks; what lies behind goes back with its
            block. None: all.
    """

    def __init__(self, size: int, resident: int | None = None) -> None:
        self.size = _rounded(size)
        self._resident = self.size if resident is None else min(self.size, _rounded(resident))
        self.fd = os.memfd_create("thriftserve-arena", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self._map = mmap.mmap(self.fd, self.size)
        self._view = memoryview(self._map)
        self._free: list[tuple[int, int]] = [(0, self.size)]
        self._touched = 0

    @property
    def free_bytes(self) -> int:
        """Bytes that no block has."""
        return sum(size for _, size in self._free)

    def allocate(self, size: int) -> Block | None:
        """Return a block of at least `size` bytes; None if there is no room for it."""
        size_taken = _rounded(size)
        for place, (offset, free) in enumerate(self._free):
            if free >= size_taken:
                if free == size_taken:
                    del self._free[place]
                else:
                    self._free[place] = (offset + size_taken, free - size_taken)
                self._touched = min(self._resident, max(self._touched, offset + size_taken))
                return Block(offset, size_taken, self._view[offset : offset + size])
        return None

    def free(self, block: Block) -> None:
        """Free a block, and join it with its neighbours that are free."""
        block.view.release()
        offset, size = block.offset, block.size
        if offset + size > self._resident:
            begin = max(offset, self._resident)
            self._map.madvise(mmap.MADV_REMOVE, begin, offset + size - begin)
        place = bisect_left(self._free, (offset, 0))
        if place < len(self._free) and self._free[place][0] == offset + size:
            size += self._free.pop(place)[1]
        if place and sum(self._free[place - 1]) == offset:
            before, its_size = self._free.pop(place - 1)
            offset, size = before, its_size + size
        insort(self._free, (offset, size))

    def trim(self) -> None:
        """Give the memory behind the last block in use back to the system."""
        first = self._free[-1][0] if self._free and sum(self._free[-1]) == self.size else self.size
        if first < self._touched:
            self._map.madvise(mmap.MADV_REMOVE, first, self._touched - first)
            self._touched = first


class SharedFrames:
    """A worker's end: reads the frames that a front put there."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of a block's bytes."""
        return self._map[offset : offset + size]

    def view(self, offset: int, size: int) -> memoryview:
        """Return a block's bytes in place: they stay as they are until the front frees the block."""
        return memoryview(self._map)[offset : offset + size]

    def close(self) -> None:
        """Unmap the arena; a view that is still used keeps it mapped."""
        with contextlib.suppress(BufferError):
            self._map.close()


def _rounded(size: int) -> int:
    return max(_ALIGN, -(-size // _ALIGN) * _ALIGN)

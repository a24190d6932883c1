"""Memory for large messages, used again for later ones.

    take(size) --buffer--> recv_into --> decoder, which copies what it finds --> give(buffer) --> take(size)

Fresh memory costs about as much as a copy of the message: it is cleared, page by page. A buffer that is never given
back is left to Python, like any other object.
"""

from __future__ import annotations

from io import BytesIO
from threading import Lock

#: What a process keeps, at most, of what no message uses.
KEPT_BYTES = 32 * 1024 * 1024


class Buffer(BytesIO):
    """A buffer, and the size that it was made for."""

    __slots__ = ("capacity",)

    def __init__(self, size: int) -> None:
        super().__init__(bytes(size))
        self.capacity = size


class Buffers:
    """Buffers that wait for their next message, the one used last in front. Any thread may call its methods."""

    def __init__(self, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self._lock = Lock()
        self._free: list[Buffer] = []
        self._held = 0

    def take(self, size: int) -> Buffer:
        """A buffer of exactly `size` bytes, at its beginning; whatever was in it may still be."""
        with self._lock:
            for at, buffer in enumerate(self._free):
                if size <= buffer.capacity <= 2 * size:  # one cut to less than half would lose its memory
                    del self._free[at]
                    self._held -= buffer.capacity
                    break
            else:
                return Buffer(size)
        buffer.truncate(size)
        if buffer.seek(0, 2) < size:
            buffer.seek(size - 1)
            buffer.write(b"\0")
        buffer.seek(0)
        return buffer

    def give(self, buffer: Buffer) -> None:
        """Keeps a buffer that nobody reads any more."""
        with self._lock:
            self._free.insert(0, buffer)
            self._held += buffer.capacity
            while self._held > self._kept_bytes:
                self._held -= self._free.pop().capacity


#: The process's own.
buffers = Buffers(KEPT_BYTES)

"""The frames of one client, cut out of whatever its socket gives.

    bytes --feed()--> next_frame() --> a small frame, as it came
                      a large one: read_large() --> its block in the arena | its head, if there is no room

A large frame is read straight into the arena once a part of it has really come: a client that only announces one
occupies nothing. A frame that there is no room for is read and discarded, except for the head, which says whom to
refuse.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from thriftserve.servers.batching.admission import RESERVE_BYTES, MemoryBudget
from thriftserve.servers.batching.ipc import Block
from thriftserve.servers.batching.request_queue import Clock
from thriftserve_client.wire.framing import HEADER_BYTES, frame_end
from thriftserve_client.wire.message_socket import ChannelClosed

#: A frame with more than this still to come is a large one. A worker is sent the others themselves, and only so many
#: at once as its socket takes: photos of 80 KB would never share a run.
_STILL_TO_COME_BYTES = 8 * 1024
#: Reads of a large frame in a row, before other clients get their turn.
_READS = 8
#: So much of a large frame is to be there before the front is woken for it.
_WAKE_BYTES = 256 * 1024
#: What is kept of a frame that is discarded: enough to refuse it by name.
_HEAD_BYTES = 2048
#: Where discarded bytes go; all readers share it.
_DISCARDED = memoryview(bytearray(1 << 20))


class FrameReader:
    """Cuts the frames of one connection.

    Args:
        budget: counts what has come of frames that are not whole.
        clock: the front's.
        allocate: returns the block for a large frame of a size, or None if that frame is to be refused.
        max_bytes: the largest message.
        flags: of each read.
        sets_low_water: whether the kernel is asked to wait for more bytes; it can't tell under TLS.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        clock: Clock,
        allocate: Callable[[int], Block | None],
        max_bytes: int,
        flags: int,
        *,
        sets_low_water: bool,
    ) -> None:
        self._budget = budget
        self._clock = clock
        self._allocate = allocate
        self._max_bytes = max_bytes
        self._flags = flags
        self._sets_low_water = sets_low_water
        self._low_water = 1
        #: Bytes that are not cut into frames yet.
        self.buffer = b""
        self._at = 0
        #: The size of a large frame's message, and its first bytes, while it has no block.
        self._size = self._total = 0
        self._first_bytes = b""
        self._counted = 0
        self._moved_at = 0.0
        self._block: Block | None = None
        self._filled = 0
        self._discard = 0
        self._head = b""
        #: True if the next bytes belong to a large frame: call `read_large`.
        self.large = False

    @property
    def partial(self) -> bool:
        """True between a message's first byte and its last."""
        return self.large or bool(self.buffer)

    @property
    def silent_s(self) -> float:
        """Seconds since more came of a partial message; 0 if there is none."""
        return self._clock.now - self._moved_at if self._counted else 0.0

    def feed(self, data: bytes) -> None:
        """Append bytes as they came."""
        self.buffer = self.buffer[self._at :] + data
        self._at = 0

    def next_frame(self) -> bytes | None:
        """Return the next small frame that is whole; None if more bytes are needed.

        Raises:
            FrameError: its length is negative or over the limit.
        """
        buffer, at = self.buffer, self._at
        end = frame_end(buffer, self._max_bytes, at)
        if end is not None:
            if end <= len(buffer):
                self._at = end
                return buffer[at:end]
            if end - len(buffer) > _STILL_TO_COME_BYTES:
                self.large, self._first_bytes = True, buffer[at + HEADER_BYTES :]
                self._size = self._total = end - at - HEADER_BYTES
                at = len(buffer)
        self.buffer, self._at = buffer[at:], 0
        self._count(len(self._first_bytes) if self.large else len(self.buffer))
        return None

    def drop(self) -> None:
        """Drop the bytes that are not cut into frames."""
        self.buffer, self._at = b"", 0
        self._count(0)

    def _count(self, total: int) -> None:
        """Count what is held of a partial message now."""
        if total != self._counted:
            self._budget.change_partial(total - self._counted)
            self._counted = total
        self._moved_at = self._clock.now

    def too_slow(self, age_s: float, limit_s: float) -> bool:
        """Return whether a large message that began `age_s` ago will not be whole within `limit_s` at its pace."""
        return self.large and 0 < self._counted * limit_s < self._total * age_s

    # Large frames

    def await_large(self, sock: socket.socket) -> None:
        """Have the kernel report a large frame once enough of it is there."""
        self._set_low_water(sock, min(self._size - len(self._first_bytes), RESERVE_BYTES))

    def read_large(self, sock: socket.socket) -> bool:
        """Read on in a large frame; return True once it is whole: call `pop_large`.

        Raises:
            ChannelClosed: the client closed in the middle of it.
            OSError: the connection broke, or has no more yet.
        """
        if self._size and not self._reserve(sock):
            return False
        for _ in range(_READS):
            if not self._missing or self._read_part(sock):
                break
        missing = self._missing
        self._set_low_water(sock, min(missing, _WAKE_BYTES) if missing else 1)
        return not missing

    @property
    def _missing(self) -> int:
        """Bytes of a large frame that are still to come."""
        return len(self._block.view) - self._filled if self._block is not None else self._discard

    def _reserve(self, sock: socket.socket) -> bool:
        """Get a block for a frame of which enough has come, or begin to discard it; return False if too little has."""
        size, data = self._size, self._first_bytes
        enough = min(size, RESERVE_BYTES)
        if not self._sets_low_water and len(data) < enough:
            more = sock.recv(enough - len(data))
            if not more:
                raise ChannelClosed("the peer closed in the middle of a message")
            self._first_bytes = data = data + more
            self._count(len(data))
            if len(data) < enough:
                return False
        self._size, self._first_bytes = 0, b""
        self._filled = len(data)
        self._block = block = self._allocate(size)
        if block is None:
            self._begin_discard(size, data)
        else:
            block.view[: len(data)] = data
        return True

    def _begin_discard(self, size: int, data: bytes | memoryview) -> None:
        self._head = size.to_bytes(HEADER_BYTES, "big") + bytes(data[:_HEAD_BYTES])
        self._discard = size - self._filled
        self._count(0)

    def _read_part(self, sock: socket.socket) -> bool:
        """Read on; return True if the socket had less than was asked for."""
        block = self._block
        space = _DISCARDED[: self._discard] if block is None else block.view[self._filled :]
        size = sock.recv_into(space, 0, self._flags)
        if not size:
            raise ChannelClosed("the peer closed in the middle of a message")
        if block is None:
            self._discard -= size
        else:
            self._filled += size
            self._count(self._filled)
            if self._budget.exceeded and self._filled < len(block.view):
                self._block = None
                self._begin_discard(len(block.view), block.view[: self._filled])
                self._budget.free(block)
        return size < len(space)

    def _set_low_water(self, sock: socket.socket, size: int) -> None:
        """Have the kernel wait for so many bytes before it reports them: waking for each packet costs more."""
        if self._sets_low_water and size != self._low_water:
            self._low_water = size
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def pop_large(self) -> tuple[bytes, Block | None, int]:
        """Return the large frame that is whole now: its head if it was discarded, or its block; and its size."""
        self.large = False
        self._count(0)
        block, self._block = self._block, None
        if block is None:
            return self._head, None, len(self._head) - HEADER_BYTES
        return b"", block, self._filled

    def close(self) -> None:
        """Free what is held of a frame that will not come whole."""
        self.drop()
        self._first_bytes = b""
        block, self._block = self._block, None
        if block is not None:
            self._budget.free(block)

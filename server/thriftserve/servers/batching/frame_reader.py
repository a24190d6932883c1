"""The frames of one client, cut out of whatever its socket gives.

    bytes --feed()--> next_frame() --> a small frame, as it came
                      a large one: read_large() --> its block in the arena | its head, where there is no room

A large frame is read straight into the arena once a part of it has really come: who only announces one holds
nothing. One that there is no room for is read and thrown away, but for as much of it as tells whom to refuse.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from thriftserve_client.wire.framing import HEADER_BYTES, frame_length
from thriftserve_client.wire.message_socket import ChannelClosed

if TYPE_CHECKING:
    from thriftserve.servers.batching.admission import AdmissionControl
    from thriftserve.servers.batching.arena import Block

#: A frame with more than this still to come is a large one. A worker is sent the others themselves, and only so many
#: at once as its socket takes: photos of 80 KB would never share a run.
_STILL_TO_COME_BYTES = 8 * 1024
#: So much of a large frame, or all of it, is to be there before it gets a block; without TLS it waits in the kernel.
RESERVE_BYTES = 64 * 1024
#: Reads of a large frame in a row, before others get their turn.
_READS = 8
#: So much of a large frame is to be there before the front is woken for it.
_WAKE_BYTES = 256 * 1024
#: What is kept of a frame that is too much to hold: enough to refuse it by name.
_HEAD_BYTES = 2048


class FrameReader:
    """What came of a client's frames that are not whole.

    Args:
        door: has the room for large ones.
        max_bytes: the largest message.
        flags: of each read.
        wakes: whether the kernel may be asked to wait for more; under TLS it does not know what is in a record.
    """

    def __init__(self, door: AdmissionControl, max_bytes: int, flags: int, wakes: bool) -> None:
        self._door = door
        self._max_bytes = max_bytes
        self._flags = flags
        self._wakes = wakes
        self._low_water = 1
        #: Bytes that no frame was made of yet.
        self.buffer = b""
        self._at = 0
        #: The message's size, and its first bytes, of a large frame that has no block yet.
        self._size = self._total = 0
        self._have = b""
        self._counted = 0
        self._moved = 0.0
        self._block: Block | None = None
        self._filled = 0
        self._discard = 0
        self._head = b""
        #: True where the next bytes are a large frame's: call `read_large`.
        self.large = False

    @property
    def partial(self) -> bool:
        """True where part of a message came, and the rest is to come."""
        return self.large or bool(self.buffer)

    def feed(self, data: bytes) -> None:
        """Takes bytes as they came."""
        self.buffer = self.buffer[self._at :] + data
        self._at = 0

    def next_frame(self) -> bytes | None:
        """The next small frame that is whole; None where more bytes are needed.

        Raises:
            FrameError: its length is negative or over the limit.
        """
        buffer, at = self.buffer, self._at
        if len(buffer) - at >= HEADER_BYTES:
            size = frame_length(buffer, self._max_bytes, at)
            end = at + HEADER_BYTES + size
            if end <= len(buffer):
                self._at = end
                return buffer[at:end]
            if end - len(buffer) > _STILL_TO_COME_BYTES:
                self.large, self._have = True, buffer[at + HEADER_BYTES :]
                self._size = self._total = size
                at = len(buffer)
        self.buffer, self._at = buffer[at:], 0
        self._count(len(self._have) if self.large else len(self.buffer))
        return None

    def drop(self) -> None:
        """Forgets the bytes that no frame was made of."""
        self.buffer, self._at = b"", 0
        self._count(0)

    def _count(self, total: int) -> None:
        """Tells the door how much is held now."""
        self._door.coming_bytes += total - self._counted
        self._counted = total
        self._moved = self._door.now

    @property
    def silent_s(self) -> float:
        """Seconds since more came of what is held; 0 where nothing is."""
        return self._door.now - self._moved if self._counted else 0.0

    def hopeless(self, age_s: float, whole_in_s: float) -> bool:
        """Whether, at its pace so far, a message that began `age_s` ago will not have come within `whole_in_s`."""
        return self.large and 0 < self._counted * whole_in_s < self._total * age_s

    # Large frames

    def await_large(self, sock: socket.socket) -> None:
        """A large frame is announced: the kernel is to tell when enough of it is there."""
        self._wake_at(sock, min(self._size - len(self._have), RESERVE_BYTES))

    def read_large(self, sock: socket.socket) -> bool:
        """Reads on in a large frame; true where it is whole: call `take_large`.

        Raises:
            ChannelClosed: the client closed in the middle of it.
            OSError: the connection broke, or has no more yet.
        """
        if self._size and not self._reserve(sock):
            return False
        for _ in range(_READS):
            if not self._missing or self._read_part(sock):
                break
        left = self._missing
        self._wake_at(sock, min(left, _WAKE_BYTES) if left else 1)
        return not left

    @property
    def _missing(self) -> int:
        """Bytes of a large frame that are still to come."""
        return len(self._block.view) - self._filled if self._block is not None else self._discard

    def _reserve(self, sock: socket.socket) -> bool:
        """Takes a block for a frame of which enough has come, or begins to discard it; false where too little has."""
        size, have = self._size, self._have
        enough = min(size, RESERVE_BYTES)
        if not self._wakes and len(have) < enough:
            got = sock.recv(enough - len(have))
            if not got:
                raise ChannelClosed("the peer closed in the middle of a message")
            self._have = have = have + got
            self._count(len(have))
            if len(have) < enough:
                return False
        self._size, self._have = 0, b""
        self._filled = len(have)
        self._block = block = self._door.room_for(size)
        if block is None:
            self._begin_discard(size, have)
        else:
            block.view[: len(have)] = have
        return True

    def _begin_discard(self, size: int, have: bytes | memoryview) -> None:
        self._head = size.to_bytes(HEADER_BYTES, "big") + bytes(have[:_HEAD_BYTES])
        self._discard = size - self._filled
        self._count(0)

    def _read_part(self, sock: socket.socket) -> bool:
        """Reads on; true where the socket had less than was asked for."""
        block = self._block
        space = self._door.scrap[: self._discard] if block is None else block.view[self._filled :]
        got = sock.recv_into(space, 0, self._flags)
        if not got:
            raise ChannelClosed("the peer closed in the middle of a message")
        if block is None:
            self._discard -= got
        else:
            self._filled += got
            self._count(self._filled)
            if self._door.too_full and self._filled < len(block.view):
                self._block = None
                self._begin_discard(len(block.view), block.view[: self._filled])
                self._door.arena.free(block)
        return got < len(space)

    def _wake_at(self, sock: socket.socket, size: int) -> None:
        """Has the kernel wait for so many bytes before it tells of them: waking for each packet costs more."""
        if self._wakes and size != self._low_water:
            self._low_water = size
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def take_large(self) -> tuple[bytes, Block | None, int]:
        """The frame that is whole now: its head where there was no room for it, else its block; and its size."""
        self.large = False
        self._count(0)
        block, self._block = self._block, None
        if block is None:
            return self._head, None, len(self._head) - HEADER_BYTES
        return b"", block, self._filled

    def close(self) -> None:
        """Gives back what is held for a frame that will not come whole."""
        self.drop()
        self._have = b""
        block, self._block = self._block, None
        if block is not None:
            self._door.arena.free(block)

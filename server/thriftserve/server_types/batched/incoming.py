"""The frames of one client, cut out of whatever its socket gives.

    bytes --feed()--> next_frame() --> a small frame, as it came
                      a large one: read_large() --> its block in the arena | its head, where there is no room

A large frame is read straight into the arena; one that there is no room for is read and thrown away, but for
as much of it as tells whom to refuse.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from thriftserve_client.channel import ChannelClosed
from thriftserve_client.framing import HEADER_BYTES, IN_PLACE_BYTES, frame_length

if TYPE_CHECKING:
    from thriftserve.server_types.batched.arena import Block
    from thriftserve.server_types.batched.door import Door

#: Reads of a large frame in a row, before others get their turn.
_READS = 8
#: So much of a large frame is to be there before the front is woken for it.
_WAKE_BYTES = 256 * 1024
#: What is kept of a frame that is too much to hold: enough to refuse it by name.
_HEAD_BYTES = 2048


class Incoming:
    """What came of a client's frames that are not whole.

    Args:
        door: has the room for large ones.
        max_bytes: the largest message.
        flags: of each read.
        wakes: whether the kernel may be asked to wait for more; under TLS it does not know what is in a record.
    """

    def __init__(self, door: Door, max_bytes: int, flags: int, wakes: bool) -> None:
        self._door = door
        self._max_bytes = max_bytes
        self._flags = flags
        self._wakes = wakes
        self._low_water = 1
        #: Bytes that no frame was made of yet.
        self.buffer = b""
        self._at = 0
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
            if end - len(buffer) > IN_PLACE_BYTES:
                self._begin_large(size, buffer[at + HEADER_BYTES :])
                at = len(buffer)
        self.buffer, self._at = buffer[at:], 0
        return None

    def drop(self) -> None:
        """Forgets the bytes that no frame was made of."""
        self.buffer, self._at = b"", 0

    # Large frames

    def _begin_large(self, size: int, have: bytes) -> None:
        self.large = True
        block = self._door.room_for(size)
        if block is None:
            self._discard = size - len(have)
            self._head = (size.to_bytes(HEADER_BYTES, "big") + have)[:_HEAD_BYTES]
            return
        block.view[: len(have)] = have
        self._block, self._filled = block, len(have)

    def read_large(self, sock: socket.socket) -> bool:
        """Reads on in a large frame; true where it is whole: call `take_large`.

        Raises:
            ChannelClosed: the client closed in the middle of it.
            OSError: the connection broke, or has no more yet.
        """
        left = 0
        for _ in range(_READS):
            short = self._read_part(sock)
            left = len(self._block.view) - self._filled if self._block is not None else self._discard
            if not left:
                self._wake_at(sock, 1)
                return True
            if short:
                break
        self._wake_at(sock, min(left, _WAKE_BYTES))
        return False

    def _read_part(self, sock: socket.socket) -> bool:
        """Reads on; true where the socket had less than was asked for."""
        if self._block is not None:
            space = self._block.view[self._filled :]
            got = sock.recv_into(space, 0, self._flags)
            self._filled += got
        else:
            space = self._door.scrap[: self._discard]
            got = sock.recv_into(space, 0, self._flags)
            self._discard -= got
        if not got:
            raise ChannelClosed("the peer closed in the middle of a message")
        return got < len(space)

    def _wake_at(self, sock: socket.socket, size: int) -> None:
        """Has the kernel wait for so many bytes before it tells of them: waking for each packet costs more."""
        if self._wakes and size != self._low_water:
            self._low_water = size
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def take_large(self) -> tuple[bytes, Block | None, int]:
        """The frame that is whole now: its head where there was no room for it, else its block; and its size."""
        self.large = False
        block, self._block = self._block, None
        if block is None:
            return self._head, None, len(self._head) - HEADER_BYTES
        return b"", block, self._filled

    def close(self) -> None:
        """Gives back what is held for a frame that will not come whole."""
        self.drop()
        block, self._block = self._block, None
        if block is not None:
            self._door.arena.free(block)

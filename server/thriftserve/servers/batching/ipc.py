"""What a front and a worker's slot say to each other over their socket, and the memory that they share.

    worker: Rendezvous.connect(Hello)  -->  front: Rendezvous.accept() -> Hello; the arena's descriptor goes back
    front:  requests --pack_batch()--> segments          worker: bytes --batch_reader--> BatchItems
    worker: replies --pack_replies()--> segments         front:  bytes --reply_reader--> Replies

A frame travels as it came, its length before it, so neither side moves its bytes to change its form. A large one lies
in the front's arena (memory that both processes see), and only its place is sent. Integers are in the machine's own
order: both ends are on one machine.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import socket
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from struct import Struct, pack, unpack_from
from typing import Any, Generic, NamedTuple, TypeVar

from thriftserve.rpc import BatchHint
from thriftserve.servers.acceptor import OUT_OF_RESOURCES, OutOfDescriptors
from thriftserve_client.wire.framing import HEADER_BYTES

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


#: Bit of a reply's index that says that its connection is to be closed.
CLOSE = 1 << 31
#: An item's offset if its frame is sent along, and is not in the arena.
INLINE = -1
#: What one read asks for.
READ_BYTES = 256 * 1024

_TOKEN_BYTES = 16
_MAX_HELLO_BYTES = 256 * 1024
_BACKLOG = 1024
_HELLO_TIMEOUT_S = 5.0
#: Process, user, group: the kernel's `struct ucred`.
_CREDENTIALS = Struct("=iII")
#: Of a batch: items, bytes of the frames that are sent along; and of each item: offset, arrival, size.
_BATCH = Struct("=II")
_ITEM_FIELDS = "qdI"
_ITEM_BYTES = Struct("=" + _ITEM_FIELDS).size
#: Of replies: kind, the hint's depth, requests and fixed_us, number of replies, their bytes; then the hint's wait_us.
_REPLIES = Struct("=BBHIII")
_WAIT_BYTES = 4
_NO_WAIT = 0xFFFFFFFF
_MAX_REQUESTS = 0xFFFF

M = TypeVar("M")


@dataclass(frozen=True)
class Hello:
    """What a slot says of itself when it connects.

    Attributes:
        pid: the worker's.
        index: the worker's place in its group.
        slot: the slot's number in its worker, from 0.
        requests: requests that it wants at once to begin with; 0: none yet.
        about: what the service tells its fronts; see `BatchProcessor.about`.
    """

    pid: int
    index: int
    slot: int
    requests: int
    about: dict[str, Any] = field(default_factory=dict)


class Rendezvous:
    """One listening address for each front, made in the parent of fronts and workers."""

    def __init__(self, fronts: int) -> None:
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        self._names = [b"\0thriftserve-" + secrets.token_hex(12).encode() for _ in range(fronts)]
        self.sockets = [self._listen(name) for name in self._names]

    @staticmethod
    def _listen(name: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(name)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        return sock

    def accept(self, front: int, arena_fd: int) -> tuple[socket.socket, Hello] | None:
        """Accept a slot and send it the arena's descriptor; None if none waits, or a stranger does.

        Raises:
            OutOfDescriptors: one waits, but there is no descriptor for it.
        """
        try:
            sock, _ = self.sockets[front].accept()
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise OutOfDescriptors from error
            return None
        try:
            if _user_of(sock) != os.geteuid():  # may not even make a front wait for what it says
                raise PermissionError("another user's process")
            sock.settimeout(_HELLO_TIMEOUT_S)  # a worker of ours has sent it already
            hello = self._read_hello(sock)
            if hello is not None:
                socket.send_fds(sock, [b"a"], [arena_fd])
                return sock, hello
        except (OSError, ValueError, TypeError):
            pass
        sock.close()
        return None

    def _read_hello(self, sock: socket.socket) -> Hello | None:
        head = _receive(sock, _TOKEN_BYTES + 4)
        size = int.from_bytes(head[_TOKEN_BYTES:], "big")
        if not secrets.compare_digest(head[:_TOKEN_BYTES], self._token) or size > _MAX_HELLO_BYTES:
            return None
        return Hello(**json.loads(_receive(sock, size)))

    def connect(self, front: int, hello: Hello) -> tuple[socket.socket, int]:
        """Connect a slot to a front, and wait until the front accepts it.

        Returns:
            The connected socket, and the descriptor of the front's arena.

        Raises:
            OSError: the front, or the whole server, has ended.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self._names[front])
            body = json.dumps(asdict(hello)).encode()
            sock.sendall(self._token + len(body).to_bytes(4, "big") + body)
            _, fds, _, _ = socket.recv_fds(sock, 1, 1)
            if not fds:
                raise ConnectionResetError("the front ended before it accepted the slot")
        except BaseException:
            sock.close()
            raise
        return sock, fds[0]

    def close_but(self, front: int | None) -> None:
        """Close the addresses that this process does not use: all but that of `front`."""
        for number, sock in enumerate(self.sockets):
            if number != front:
                with contextlib.suppress(OSError):
                    sock.close()


def _user_of(sock: socket.socket) -> int:
    """Return the user of the process at the other end."""
    _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


def _receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("the slot ended before it said who it is")
        data += piece
    return bytes(data)


class BatchItem(NamedTuple):
    """One request of a batch, as the worker sees it."""

    #: The message, without its length; or its place in the arena (offset, size).
    message: bytes | tuple[int, int]
    #: When it arrived, monotonic seconds (one clock for all processes).
    arrived: float


def pack_batch(requests: Sequence[tuple[bytes | None, int, int, float]]) -> list[bytes]:
    """Return the segments of a batch.

    Args:
        requests: for each its frame (length and message) or None if it is in the arena, its offset there or `INLINE`,
            the size of its message, and when it arrived.
    """
    fields: list[float] = []
    inline = []
    for frame, offset, size, arrived in requests:
        fields += (offset, arrived, size)
        if frame is not None:
            inline.append(frame)
    head = pack("=II" + _ITEM_FIELDS * len(requests), len(requests), sum(map(len, inline)), *fields)
    return [head, *inline]


def _batch_bytes(data: bytes) -> int:
    count, inline = _BATCH.unpack_from(data)
    return int(_BATCH.size + count * _ITEM_BYTES + inline)


def _unpack_batch(data: bytes | memoryview) -> list[BatchItem]:
    count, _ = _BATCH.unpack_from(data)
    at = _BATCH.size + count * _ITEM_BYTES
    fields = unpack_from("=" + _ITEM_FIELDS * count, data, _BATCH.size)
    items = []
    for offset, arrived, size in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if offset == INLINE:
            items.append(BatchItem(bytes(data[at + HEADER_BYTES : at + HEADER_BYTES + size]), arrived))
            at += HEADER_BYTES + size
        else:
            items.append(BatchItem((offset, size), arrived))
    return items


class ReplyKind(IntEnum):
    """What a slot tells its front."""

    #: Replies to its oldest batch: the slot begins the next one. Without replies: the slot is open now.
    LAST = 1
    #: No more batches for this slot.
    LEAVE = 2


class Replies(NamedTuple):
    """What a slot sent."""

    kind: ReplyKind
    hint: BatchHint
    #: (index in the batch, close the connection, the framed reply or nothing for a oneway call)
    items: list[tuple[int, bool, bytes | memoryview]]


def pack_replies(kind: ReplyKind, hint: BatchHint, replies: Sequence[tuple[int, int, list[bytes]]]) -> list[bytes]:
    """Return the segments of a message with replies.

    Args:
        kind: LAST or LEAVE.
        hint: what the slot wants next; `row_us` is not sent.
        replies: for each its index in the batch (with CLOSE if the connection is to be closed), the size of its
            message, and the message in segments; none for a oneway call.
    """
    fields: list[int] = []
    segments: list[bytes] = []
    total = 0
    for index, size, parts in replies:
        length = HEADER_BYTES + size if parts else 0
        fields += (index, length)
        total += length
        if parts:
            segments.append(size.to_bytes(HEADER_BYTES, "big"))
            segments += parts
    wait_us = _NO_WAIT if hint.wait_us is None else min(hint.wait_us, _NO_WAIT - 1)
    requests, fixed_us = min(hint.requests, _MAX_REQUESTS), min(int(hint.fixed_us), _NO_WAIT)
    head = _REPLIES.pack(kind, hint.depth, requests, fixed_us, len(replies), total)
    return [head + pack(f"={1 + len(fields)}I", wait_us, *fields), *segments]


def _reply_bytes(data: bytes) -> int:
    _, _, _, _, count, total = _REPLIES.unpack_from(data)
    return int(_REPLIES.size + _WAIT_BYTES + 8 * count + total)


def _unpack_replies(data: bytes | memoryview) -> Replies:
    kind, depth, requests, fixed_us, count, _ = _REPLIES.unpack_from(data)
    (wait_us, *fields) = unpack_from(f"={1 + 2 * count}I", data, _REPLIES.size)
    at = _REPLIES.size + _WAIT_BYTES + 8 * count
    items = []
    for index, length in zip(fields[::2], fields[1::2], strict=True):
        items.append((index & (CLOSE - 1), index >= CLOSE, data[at : at + length]))
        at += length
    hint = BatchHint(requests, fixed_us, 0.0, None if wait_us == _NO_WAIT else wait_us, depth)
    return Replies(ReplyKind(kind), hint, items)


class StreamReader(Generic[M]):
    """Reads messages of one kind out of a stream of bytes; a long one is read into a buffer of its size."""

    def __init__(
        self,
        head_bytes: int,
        size_of: Callable[[bytes], int],
        unpack: Callable[[bytes | memoryview], M],
    ) -> None:
        self._head_bytes = head_bytes
        self._size_of = size_of
        self._unpack = unpack
        self._pending = b""
        self._long: bytearray | None = None
        self._filled = 0

    def wanted(self) -> memoryview | None:
        """Return where the next bytes are to be read to (then call `filled`); None: anywhere (then call `feed`)."""
        return memoryview(self._long)[self._filled :] if self._long is not None else None

    def filled(self, size: int) -> M | None:
        """Note that `size` bytes were read into `wanted()`; return the message if it is whole now."""
        self._filled += size
        assert self._long is not None
        if self._filled < len(self._long):
            return None
        data, self._long = self._long, None
        return self._unpack(memoryview(data))

    def feed(self, data: bytes) -> list[M]:
        """Append bytes as they came; return every message that is whole now."""
        if self._pending:
            data = self._pending + data
        messages = []
        while len(data) >= self._head_bytes:
            size = self._size_of(data)
            if len(data) < size:
                if size > READ_BYTES:
                    self._long = bytearray(size)
                    self._long[: len(data)] = data
                    self._filled = len(data)
                    data = b""
                break
            messages.append(self._unpack(data))
            data = data[size:]
        self._pending = data
        return messages


def batch_reader() -> StreamReader[list[BatchItem]]:
    """Return a worker's reader of batches."""
    return StreamReader(_BATCH.size, _batch_bytes, _unpack_batch)


def reply_reader() -> StreamReader[Replies]:
    """Return a front's reader of replies."""
    return StreamReader(_REPLIES.size, _reply_bytes, _unpack_replies)

"""What a front and a worker's slot say to each other over their socket. No sockets here.

    front:  requests --pack_batch()--> segments        worker: bytes --BatchReader--> Batch
    worker: answers --pack_answers()--> segments       front:  bytes --AnswerReader--> Answers

A frame travels as it came, its length before it, so neither side moves its bytes to change its form. A
large one lies in the front's arena (memory that both processes see), and only its place is sent.
Integers are in the machine's own order: both ends are on one machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from struct import Struct, pack, unpack_from
from typing import Any, NamedTuple

from thriftserve.servers.acceptor import OUT_OF_RESOURCES, OutOfDescriptors
from thriftserve_client.wire.framing import HEADER_BYTES

# Where workers find the fronts.

_TOKEN_BYTES = 16
_HELLO_LIMIT = 256 * 1024
_BACKLOG = 1024
_PATIENCE_S = 5.0
#: Process, user, group: the kernel's `struct ucred`.
_CREDENTIALS = Struct("=iII")


@dataclass(frozen=True)
class Hello:
    """What a slot says of itself when it connects.

    Attributes:
        pid: the worker's.
        index: the worker's place.
        slot: the slot's number in its worker, from 0.
        take: requests that it wants at once to begin with; 0: none yet.
        about: what the service tells its fronts: see `Desk.learn`.
    """

    pid: int
    index: int
    slot: int
    take: int
    about: dict[str, Any] = field(default_factory=dict)


class Rendezvous:
    """One listening address for each front."""

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
        """A slot that connected, told where the arena is; None where there is none, or it is a stranger.

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
            sock.settimeout(_PATIENCE_S)  # a worker of ours has sent it already
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
        if not secrets.compare_digest(head[:_TOKEN_BYTES], self._token) or size > _HELLO_LIMIT:
            return None
        return Hello(**json.loads(_receive(sock, size)))

    def connect(self, front: int, hello: Hello) -> tuple[socket.socket, int]:
        """Waits for a front to take the slot.

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
                raise ConnectionResetError("the front ended before it took the slot")
        except BaseException:
            sock.close()
            raise
        return sock, fds[0]

    def close_but(self, front: int | None) -> None:
        """Closes what this process has no use for: every address but that of `front`."""
        for number, sock in enumerate(self.sockets):
            if number != front:
                with contextlib.suppress(OSError):
                    sock.close()


def _user_of(sock: socket.socket) -> int:
    """The user of the process at the other end."""
    _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


def _receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        got = sock.recv(size - len(data))
        if not got:
            raise ConnectionResetError("the slot ended in its greeting")
        data += got
    return bytes(data)


_BATCH = Struct("=II")
_ENTRY_FIELDS = "qdI"
_ENTRY_BYTES = Struct("=" + _ENTRY_FIELDS).size
_ANSWERS = Struct("=BBHIII")
#: Bits of an answer's index that say what becomes of its connection.
CLOSE = 1 << 31
_INDEX = CLOSE - 1
#: An entry's offset where its frame is sent along, and not in the arena.
INLINE = -1
#: What one read asks for.
READ_BYTES = 256 * 1024


class ReplyKind(IntEnum):
    """What a slot tells its front."""

    #: Answers to the batch in hand: the slot takes the next one.
    LAST = 1
    #: No more batches for this slot.
    LEAVE = 2


class BatchItem(NamedTuple):
    """One request of a batch, as the worker sees it."""

    #: The message, without its length; or its place in the arena.
    message: bytes | tuple[int, int]
    #: When it arrived, monotonic seconds (one clock for all processes).
    arrived: float


@dataclass(frozen=True)
class SlotHint:
    """What a slot wants next time.

    Attributes:
        take: the most requests that it wants at once; 0: none until it says otherwise.
        depth: batches that it wants in hand at once: with two, the next one is there when the first is done.
        fixed_us: what a further run costs, whatever its size: waiting less than this to save one is worth it.
        wait_us: how long the oldest request may wait for others where the operator set it; None: see `fixed_us`.
    """

    take: int = 1
    depth: int = 1
    fixed_us: int = 0
    wait_us: int | None = None


class Replies(NamedTuple):
    """What a slot sent."""

    kind: ReplyKind
    advice: SlotHint
    #: (index in the batch, close the connection, the framed answer or nothing for a oneway call)
    items: list[tuple[int, bool, bytes | memoryview]]


def pack_batch(frames: Sequence[tuple[bytes | None, int, int, float]]) -> list[bytes]:
    """The segments of a batch.

    Args:
        frames: for each request its frame (length and message) or None where it is in the arena, its
            offset there or `INLINE`, the size of its message, and when it arrived.
    """
    fields: list[float] = []
    inline = []
    for frame, offset, size, arrived in frames:
        fields += (offset, arrived, size)
        if frame is not None:
            inline.append(frame)
    head = pack("=II" + _ENTRY_FIELDS * len(frames), len(frames), sum(map(len, inline)), *fields)
    return [head, *inline]


class BatchReader:
    """Batches out of a stream of bytes."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[list[BatchItem]]:
        """Takes bytes as they came; every batch that is whole now."""
        data = self._pending + data if self._pending else data
        found = []
        while len(data) >= _BATCH.size:
            count, inline = _BATCH.unpack_from(data)
            end = _BATCH.size + count * _ENTRY_BYTES + inline
            if len(data) < end:
                break
            found.append(self._items(data, count))
            data = data[end:]
        self._pending = data
        return found

    def _items(self, data: bytes, count: int) -> list[BatchItem]:
        at = _BATCH.size + count * _ENTRY_BYTES
        fields = unpack_from("=" + _ENTRY_FIELDS * count, data, _BATCH.size)
        items = []
        for offset, arrived, size in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
            if offset == INLINE:
                items.append(BatchItem(data[at + HEADER_BYTES : at + HEADER_BYTES + size], arrived))
                at += HEADER_BYTES + size
            else:
                items.append(BatchItem((offset, size), arrived))
        return items


def pack_replies(kind: ReplyKind, advice: SlotHint, answers: Sequence[tuple[int, int, list[bytes]]]) -> list[bytes]:
    """The segments that tell answers.

    Args:
        kind: LAST or LEAVE.
        advice: what the slot wants next.
        answers: for each its index in the batch (with CLOSE where the connection is to be closed), the size
            of its message, and the message in segments; none for a oneway call.
    """
    fields: list[int] = []
    segments: list[bytes] = []
    total = 0
    for index, size, parts in answers:
        length = HEADER_BYTES + size if parts else 0
        fields += (index, length)
        total += length
        if parts:
            segments.append(size.to_bytes(HEADER_BYTES, "big"))
            segments += parts
    wait_us = _NO_WAIT if advice.wait_us is None else min(advice.wait_us, _NO_WAIT - 1)
    take = min(advice.take, _MOST_TAKEN)
    head = _ANSWERS.pack(kind, advice.depth, take, min(advice.fixed_us, _NO_WAIT), len(answers), total)
    return [head + pack(f"={1 + len(fields)}I", wait_us, *fields), *segments]


_NO_WAIT = 0xFFFFFFFF
_MOST_TAKEN = 0xFFFF
_WAIT_BYTES = 4


class ReplyReader:
    """Answers out of a stream of bytes; a long message is read into a buffer of its size."""

    def __init__(self) -> None:
        self._pending = b""
        self._long: bytearray | None = None
        self._filled = 0

    def wanted(self) -> memoryview | None:
        """Where the next bytes are to be read to (then call `filled`); None: anywhere (then call `feed`)."""
        return memoryview(self._long)[self._filled :] if self._long is not None else None

    def filled(self, size: int) -> Replies | None:
        """`size` bytes were read into `wanted()`; the answers, where they are whole now."""
        self._filled += size
        assert self._long is not None
        if self._filled < len(self._long):
            return None
        data, self._long = self._long, None
        return _answers(memoryview(data))

    def feed(self, data: bytes) -> list[Replies]:
        """Takes bytes as they came; every message of answers that is whole now."""
        if self._pending:
            data = self._pending + data
        found = []
        while len(data) >= _ANSWERS.size:
            _, _, _, _, count, total = _ANSWERS.unpack_from(data)
            size = _ANSWERS.size + _WAIT_BYTES + 8 * count + total
            if len(data) < size:
                if size > READ_BYTES:
                    self._long = bytearray(size)
                    self._long[: len(data)] = data
                    self._filled = len(data)
                    data = b""
                break
            found.append(_answers(data))
            data = data[size:]
        self._pending = data
        return found


def _answers(data: bytes | memoryview) -> Replies:
    kind, depth, take, fixed_us, count, _ = _ANSWERS.unpack_from(data)
    (wait_us, *fields) = unpack_from(f"={1 + 2 * count}I", data, _ANSWERS.size)
    at = _ANSWERS.size + _WAIT_BYTES + 8 * count
    items = []
    for index, length in zip(fields[::2], fields[1::2], strict=True):
        items.append((index & _INDEX, index >= CLOSE, data[at : at + length]))
        at += length
    return Replies(ReplyKind(kind), SlotHint(take, depth, fixed_us, None if wait_us == _NO_WAIT else wait_us), items)

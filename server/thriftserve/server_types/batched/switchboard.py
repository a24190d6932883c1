"""Where workers find the fronts.

    arbiter: Switchboard(fronts)
    worker: connect(k, Hello) -> socket, arena   -->   front k: accept() -> socket, Hello

The addresses are made before the first fork and live as long as the arbiter: a worker that connects while a
front is being replaced just waits for the new one. They are abstract Unix addresses with a random name, and
what connects has to know a random token too, so no other user's process gets in.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field
from struct import Struct
from typing import Any

from thriftserve.server_types.accepting import OUT_OF_RESOURCES, OutOfDescriptors

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


class Switchboard:
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

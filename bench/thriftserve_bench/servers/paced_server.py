"""A server without work: it receives requests and sends the prepared right answers at a pace.

    python -m thriftserve_bench.servers.paced_server JOB POOL.npz

    stdin: {"rate": answers a second in all}  -->  stdout: {"port": …}
    frame --recv_into--> its connection's buffer --> the prepared answer to that request, in its turn

What the machine does beside it without any RPC is the most that a server could do for these clients.
"""

from __future__ import annotations

import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thriftserve_bench.load.protocols import thrift_answer, thrift_request
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.workloads.jobs import JOBS, Job, Sample, load_samples
from thriftserve_bench.workloads.messages import LENGTH

#: Bytes that distinguish requests, from the middle of a frame.
_KEY_BYTES = 64
#: Wake up for so many bytes of a frame at once.
_WAKE_BYTES = 256 * 1024
_LONGEST_WAIT_S = 0.05


class ClientConnection:
    """A client's connection."""

    def __init__(self, sock: socket.socket, room: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._view = memoryview(bytearray(room))
        self._filled = 0

    def frame(self) -> memoryview | None:
        """Return the frame once it is complete, else None.

        Raises:
            ConnectionError: the client has closed.
        """
        while True:
            size = self._size()
            try:
                count = self.sock.recv_into(self._view[self._filled : size])
            except BlockingIOError:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(size - self._filled, _WAKE_BYTES))
                return None
            if not count:
                raise ConnectionError("closed")
            self._filled += count
            if self._filled > LENGTH.size and self._filled == self._size():
                frame, self._filled = self._view[: self._filled], 0
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return frame

    def _size(self) -> int:
        if self._filled < LENGTH.size:
            return LENGTH.size
        return LENGTH.size + int(LENGTH.unpack_from(self._view)[0])


class PacedServer:
    """Answers the requests of one job, at most so many a second.

    Args:
        job: the job.
        samples: all that are sent.
    """

    def __init__(self, job: Job, samples: Sequence[Sample]) -> None:
        frames = [thrift_request(job, sample) for sample in samples]
        answers = [thrift_answer(job, sample) for sample in samples]
        self._answers = {_key(frame): answer for frame, answer in zip(frames, answers, strict=True)}
        self._room = max(map(len, frames))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._connections: dict[int, ClientConnection] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._next_at = 0.0
        self.rate = 1.0

    @property
    def port(self) -> int:
        """The port on the loopback interface."""
        return int(self._listening.getsockname()[1])

    def serve(self) -> None:
        """Serve until the process ends."""
        with select.epoll() as self._epoll:
            self._epoll.register(self._listening, select.EPOLLIN)
            while True:
                for fd, _ in self._epoll.poll(self._wait_s()):
                    if fd == self._listening.fileno():
                        self._accept()
                    else:
                        self._receive(fd)
                self._answer_in_turn()

    def _wait_s(self) -> float:
        return max(0.0, min(self._next_at - time.monotonic(), _LONGEST_WAIT_S)) if self._waiting else _LONGEST_WAIT_S

    def _accept(self) -> None:
        sock, _ = self._listening.accept()
        self._connections[sock.fileno()] = ClientConnection(sock, self._room)
        self._epoll.register(sock, select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        try:
            frame = self._connections[fd].frame()
            if frame is not None:
                self._waiting.append((fd, self._answers[_key(frame)]))
        except (OSError, KeyError):  # it has closed, or sent an unknown request
            self._epoll.unregister(fd)
            self._connections.pop(fd).sock.close()
            self._waiting = deque(entry for entry in self._waiting if entry[0] != fd)

    def _answer_in_turn(self) -> None:
        now = time.monotonic()
        while self._waiting and self._next_at <= now:
            fd, answer = self._waiting.popleft()
            self._connections[fd].sock.send(answer)
            # A pause without requests is not made up for.
            self._next_at = max(self._next_at + 1 / self.rate, now - _LONGEST_WAIT_S)


def _key(frame: bytes | memoryview) -> bytes:
    middle = len(frame) // 2
    return bytes(frame[middle : middle + _KEY_BYTES])


def main(arguments: Sequence[str]) -> None:
    """Serve, and take orders until there are no more."""
    job = JOBS[arguments[0]]
    server = PacedServer(job, load_samples(Path(arguments[1])))
    threading.Thread(target=server.serve, daemon=True).start()

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        server.rate = order["rate"]
        return {"port": server.port}

    answer_json_lines(answer)


if __name__ == "__main__":
    main(sys.argv[1:])

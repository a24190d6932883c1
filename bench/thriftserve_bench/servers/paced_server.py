"""No server at all: what clients send is received, and right answers go back at a pace, without any work for them.

    python -m thriftserve_bench.servers.paced_server JOB POOL.npz

    stdin: {"rate": answers a second in all}  -->  stdout: {"port": …}
    frame --recv_into--> its connection's buffer --> the prepared answer to that question, in its turn

What the machine does beside it without any RPC is the most that a server could do whom these clients ask.
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

#: Bytes that tell one question from another, from the middle of its frame.
_SAMPLE_BYTES = 64
#: Woken for so many bytes of a frame at once.
_WAKE_BYTES = 256 * 1024
_LONGEST_WAIT_S = 0.05


class Line:
    """A client's connection."""

    def __init__(self, sock: socket.socket, room: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._view = memoryview(bytearray(room))
        self._filled = 0

    def frame(self) -> memoryview | None:
        """The frame, once it is whole; None while it is not.

        Raises:
            ConnectionError: the client has gone.
        """
        while True:
            size = self._size()
            try:
                got = self.sock.recv_into(self._view[self._filled : size])
            except BlockingIOError:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(size - self._filled, _WAKE_BYTES))
                return None
            if not got:
                raise ConnectionError("closed")
            self._filled += got
            if self._filled > LENGTH.size and self._filled == self._size():
                frame, self._filled = self._view[: self._filled], 0
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return frame

    def _size(self) -> int:
        if self._filled < LENGTH.size:
            return LENGTH.size
        return LENGTH.size + int(LENGTH.unpack_from(self._view)[0])


class Sink:
    """Answers the questions of one job, at most so many a second.

    Args:
        job: the job.
        questions: all that are asked.
    """

    def __init__(self, job: Job, questions: Sequence[Sample]) -> None:
        frames = [thrift_request(job, one) for one in questions]
        self._answers = {
            _sample(frame): thrift_answer(job, one, frame) for frame, one in zip(frames, questions, strict=True)
        }
        self._room = max(map(len, frames))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lines: dict[int, Line] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._next_at = 0.0
        self.rate = 1.0

    @property
    def port(self) -> int:
        """Where it listens, on the loopback interface."""
        return int(self._listening.getsockname()[1])

    def serve(self) -> None:
        """Serves until the process ends."""
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
        self._lines[sock.fileno()] = Line(sock, self._room)
        self._epoll.register(sock, select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        try:
            frame = self._lines[fd].frame()
            if frame is not None:
                self._waiting.append((fd, self._answers[_sample(frame)]))
        except (OSError, KeyError):  # it has gone, or asks what nobody prepared
            self._epoll.unregister(fd)
            self._lines.pop(fd).sock.close()
            self._waiting = deque(one for one in self._waiting if one[0] != fd)

    def _answer_in_turn(self) -> None:
        now = time.monotonic()
        while self._waiting and self._next_at <= now:
            fd, answer = self._waiting.popleft()
            self._lines[fd].sock.send(answer)
            # Who had nothing to answer for a while does not make up for it.
            self._next_at = max(self._next_at + 1 / self.rate, now - _LONGEST_WAIT_S)


def _sample(frame: bytes | memoryview) -> bytes:
    middle = len(frame) // 2
    return bytes(frame[middle : middle + _SAMPLE_BYTES])


def main(arguments: Sequence[str]) -> None:
    """Serves, and takes orders until there are no more."""
    job = JOBS[arguments[0]]
    sink = Sink(job, load_samples(Path(arguments[1])))
    threading.Thread(target=sink.serve, daemon=True).start()

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        sink.rate = order["rate"]
        return {"port": sink.port}

    answer_json_lines(answer)


if __name__ == "__main__":
    main(sys.argv[1:])

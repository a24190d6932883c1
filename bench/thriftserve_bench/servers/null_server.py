"""A server that does nothing, to find out what the load generator itself can do.

    python -m thriftserve_bench.servers.null_server [--cores 1] [--stall-after N --stall-s S]  -->  a ready line

    bytes  --counted-->  so many questions  -->  as many copies of one reply, encoded when the first question came

With --stall-after it stands still once: what a garbage collection or a model that loads does to a server.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import time

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.transport.TTransport import TMemoryBuffer

from thriftserve_bench.machine import core_set
from thriftserve_bench.servers.services import make_processor
from thriftserve_bench.workloads.messages import LENGTH

_READ_BYTES = 262144


class Sink:
    """Answers every question with the same bytes.

    Args:
        stall_after: answers until it stands still, once; 0: never.
        stall_s: how long.
    """

    def __init__(self, stall_after: int = 0, stall_s: float = 0.0) -> None:
        self._left = stall_after
        self._stall_s = stall_s
        self._reply = b""
        self._size = 0
        #: Of each connection: bytes of a question that is not whole yet; until the first reply the bytes themselves.
        self._have: dict[int, int] = {}
        self._first: dict[int, bytes] = {}

    def serve(self, listener: socket.socket) -> None:
        """Serves until the process is ended."""
        connections: dict[int, socket.socket] = {}
        with select.epoll() as epoll:
            epoll.register(listener.fileno(), select.EPOLLIN)
            while True:
                for fd, _ in epoll.poll():
                    if fd == listener.fileno():
                        accepted, _ = listener.accept()
                        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        connections[accepted.fileno()] = accepted
                        self._have[accepted.fileno()] = 0
                        epoll.register(accepted.fileno(), select.EPOLLIN)
                    elif not self._turn(fd, connections[fd]):
                        connections.pop(fd).close()

    def _turn(self, fd: int, connection: socket.socket) -> bool:
        """Reads once and answers; false where the connection is over."""
        try:
            data = connection.recv(_READ_BYTES)
            if not data:
                return False
            have = self._have[fd] + len(data)
            if not self._size:
                self._learn(fd, data)
            while self._size and have >= self._size:
                have -= self._size
                self._stall()
                connection.sendall(self._reply)
        except OSError:
            return False
        self._have[fd] = have
        return True

    def _learn(self, fd: int, data: bytes) -> None:
        """Makes the reply out of the first question that is whole."""
        question = self._first.get(fd, b"") + data
        self._first[fd] = question
        if len(question) < LENGTH.size or len(question) < LENGTH.size + LENGTH.unpack_from(question)[0]:
            return
        answer = TMemoryBuffer()
        asked = TBinaryProtocolAccelerated(TMemoryBuffer(question[LENGTH.size :]), fallback=False)
        make_processor(None).process(asked, TBinaryProtocolAccelerated(answer, fallback=False))
        message = answer.getvalue()
        self._reply = LENGTH.pack(len(message)) + message
        self._size = len(question)
        self._first.clear()

    def _stall(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                time.sleep(self._stall_s)


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=core_set, help="cores to run on, like 1,2,3; all by default")
    parser.add_argument("--stall-after", type=int, default=0, metavar="N", help="stand still once, after N answers")
    parser.add_argument("--stall-s", type=float, default=0.5, help="how long (0.5)")
    flags = parser.parse_args()
    if flags.cores:
        os.sched_setaffinity(0, flags.cores)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        print(f"sink ready host=127.0.0.1 port={port} server_type=sink pid={os.getpid()}", flush=True)
        Sink(flags.stall_after, flags.stall_s).serve(listener)


if __name__ == "__main__":
    main()

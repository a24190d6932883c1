"""A server that does nothing: what the load generator itself can do.

    python -m thriftserve_bench.servers.null_server [--cores 1] [--stall-after N --stall-s S]  -->  a ready line

    bytes  --counted-->  so many requests  -->  as many copies of one reply, encoded for the first request

With --stall-after it stalls once, as a server does for a garbage collection or a model that loads.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import time

from thriftserve_bench.machine import core_set
from thriftserve_bench.servers.services import make_processor
from thriftserve_bench.workloads.messages import LENGTH, answer_by

_READ_BYTES = 262144


class NullServer:
    """Answers every request with the same bytes.

    Args:
        stall_after: answers before it stalls, once; 0: never.
        stall_s: how long.
    """

    def __init__(self, stall_after: int = 0, stall_s: float = 0.0) -> None:
        self._left = stall_after
        self._stall_s = stall_s
        self._reply = b""
        self._size = 0
        #: Of each connection: bytes of an incomplete request; until the first reply the bytes themselves.
        self._received: dict[int, int] = {}
        self._first: dict[int, bytes] = {}

    def serve(self, listener: socket.socket) -> None:
        """Serve until the process ends."""
        connections: dict[int, socket.socket] = {}
        with select.epoll() as epoll:
            epoll.register(listener.fileno(), select.EPOLLIN)
            while True:
                for fd, _ in epoll.poll():
                    if fd == listener.fileno():
                        accepted, _ = listener.accept()
                        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        connections[accepted.fileno()] = accepted
                        self._received[accepted.fileno()] = 0
                        epoll.register(accepted.fileno(), select.EPOLLIN)
                    elif not self._serve_once(fd, connections[fd]):
                        connections.pop(fd).close()

    def _serve_once(self, fd: int, connection: socket.socket) -> bool:
        """Read once and answer; return False if the connection is over."""
        try:
            data = connection.recv(_READ_BYTES)
            if not data:
                return False
            received = self._received[fd] + len(data)
            if not self._size:
                self._encode_reply(fd, data)
            while self._size and received >= self._size:
                received -= self._size
                self._stall()
                connection.sendall(self._reply)
        except OSError:
            return False
        self._received[fd] = received
        return True

    def _encode_reply(self, fd: int, data: bytes) -> None:
        """Encode the reply to the first complete request."""
        request = self._first.get(fd, b"") + data
        self._first[fd] = request
        if len(request) < LENGTH.size or len(request) < LENGTH.size + LENGTH.unpack_from(request)[0]:
            return
        self._reply = answer_by(make_processor(None), request)
        self._size = len(request)
        self._first.clear()

    def _stall(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                time.sleep(self._stall_s)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=core_set, help="cores to run on, like 1,2,3; all by default")
    parser.add_argument("--stall-after", type=int, default=0, metavar="N", help="stall once, after N answers")
    parser.add_argument("--stall-s", type=float, default=0.5, help="how long (0.5)")
    flags = parser.parse_args()
    if flags.cores:
        os.sched_setaffinity(0, flags.cores)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        print(f"null ready host=127.0.0.1 port={port} server_type=null pid={os.getpid()}", flush=True)
        NullServer(flags.stall_after, flags.stall_s).serve(listener)


if __name__ == "__main__":
    main()

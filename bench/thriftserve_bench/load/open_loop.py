"""Requests that come when they come, whether or not the server keeps up: what overload is made of.

    rate, seconds  -->  a request at its time, on a free connection or a new one  -->  Arrivals: answered, refused, …

Latencies count from when a request was to be sent. Where this process can't send as many as it is to, it leaves some
out: waiting here says nothing of the server.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field

from thriftserve_bench.load.connection import Connection
from thriftserve_bench.load.protocols import DIALECTS, read_result
from thriftserve_bench.workloads.jobs import Job, Sample
from thriftserve_bench.workloads.messages import LENGTH
from thriftserve_idl.ttypes import ErrorCode

#: Requests under way at most: past it, arrivals are counted as not sent.
MOST_CONNECTIONS = 4000
_PATIENCE_S = 30.0
_POLL_S = 0.001
#: A sender that is later than this can't keep its rate.
_BEHIND_S = 0.02
#: Bytes of a frame: answers of the nets' tensors are longer and need not be decoded twice.
_MOST_OF_A_REFUSAL = 1024


@dataclass
class Arrivals:
    """What came of them."""

    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    #: Requests/s that there were: fewer than asked for where this process did not keep up.
    rate: float = 0.0
    failed: int = 0
    not_sent: int = 0
    reason: str = ""


class OpenLoop:
    """Sends requests at a steady rate over as many connections as it takes."""

    def __init__(self, port: int, job: Job, asked: list[tuple[Sample, bytes]]) -> None:
        self._port, self._job, self._asked = port, job, asked
        self._dialect = DIALECTS["thrift"]
        self._free: list[Connection] = []
        self._busy: dict[int, Connection] = {}
        self._due: dict[int, float] = {}
        self._epoll = select.epoll()
        self.found = Arrivals()

    def run(self, rate: float, seconds: float) -> Arrivals:
        """Sends for so long, waits for what is under way, closes every connection."""
        first = began = now = time.monotonic()
        sent = 0
        try:
            while now - first < seconds:
                due = began + sent / rate
                if now - due > _BEHIND_S:
                    began, due = began + now - due, now
                if due <= now:
                    self._send(sent, due)
                    sent += 1
                    self._receive(0)
                else:
                    self._receive(_POLL_S)
                now = time.monotonic()
            self.found.rate = sent / (now - first)
            until = time.monotonic() + _PATIENCE_S
            while self._busy and time.monotonic() < until:
                self._receive(0.05)
            self.found.failed += len(self._busy)
        finally:
            for one in (*self._free, *self._busy.values()):
                one.close()
            self._epoll.close()
        return self.found

    def _send(self, number: int, due: float) -> None:
        if not self._free and len(self._busy) >= MOST_CONNECTIONS:
            self.found.not_sent += 1
            return
        try:
            connection = self._free.pop() if self._free else self._new()
            fd = connection.sock.fileno()
            connection.asked = number % len(self._asked)
            self._busy[fd], self._due[fd] = connection, due
            if not connection.send(self._asked[connection.asked][1]):
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        except OSError as error:
            self._fail(error)

    def _new(self) -> Connection:
        connection = Connection(self._port, self._dialect)
        self._epoll.register(connection.sock.fileno(), select.EPOLLIN)
        return connection

    def _fail(self, error: Exception) -> None:
        self.found.failed += 1
        self.found.reason = f"{type(error).__name__}: {error}"

    def _receive(self, wait_s: float) -> None:
        for fd, events in self._epoll.poll(wait_s):
            connection = self._busy.get(fd)
            if connection is None:  # an idle one that the server closed
                self._free = [one for one in self._free if one.sock.fileno() != fd]
                self._epoll.unregister(fd)
                continue
            try:
                if events & select.EPOLLOUT and connection.send_on():
                    self._epoll.modify(fd, select.EPOLLIN)
                if events & ~select.EPOLLOUT and (reply := connection.receive()) is not None:
                    self._answered(fd, connection, reply)
                    self._free.append(self._busy.pop(fd))
            except Exception as error:  # broken, closed or wrong: each is a failed call, whatever its kind
                self._busy.pop(fd).close()
                self._fail(error)

    def _answered(self, fd: int, connection: Connection, reply: bytes) -> None:
        took_ms = (time.monotonic() - self._due[fd]) * 1000
        if _refused(self._job, reply):
            self.found.refused_ms.append(took_ms)
            return
        self._dialect.check(self._job, reply, self._asked[connection.asked][0])
        self.found.answered_ms.append(took_ms)


def _refused(job: Job, reply: bytes) -> bool:
    """Whether a short reply is the typed refusal of a full queue."""
    if len(reply) > _MOST_OF_A_REFUSAL:
        return False
    error = read_result(job, reply[LENGTH.size :]).error
    return error is not None and error.code == ErrorCode.RESOURCE_EXHAUSTED

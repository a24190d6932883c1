"""Requests at a steady rate, whether or not the server keeps up: what overload is made of.

    rate, seconds  -->  a request at its time, on an idle connection or a new one  -->  Arrivals: answered, refused, …

Latencies count from when a request was to be sent. If this process can't send as many as it should, it leaves some
out: waiting here says nothing about the server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from thriftserve_bench.load.connection import Connection, Connections
from thriftserve_bench.load.protocols import PROTOCOLS, read_result
from thriftserve_bench.workloads.jobs import Job, Sample
from thriftserve_bench.workloads.messages import LENGTH
from thriftserve_idl.ttypes import ErrorCode

#: Most requests in flight: beyond it, arrivals count as not sent.
MAX_CONNECTIONS = 4000
_DRAIN_S = 30.0
_POLL_S = 0.001
#: A sender that is later than this can't keep its rate.
_BEHIND_S = 0.02
#: A longer frame is no refusal, and need not be decoded twice.
_LONGEST_REFUSAL = 1024


@dataclass
class Arrivals:
    """What came of the requests."""

    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    #: Requests/s that were sent: fewer than the rate if this process did not keep up.
    rate: float = 0.0
    failed: int = 0
    not_sent: int = 0
    reason: str = ""


class OverloadLoop:
    """Sends Thrift requests at a steady rate over as many connections as it takes.

    Args:
        port: the server's.
        job: the job.
        samples: its samples and their requests, sent in turns.

    Attributes:
        arrivals: what came of the requests so far.
    """

    def __init__(self, port: int, job: Job, samples: list[tuple[Sample, bytes]]) -> None:
        self._job, self._samples = job, samples
        self._protocol = PROTOCOLS["thrift"]
        self._connections = Connections(port, self._protocol.length)
        self.arrivals = Arrivals()

    def run(self, rate: float, seconds: float) -> Arrivals:
        """Send for so long, wait for what is in flight, and close every connection."""
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
            self.arrivals.rate = sent / (now - first)
            until = time.monotonic() + _DRAIN_S
            while self._connections.busy and time.monotonic() < until:
                self._receive(0.05)
            self.arrivals.failed += self._connections.busy
        finally:
            self._connections.close()
        return self.arrivals

    def _send(self, number: int, due: float) -> None:
        connections = self._connections
        if not connections.idle and connections.busy >= MAX_CONNECTIONS:
            self.arrivals.not_sent += 1
            return
        try:
            connection = connections.idle.pop() if connections.idle else connections.open()
        except OSError as error:
            self._fail(error)
            return
        connection.sample = number % len(self._samples)
        connections.begin(connection, self._samples[connection.sample][1], int(due * 1e9), time.monotonic_ns())

    def _fail(self, error: Exception) -> None:
        self.arrivals.failed += 1
        self.arrivals.reason = f"{type(error).__name__}: {error}"

    def _receive(self, timeout_s: float) -> None:
        for connection, reply in self._connections.poll(timeout_s):
            if isinstance(reply, Exception):
                self._fail(reply)
                continue
            try:
                self._count(connection, bytes(reply))
                self._connections.idle.append(connection)
            except Exception as error:  # a wrong answer, or one that can't be decoded, in whatever way
                self._connections.drop(connection)
                self._fail(error)

    def _count(self, connection: Connection, reply: bytes) -> None:
        took_ms = (time.monotonic_ns() - connection.intended_ns) / 1e6
        if _refused(self._job, reply):
            self.arrivals.refused_ms.append(took_ms)
            return
        self._protocol.check(self._job, reply, self._samples[connection.sample][0])
        self.arrivals.answered_ms.append(took_ms)


def _refused(job: Job, reply: bytes) -> bool:
    """Return whether a short reply is the typed refusal of a full queue."""
    if len(reply) > _LONGEST_REFUSAL:
        return False
    error = read_result(job, reply[LENGTH.size :]).error
    return error is not None and error.code == ErrorCode.RESOURCE_EXHAUSTED

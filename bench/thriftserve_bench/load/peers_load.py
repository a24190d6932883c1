"""The load generator of `peers` for Thrift and HTTP: a process of its own, one thread, one loop for every contestant.

python -m thriftserve_bench.load.peers_load

stdin: PeerOrder, one line of JSON  -->  each client asks again as soon as it has its answer  -->  stdout: PeerWindow
"""

from __future__ import annotations

import gc
import select
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from thriftserve_bench.load.calls_loops import GivenUp
from thriftserve_bench.load.connection import Connection
from thriftserve_bench.load.marks import PATIENCE_S, Marks
from thriftserve_bench.load.protocols import DIALECTS
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.peers import PeerOrder, PeerWindow
from thriftserve_bench.workloads.jobs import JOBS, Sample, load_samples

#: Between two attempts to connect.
_REOPEN_S = 0.05


@cache
def questions(pool: str, job: str, dialect: str) -> list[tuple[Sample, bytes]]:
    """The questions of a pool and their bytes in a dialect."""
    made = DIALECTS[dialect]
    return [(one, made.request(JOBS[job], one)) for one in load_samples(Path(pool))]


def measure(order: PeerOrder) -> PeerWindow:
    """One window."""
    marks = Marks(order)
    loop = Loop(order, marks)
    try:
        loop.run()
    except GivenUp as error:
        marks.tally.reason = str(error)
    finally:
        loop.close()
    return marks.window()


class Loop:
    """Closed loops of all clients of a window, side by side in one thread."""

    def __init__(self, order: PeerOrder, marks: Marks) -> None:
        self._order = order
        self._marks = marks
        self._job = JOBS[order.job]
        self._dialect = DIALECTS[order.dialect]
        self._questions = questions(order.pool, order.job, order.dialect)
        self._clients: dict[int, tuple[int, Connection]] = {}
        self._sending: set[int] = set()
        self._epoll = select.epoll()

    def run(self) -> None:
        """Asks until the window is closed and the last replies are there.

        Raises:
            GivenUp: too many calls failed in a row.
        """
        for client in range(self._order.clients):
            self._connect(client)
        until_ns = 0
        while self._clients:
            now_ns = time.perf_counter_ns()
            running = self._marks.step(now_ns)
            if not running:
                until_ns = until_ns or now_ns + int(PATIENCE_S * 1e9)
                if now_ns > until_ns:
                    break
            for fd, _ in self._epoll.poll(0.05):
                client, connection = self._clients[fd]
                try:
                    self._step(fd, client, connection, running)
                except Exception as error:  # broken, closed or wrong: each is a failed call, whatever its kind
                    self._drop(fd, error)
                    if running:
                        self._connect(client)
        self._marks.starved(len(self._clients))

    def _connect(self, client: int) -> None:
        connection = self._open()
        fd = connection.sock.fileno()
        # Neighbours ask different questions: rows that are mixed up are wrong then.
        connection.asked = client * 5
        self._clients[fd] = client, connection
        self._epoll.register(fd, select.EPOLLIN)
        self._ask(fd, connection)

    def _open(self) -> Connection:
        while True:
            try:
                return Connection(self._order.port, self._dialect)
            except OSError as error:
                self._marks.tally.failed(error)
                time.sleep(_REOPEN_S)

    def _ask(self, fd: int, connection: Connection) -> None:
        connection.asked = (connection.asked + 1) % len(self._questions)
        connection.began_ns = time.perf_counter_ns()
        if not connection.send(self._questions[connection.asked][1]):
            self._sending.add(fd)
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def _step(self, fd: int, client: int, connection: Connection, running: bool) -> None:
        if fd in self._sending and connection.send_on():
            self._sending.discard(fd)
            self._epoll.modify(fd, select.EPOLLIN)
        reply = connection.receive()
        if reply is None:
            return
        now_ns = time.perf_counter_ns()
        self._dialect.check(self._job, reply, self._questions[connection.asked][0])
        self._marks.answered(client, connection.began_ns, now_ns)
        if running:
            self._ask(fd, connection)
        else:
            self._forget(fd)

    def _drop(self, fd: int, error: Exception) -> None:
        self._forget(fd)
        self._marks.tally.failed(error)

    def _forget(self, fd: int) -> None:
        _, connection = self._clients.pop(fd)
        self._sending.discard(fd)
        connection.close()

    def close(self) -> None:
        """Closes every connection."""
        for fd in list(self._clients):
            self._forget(fd)
        self._epoll.close()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    window = measure(PeerOrder(**order))
    gc.collect()
    return asdict(window)


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)

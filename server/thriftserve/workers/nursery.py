"""Workers from a process that has imported what they need, and used nothing of it.

    arbiter --fork--> nursery: preload(), ready
    arbiter --Seat, its report pipe--> nursery --fork_away--> worker: a child of the arbiter --born, ready--> arbiter

The arbiter itself imports nothing, so what it forks directly (a front, the next nursery) is small. The
nursery only ever receives and forks: it starts no thread, and neither does TensorFlow's import start one
of Python's (those of the C library behind NumPy see to forks themselves). Its death costs its group
nothing but time: workers are not its children.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

from thriftserve.errors import ExitCode
from thriftserve.workers import child
from thriftserve.workers.group import Place, State, WorkerGroup
from thriftserve.workers.pages import forget_clean_pages
from thriftserve.workers.scoreboard import Scoreboard
from thriftserve.workers.seat import SEAT_BYTES, Seat, work

log = logging.getLogger(__name__)


class Nursery:
    """The arbiter's side of a group's nursery: it outlives each process that fills its place.

    Attributes:
        place: where that process is kept.
    """

    def __init__(self, group: WorkerGroup, board: Scoreboard) -> None:
        self.place = Place(group, 0, is_nursery=True)
        self._board = board
        self._channel: socket.socket | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be asked for workers."""
        return self.place.worker is not None and self.place.worker.state is State.READY

    def open(self) -> socket.socket:
        """A channel for the next process; its end of it, to be closed in this one."""
        self.close()
        self._channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)  # a nursery that was stopped must not stop the arbiter
        return far

    def close(self) -> None:
        """Closes this process's end."""
        if self._channel is not None:
            self._channel.close()

    def ask(self, seat: Seat, report_fd: int) -> bool:
        """Asks for a worker, which reports to `report_fd`; False where the nursery has ended or takes nothing now."""
        if self._channel is None:
            return False
        try:
            socket.send_fds(self._channel, [seat.pack()], [report_fd])
        except OSError:
            return False
        return True

    def run(self, channel: socket.socket, report: child.Report) -> int:
        """The nursery's own process; the exit code."""
        return child.serve(_Cradle(self.place.group, self._board, channel, report), report, lambda: None)


class _Cradle:
    """What the nursery's process runs."""

    def __init__(self, group: WorkerGroup, board: Scoreboard, channel: socket.socket, report: child.Report) -> None:
        self._group = group
        self._board = board
        self._channel = channel
        self._report = report
        self._draining = False

    def prepare(self) -> None:
        """Imports what the workers need."""
        if self._group.preload is not None:
            self._group.preload()
            log.debug("%s: %d bytes of libraries given back", self._group.name, forget_clean_pages())
        if others := [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]:
            log.warning("%s: its import started threads, workers may hang: %s", self._group.name, ", ".join(others))

    def run(self) -> None:
        """Forks a worker for each seat that comes."""
        while not self._draining:
            message, fds, _, _ = socket.recv_fds(self._channel, SEAT_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return
            if fds:  # else this process is out of descriptors: the arbiter sees the pipe's end
                self._bear(Seat.unpack(message), fds[0])

    def _bear(self, seat: Seat, fd: int) -> None:
        def main() -> int:
            self._channel.close()
            self._report.close()
            report = child.Report(fd)
            return work(self._group, seat, self._board, report) if report.born() else ExitCode.FORCED

        try:
            child.fork_away(main, self._board.pid)
        except OSError as error:
            log.error("a worker can't be forked: %s", error.strerror)
        finally:
            os.close(fd)

    def drain(self) -> None:
        """Ends the wait for seats: there is nothing to finish."""
        self._draining = True
        self._channel.shutdown(socket.SHUT_RDWR)

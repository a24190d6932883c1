"""Workers from a process that has imported what they need, and used nothing of it.

    arbiter --fork--> nursery: preload(), ready
    arbiter --Seat, its report pipe--> nursery --fork_away--> worker: a child of the arbiter --born, ready--> arbiter

The arbiter itself imports nothing, so what it forks directly (a front, the next nursery) is small. The
nursery only ever receives and forks: it starts no thread, and neither does TensorFlow's import start one
of Python's (those of the C library behind NumPy see to forks themselves). Its death costs its group
nothing but time: workers are not its children.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator

from thriftserve.errors import ExitCode
from thriftserve.supervisor import child
from thriftserve.supervisor.scoreboard import Scoreboard
from thriftserve.supervisor.worker_group import SEAT_BYTES, GroupState, SpawnRequest, WorkerGroup, WorkerSlot, work

# Memory that a process has mapped and needs no more.

_MADV_DONTNEED = 4
#: A mapping's first line in smaps: its place, its rights, its file.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)\s*(/.*)?$")
#: What tells that pages of a private mapping are its own, and would be lost.
_OWN = ("Private_Dirty", "Shared_Dirty", "Anonymous", "Swap")


def forget_clean_pages() -> int:
    """Unmaps the pages of files that this process only reads.

    Returns:
        Bytes that it no longer has in memory.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            found = list(read_only_files(smaps.read()))
    except OSError:  # a system that does not show them
        return 0
    return sum(resident for start, size, resident in found if libc.madvise(start, size, _MADV_DONTNEED) == 0)


def read_only_files(smaps: str) -> Iterator[tuple[int, int, int]]:
    """The mappings of files that have no page of their own and can't get one: (start, size, resident), bytes.

    >>> text = '''7f00-8f00 r-xp 00000000 08:01 77  /lib/some.so
    ... Rss:      4 kB
    ... Private_Dirty:   0 kB
    ... Shared_Dirty:    0 kB
    ... Anonymous:       0 kB
    ... Swap:            0 kB
    ... 9f00-af00 rw-p 00000000 08:01 77  /lib/some.so
    ... Rss:      4 kB
    ... '''
    >>> list(read_only_files(text))
    [(32512, 4096, 4096)]
    """
    for start, size, rights, sizes in _mappings(smaps):
        if "w" not in rights and rights.endswith("p") and sizes["Rss"] and not any(sizes.get(one, 1) for one in _OWN):
            yield start, size, sizes["Rss"]


def _mappings(smaps: str) -> Iterator[tuple[int, int, str, dict[str, int]]]:
    """Every mapping of a file: start, size, rights, its sizes by name in bytes."""
    current: tuple[int, int, str, dict[str, int]] | None = None
    for line in smaps.splitlines():
        head = _MAPPING.match(line)
        if head is None:
            name, _, value = line.partition(":")
            if current is not None and value.endswith("kB"):
                current[3][name] = int(value[:-2]) * 1024
            continue
        if current is not None:
            yield current
        start, end = int(head[1], 16), int(head[2], 16)
        current = (start, end - start, head[3], {"Rss": 0}) if head[5] and head[4] != "0" else None
    if current is not None:
        yield current


log = logging.getLogger(__name__)


class ForkServer:
    """The arbiter's side of a group's nursery: it outlives each process that fills its place.

    Attributes:
        place: where that process is kept.
    """

    def __init__(self, group: WorkerGroup, board: Scoreboard) -> None:
        self.place = WorkerSlot(group, 0, is_nursery=True)
        self._board = board
        self._channel: socket.socket | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be asked for workers."""
        return self.place.worker is not None and self.place.worker.state is GroupState.READY

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

    def ask(self, seat: SpawnRequest, report_fd: int) -> bool:
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
                self._bear(SpawnRequest.unpack(message), fds[0])

    def _bear(self, seat: SpawnRequest, fd: int) -> None:
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

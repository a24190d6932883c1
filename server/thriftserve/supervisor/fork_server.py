"""A process that has imported what the workers of a group need, has used nothing of it, and forks them.

    arbiter --fork--> fork server: preload(), ready
    arbiter --SpawnRequest, report pipe--> fork server --double_fork--> worker, a child of the arbiter: spawned, ready

The arbiter itself imports nothing, so the processes that it forks directly (fronts, the next fork server) stay small.
The fork server only receives and forks. It starts no thread, and neither does TensorFlow's import start a Python
thread (the C library behind NumPy handles forks itself). If it dies, its workers serve on: they are not its children.
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
from thriftserve.supervisor.worker_group import (
    SPAWN_REQUEST_BYTES,
    SpawnRequest,
    WorkerGroup,
    WorkerSlot,
    run_worker,
)

log = logging.getLogger(__name__)

#: madvise(2).
_MADV_DONTNEED = 4
#: The first line of a mapping in /proc/PID/smaps: addresses, rights, inode, file.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)\s*(/.*)?$")
#: Sizes in smaps that are above 0 if a private mapping has pages of its own, which would be lost.
_OWN_PAGES = ("Private_Dirty", "Shared_Dirty", "Anonymous", "Swap")


class ForkServer:
    """The arbiter's side of the fork server of a group. It outlives each process that fills its slot."""

    def __init__(self, group: WorkerGroup, board: Scoreboard) -> None:
        self.slot = WorkerSlot(group, 0, is_fork_server=True)
        self._board = board
        self._channel: socket.socket | None = None

    @property
    def ready(self) -> bool:
        """Whether it accepts spawn requests."""
        return self.slot.serves

    def open(self) -> socket.socket:
        """Open a channel to the next process, and return the process's end. The caller closes that."""
        self.close()
        self._channel, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)  # a stopped fork server must not stop the arbiter
        return far_end

    def close(self) -> None:
        """Close this process's end of the channel."""
        if self._channel is not None:
            self._channel.close()

    def request(self, request: SpawnRequest, report_fd: int) -> bool:
        """Request a worker that reports to `report_fd`. Return False if the process has ended or can't take it now."""
        if self._channel is None:
            return False
        try:
            socket.send_fds(self._channel, [request.pack()], [report_fd])
        except OSError:
            return False
        return True

    def run(self, channel: socket.socket, report: child.Report) -> int:
        """Run the fork server's own process to its end. Return the exit code."""
        return child.run_loop(_ForkServerLoop(self.slot.group, self._board, channel, report), report, lambda: None)


class _ForkServerLoop:
    """What the process of the fork server runs."""

    def __init__(self, group: WorkerGroup, board: Scoreboard, channel: socket.socket, report: child.Report) -> None:
        self._group = group
        self._board = board
        self._channel = channel
        self._report = report
        self._draining = False

    def prepare(self) -> None:
        """Import what the workers need."""
        if self._group.preload is not None:
            self._group.preload()
            log.debug("%s: released %d bytes of clean pages", self._group.name, release_clean_pages())
        if others := [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]:
            log.warning("%s: the import has started threads, workers may hang: %s", self._group.name, ", ".join(others))

    def run(self) -> None:
        """Fork a worker for each request."""
        while not self._draining:
            message, fds, _, _ = socket.recv_fds(self._channel, SPAWN_REQUEST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return
            if fds:  # otherwise this process is out of descriptors, and the arbiter sees the end of the pipe
                self._spawn(SpawnRequest.unpack(message), fds[0])

    def _spawn(self, request: SpawnRequest, report_fd: int) -> None:
        def main() -> int:
            self._channel.close()
            self._report.close()
            report = child.Report(report_fd)
            if not report.spawned():
                return ExitCode.FORCED
            return run_worker(self._group, request, self._board, report)

        try:
            child.double_fork(main, self._board.pid)
        except OSError as error:
            log.error("can't fork a worker: %s", error.strerror)
        finally:
            os.close(report_fd)

    def drain(self) -> None:
        """End the wait for requests. There is nothing to finish."""
        self._draining = True
        self._channel.shutdown(socket.SHUT_RDWR)


def release_clean_pages() -> int:
    """Give the pages of files that this process only reads back to the kernel, which loads them again when needed.

    Returns:
        How many bytes of memory that frees.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            mappings = list(clean_mappings(smaps.read()))
    except OSError:  # this system has no smaps
        return 0
    return sum(resident for start, size, resident in mappings if libc.madvise(start, size, _MADV_DONTNEED) == 0)


def clean_mappings(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Yield (start, size, resident), in bytes, of each file mapping that has no page of its own and can't get one.

    >>> text = '''7f00-8f00 r-xp 00000000 08:01 77  /lib/some.so
    ... Rss:      4 kB
    ... Private_Dirty:   0 kB
    ... Shared_Dirty:    0 kB
    ... Anonymous:       0 kB
    ... Swap:            0 kB
    ... 9f00-af00 rw-p 00000000 08:01 77  /lib/some.so
    ... Rss:      4 kB
    ... '''
    >>> list(clean_mappings(text))
    [(32512, 4096, 4096)]
    """
    for start, size, rights, sizes in _file_mappings(smaps):
        has_own_pages = any(sizes.get(name, 1) for name in _OWN_PAGES)
        if "w" not in rights and rights.endswith("p") and sizes["Rss"] and not has_own_pages:
            yield start, size, sizes["Rss"]


def _file_mappings(smaps: str) -> Iterator[tuple[int, int, str, dict[str, int]]]:
    """Yield the start, size, rights and further sizes, by name, of each mapping of a file, in bytes."""
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

"""Where log lines go: stderr, without ever waiting for whoever reads it.

    line --write()--> stderr                          at once, if it takes it
                  `-> a bounded buffer --> stderr     a thread writes it when stderr takes more
                      `-> dropped and counted         while the buffer is full; the count is told when there is room

A pipe that nobody reads holds 64 KiB. A server that waited for room would answer nobody, and could not be stopped.
"""

from __future__ import annotations

import io
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

MAX_BUFFER_BYTES = 256 * 1024
#: Within this many bytes a write to a pipe is whole, and does not wait if poll says that there is room: PIPE_BUF.
_WHOLE_BYTES = 4096
_POLL_MS = 500
_FLUSH_S = 0.5


def ensure_standard_streams() -> list[str]:
    """Open /dev/null in place of standard streams that are closed, so that no socket gets their descriptors.

    Returns:
        The names of those that were closed, of "stdin", "stdout" and "stderr".
    """
    closed = []
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest descriptor, which is this one
            closed.append(name)
    return closed


class LogOutput:
    """Writes to a descriptor and never waits. Any thread may use it; a forked child begins with an empty buffer.

    Args:
        fd: the descriptor.
        note: makes the line that tells how many lines were dropped.
    """

    def __init__(self, fd: int, note: Callable[[int], str]) -> None:
        self._fd = fd
        self._note = note
        self._may_wait = not _stop_waiting(fd)
        os.register_at_fork(after_in_child=self._reset)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        #: Lines that were dropped since the last one that was not.
        self.dropped = 0

    def write(self, text: str) -> None:
        """Write lines now or later, or drop them."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._waiting_bytes + len(data) > MAX_BUFFER_BYTES:
                self.dropped += 1
                return
            self._append(data)
            if not self._flush() and self._thread is None:
                self._thread = threading.Thread(target=self._write_rest, name="log-output", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Give whoever reads the descriptor half a second to take the rest."""
        until = time.monotonic() + _FLUSH_S
        while not self._flush() and time.monotonic() < until:
            self._poll(_POLL_MS / 10)

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def _flush(self) -> bool:
        """Write what can be written without waiting; return whether nothing is left."""
        with self._lock:
            while self._waiting:
                data = self._waiting[0]
                try:
                    if self._may_wait and not self._poll(0):
                        return False
                    written = os.write(self._fd, data[:_WHOLE_BYTES] if self._may_wait else data)
                except BlockingIOError:
                    return False
                except OSError:  # it is closed, or the disk is full: nobody can be told here
                    self._drop_all()
                    return True
                self._waiting_bytes -= written
                if written < len(data):
                    self._waiting[0] = data[written:]
                    continue
                self._waiting.popleft()
                if not self._waiting and self.dropped:
                    count, self.dropped = self.dropped, 0
                    self._append(self._note(count).encode())
            return True

    def _drop_all(self) -> None:
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _write_rest(self) -> None:
        while True:
            self._poll(_POLL_MS)
            with self._lock:
                if self._flush():
                    self._thread = None
                    return

    def _poll(self, timeout_ms: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(mask & select.POLLOUT for _, mask in poll.poll(timeout_ms))


def _stop_waiting(fd: int) -> bool:
    """Have writes to a pipe or socket fail instead of wait; return whether they do, or never waited.

    A pipe is opened anew for that: the mode of a description counts for every process that has it.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        os.set_blocking(fd, False)
    elif stat.S_ISFIFO(mode):
        try:
            opened = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        os.dup2(opened, fd)
        os.close(opened)
    return not stat.S_ISCHR(mode)


class OutputStream(io.TextIOBase):
    """A text stream into a `LogOutput`, for what is printed: a print must neither wait nor fail."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, output: LogOutput, fd: int) -> None:
        self._output = output
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, for those that write to it themselves."""
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._output.write(text)
        return len(text)

"""Signals as a queue: the handler only writes a byte, the main loop reads it.

kernel --> wake-up pipe --take()--> signal numbers, in order
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class SignalQueue:
    """A context manager that queues the process's signals, and restores their handlers at its end.

    Enter it in the main thread. SIGUSR1 also prints the stacks of all threads to stderr.

    Attributes:
        fd: readable when the queue has signals.
        writer: the other end of the pipe. A child process has no use for either.
    """

    def __enter__(self) -> SignalQueue:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("run a server in the main thread: it handles the signals of the process")
        self.fd, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self._old_handlers: dict[int, Any] = {number: signal.signal(number, _ignore) for number in HANDLED}
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self.fd)
        os.close(self.writer)

    def take(self) -> list[int]:
        """Remove and return the signals that have arrived."""
        numbers: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 256):
                numbers.extend(number for number in data if number in HANDLED)
        return numbers


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. Python writes to the wake-up pipe only for signals that have a Python handler."""

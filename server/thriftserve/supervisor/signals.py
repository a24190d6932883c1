"""Signals as a queue: a handler only writes a byte, a main loop reads it.

kernel --> wake-up pipe --take()--> numbers, in order
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


def _ignore(number: int, frame: FrameType | None) -> None:
    """A Python handler has to be there for the wake-up pipe to be written to."""


class SignalQueue:
    """While entered, the process's signals come out of `take`; behind it, they are as they were.

    Attributes:
        fd: readable when there are any.
        writer: what the kernel's side writes to; a child of this process has no use for either.
    """

    def __enter__(self) -> SignalQueue:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a server must be run in the main thread: it handles the process's signals")
        self.fd, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self._old: dict[int, Any] = {number: signal.signal(number, _ignore) for number in HANDLED}
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self.fd)
        os.close(self.writer)

    def take(self) -> list[int]:
        """The signals that arrived since the last call."""
        numbers: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 256):
                numbers.extend(number for number in data if number in HANDLED)
        return numbers

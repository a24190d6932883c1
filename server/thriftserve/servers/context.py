"""What every server type is given, and what all of them do the same way.

Listener + settings + factory  -->  Host  -->  a loop: prepare() -> run(), until drain()
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from thrift.Thrift import TProcessor

from thriftserve.rpc import Refusal
from thriftserve.settings import HostSettings
from thriftserve.status import WorkerPhase
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.listener import Listener
from thriftserve.supervisor.tls import tls_context

log = logging.getLogger(__name__)

Factory = Callable[[WorkerContext], TProcessor]


def begun(factory: Factory) -> Factory:
    """In a worker process, before it loads or forks: a factory that has something to settle then has `begin`."""
    begin: Callable[[], None] | None = getattr(factory, "begin", None)
    if begin is not None:
        begin()
    return factory


class Wakeup:
    """Ends a wait in `poll` from a signal handler or another thread."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """Makes `fd` readable."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Makes it unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def wait(self, seconds: float) -> None:
        """Sleeps, unless it is set."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(seconds * 1000)


@dataclass
class ServerContext:
    """A service to be hosted, in the process that hosts it."""

    settings: HostSettings
    listener: Listener
    context: WorkerContext
    factory: Factory
    refusal: Refusal | None = None
    #: Made by `load`.
    processor: TProcessor = None
    tls: ssl.SSLContext | None = None
    draining: bool = False
    wakeup: Wakeup = field(default_factory=Wakeup)

    def load(self) -> None:
        """Makes the processor, and the TLS context from the files as they are now.

        Raises:
            StartError: one of them can't be made.
        """
        self.tls = tls_context(self.settings)
        self.processor = self.factory(self.context)

    def begin(self) -> None:
        """Everything is loaded: the status says so before the parent hears of it."""
        self.context.set_phase(WorkerPhase.IDLE)

    def drain(self) -> None:
        """Take nothing new; safe in a signal handler."""
        self.draining = True
        self.context.set_phase(WorkerPhase.DRAINING)
        self.wakeup.set()

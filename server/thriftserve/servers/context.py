"""What every server type is given.

listener + settings + factory  -->  ServerContext  -->  a loop: prepare() -> run(), until drain()
"""

from __future__ import annotations

import contextlib
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
from thriftserve.supervisor.listener import Listener, tls_context

#: Creates the processor of a service, in each process that serves.
ProcessorFactory = Callable[[WorkerContext], TProcessor]


class Wakeup:
    """Ends a wait in `poll` from a signal handler or another thread."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """Make `fd` readable."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Make `fd` unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def wait(self, seconds: float) -> None:
        """Sleep for that long, or until it is set."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(seconds * 1000)


@dataclass
class ServerContext:
    """A service in the process that serves it.

    Attributes:
        settings: how it is hosted.
        listener: where clients connect.
        context: this worker process.
        factory: creates the processor.
        refusal: creates the answer to a request over a limit; None: a TApplicationException.
        processor: created by `load`.
        tls: created by `load`; None: no TLS.
        draining: whether this process accepts nothing new.
        wakeup: set when a drain starts.
    """

    settings: HostSettings
    listener: Listener
    context: WorkerContext
    factory: ProcessorFactory
    refusal: Refusal | None = None
    processor: TProcessor = None
    tls: ssl.SSLContext | None = None
    draining: bool = False
    wakeup: Wakeup = field(default_factory=Wakeup)

    def load(self) -> None:
        """Create the processor, and the TLS context from the files as they are now.

        Raises:
            StartError: one of them can't be created.
        """
        self.tls = tls_context(self.settings)
        self.processor = self.factory(self.context)

    def mark_ready(self) -> None:
        """Show in the status that everything is loaded. Call it before the supervisor is told."""
        self.context.set_phase(WorkerPhase.IDLE)

    def drain(self) -> None:
        """Accept nothing new. Safe in a signal handler."""
        self.draining = True
        self.context.set_phase(WorkerPhase.DRAINING)
        self.wakeup.set()

"""The process beside the workers that controls what they serve, and answers operators.

ControlPlane  -->  ControlService: run() in a thread, its processor on its own port
SIGHUP  -->  ask_reload()  -->  …  -->  ControlContext.reload()  -->  the workers are replaced
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from thrift.Thrift import TProcessor

from thriftserve.servers.acceptor import tune
from thriftserve.servers.context import ServerContext, Wakeup
from thriftserve.servers.thread_pool import TThreadPoolServer
from thriftserve.settings import HostSettings
from thriftserve.status import WorkerPhase, WorkerRole
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.listener import Listener, tls_context
from thriftserve.supervisor.scoreboard import Counters
from thriftserve.supervisor.worker_group import WorkerGroup

_TICK_S = 1.0


class ControlContext:
    """What a control service can see and do. Thread-safe.

    Attributes:
        counters: the numbers of the control process.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self.counters: Counters = context.counters

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """Return (phase, number of the loaded plan) of each worker."""
        return self._context.board.plans()

    def reload(self) -> None:
        """Have the supervisor replace the workers, one slot after the other."""
        self._context.report.request_reload()

    def state_changed(self) -> None:
        """Have every process read the models' state on disk again."""
        self._context.board.bump_state_revision()


class ControlService(Protocol):
    """Controls what the workers serve.

    Attributes:
        processor: answers operators on the control port.
    """

    processor: TProcessor

    def run(self) -> None:
        """Run until `stop` is called, in a thread of its own."""

    def stop(self) -> None:
        """End `run` soon."""

    def ask_reload(self) -> None:
        """React to SIGHUP. Called from a signal handler: must not block."""


ControlFactory = Callable[[ControlContext], ControlService]


@dataclass(frozen=True)
class ControlPlane:
    """The control service of a server, and its port.

    Attributes:
        factory: creates the control service, in its own process. It gets SIGHUP instead of the workers.
        settings: address, TLS and limits of the control port; None: operators can't call it.
    """

    factory: ControlFactory
    settings: HostSettings | None = None


def control_group(control: ControlPlane, *, drain_order: int) -> WorkerGroup:
    """Return the group of the control process, its port bound.

    Raises:
        BindError: the address can't be listened on.
        ConfigError: a certificate can't be used.
    """
    listener = None
    if control.settings is not None:
        tls_context(control.settings)  # fail now, not in the process, if a file is wrong
        listener = Listener.open(control.settings)
        tune(listener.sock)
    return WorkerGroup(
        "controller",
        1,
        lambda context: _ControlLoop(context, control, listener),
        listener,
        reloads=False,
        takes_sighup=True,
        drain_order=drain_order,
    )


class _ControlLoop:
    """What the control process runs."""

    def __init__(self, context: WorkerContext, control: ControlPlane, listener: Listener | None) -> None:
        self._context = context
        self._factory = control.factory
        self._service: ControlService
        self._port: TThreadPoolServer | None = None
        if control.settings is not None and listener is not None:
            server = ServerContext(control.settings, listener, context, lambda _: self._service.processor)
            self._port = TThreadPoolServer(server)
        self._wakeup = Wakeup()
        self._draining = False

    def prepare(self) -> None:
        """Continue where an earlier control process stopped."""
        self._context.set_role(WorkerRole.KEEPER)
        self._service = self._factory(ControlContext(self._context))
        signal.signal(signal.SIGHUP, lambda *_: self._service.ask_reload())
        if self._port is not None:
            self._port.prepare()
        self._context.set_phase(WorkerPhase.IDLE)

    def run(self) -> None:
        """Serve until drained."""
        thread = threading.Thread(target=self._service.run, name="controller", daemon=True)
        thread.start()
        if self._port is not None:
            self._port.run()
        while not self._draining:
            self._wakeup.wait(_TICK_S)
        self._service.stop()
        thread.join(_TICK_S)

    def drain(self) -> None:
        """Answer accepted calls, then end."""
        self._draining = True
        self._wakeup.set()
        if self._port is not None:
            self._port.drain()

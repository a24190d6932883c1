"""The process beside the workers that looks after what they serve, and listens to operators where it is to.

control(ControlContext)  -->  ControlService: run() in a thread, its processor on a port of its own
SIGHUP  -->  ask_reload()  -->  …  -->  ControlContext.reload()  -->  workers are replaced
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Protocol

from thrift.Thrift import TProcessor

from thriftserve.servers.acceptor import tune
from thriftserve.servers.context import ServerContext, Wakeup
from thriftserve.servers.thread_pool import TThreadPoolServer
from thriftserve.settings import HostSettings
from thriftserve.status import WorkerPhase, WorkerRole
from thriftserve.supervisor.child import Loop
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.counters import Counters
from thriftserve.supervisor.listener import Listener
from thriftserve.supervisor.tls import tls_context
from thriftserve.supervisor.worker_group import WorkerGroup

_TICK_S = 1.0


class ControlContext:
    """What the factory of a control service is told.

    Attributes:
        counters: numbers of the process that serves it.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self.counters: Counters = context.counters

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """(phase, number of the plan that it has loaded) of each worker."""
        return self._context.board.plans()

    def reload(self) -> None:
        """Has the server replace its workers, one place after the other."""
        self._context.report.request_reload()

    def state_changed(self) -> None:
        """Has every process look at the state of the models again."""
        self._context.board.bump_state_revision()


class ControlService(Protocol):
    """Looks after what the workers serve."""

    processor: TProcessor

    def run(self) -> None:
        """Goes on until `stop`, in a thread of its own."""

    def stop(self) -> None:
        """Ends `run` soon."""

    def ask_reload(self) -> None:
        """SIGHUP came; must not block."""


ControlFactory = Callable[[ControlContext], ControlService]


class _ControlLoop:
    """What the process runs."""

    def __init__(self, context: WorkerContext, control: ControlFactory, door: Loop | None) -> None:
        self._context = context
        self._control = control
        self._door = door
        self._wakeup = Wakeup()
        self._draining = False
        self.service: ControlService

    def prepare(self) -> None:
        """Takes up what a process before this one left."""
        self._context.set_role(WorkerRole.KEEPER)
        self.service = self._control(ControlContext(self._context))
        signal.signal(signal.SIGHUP, lambda *_: self.service.ask_reload())
        if self._door is not None:
            self._door.prepare()
        self._context.set_phase(WorkerPhase.IDLE)

    def run(self) -> None:
        """Serves until drained."""
        keeping = threading.Thread(target=self.service.run, name="keeper", daemon=True)
        keeping.start()
        if self._door is not None:
            self._door.run()
        while not self._draining:
            self._wakeup.wait(_TICK_S)
        self.service.stop()
        keeping.join(_TICK_S)

    def drain(self) -> None:
        """Answers who is being answered, then ends."""
        self._draining = True
        self._wakeup.set()
        if self._door is not None:
            self._door.drain()


def control_group(control: ControlFactory, door: HostSettings | None) -> WorkerGroup:
    """The group of that process.

    Args:
        control: makes its service.
        door: how its processor is served, by a TThreadPoolServer; None: nobody can call it.

    Raises:
        BindError: the address can't be listened on.
        ConfigError: a certificate can't be used.
    """
    if door is None:
        return WorkerGroup(
            "keeper", 1, lambda context: _ControlLoop(context, control, None), reloads=False, takes_sighup=True
        )
    tls_context(door)
    listener = Listener.open(door)
    tune(listener.sock)

    def make_loop(context: WorkerContext) -> Loop:
        loop: _ControlLoop
        server = TThreadPoolServer(ServerContext(door, listener, context, lambda _: loop.service.processor))
        loop = _ControlLoop(context, control, server)
        return loop

    return WorkerGroup("keeper", 1, make_loop, listener, reloads=False, takes_sighup=True)

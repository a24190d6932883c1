"""One call hosts any Thrift service on any server type.

    serve(factory, settings)  -->  listener, scoreboard, arbiter  -->  workers: factory(context) -> TProcessor

::

    from thriftserve.server_types import HostSettings, serve

    def processor(context):                     # called in each process that serves
        return Calculator.Processor(CalculatorHandler())

    serve(processor, HostSettings(server_type="TThreadedServer", port=9090))
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve.errors import ExitCode
from thriftserve.rpc import Refusal
from thriftserve.server_types.accepting import tune
from thriftserve.server_types.host import Factory, Host
from thriftserve.settings import HostSettings
from thriftserve.workers.arbiter import Arbiter
from thriftserve.workers.child import Loop
from thriftserve.workers.context import WorkerContext
from thriftserve.workers.group import WorkerGroup
from thriftserve.workers.listener import Listener
from thriftserve.workers.scoreboard import Counters, Scoreboard
from thriftserve.workers.tls import server_context

log = logging.getLogger(__name__)

#: Server type -> where its loop is; imported when chosen.
LOOPS = {
    "TSimpleServer": "thriftserve.server_types.simple:TSimpleServer",
    "TThreadedServer": "thriftserve.server_types.threaded:TThreadedServer",
    "TThreadPoolServer": "thriftserve.server_types.thread_pool:TThreadPoolServer",
    "TNonblockingServer": "thriftserve.server_types.nonblocking:TNonblockingServer",
    "TForkingServer": "thriftserve.server_types.forking:TForkingServer",
    "TProcessPoolServer": "thriftserve.server_types.process_pool:TProcessPoolServer",
}
_CONTROL_HOST = "127.0.0.1"
_CONTROL_THREADS = 4


class ControlContext:
    """What the factory of a control service is told.

    Attributes:
        counters: numbers of the process that serves it.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._server_pid = context.server_pid
        self.counters: Counters = context.counters

    def reload(self) -> None:
        """Has the server replace its workers, as SIGHUP does."""
        os.kill(self._server_pid, signal.SIGHUP)


ControlFactory = Callable[[ControlContext], TProcessor]


def serve(
    factory: Factory,
    settings: HostSettings,
    *,
    preload: Callable[[], None] | None = None,
    refusal: Refusal | None = None,
    control: ControlFactory | None = None,
    control_port: int = 0,
    on_ready: Callable[[str], None] = print,
) -> ExitCode:
    """Hosts a Thrift service until a signal or a failure ends it. Call it in the main thread.

    Args:
        factory: makes the processor, in each process that serves; what it raises of `StartError` ends the server.
        settings: server type, address, wire, limits.
        preload: imports what every worker needs, in the parent, before the first fork. It must not start
            a thread or touch TensorFlow beyond its import.
        refusal: makes the answer to a request that is turned away for a full queue: (method, reason) -> a
            result struct; without it the answer is a TApplicationException.
        control: makes the processor of a second service, on a loopback port of its own.
        control_port: that port; 0 picks one.
        on_ready: gets the one line that says that every worker is ready.

    Returns:
        How the process should end.

    Raises:
        StartError: the address, a certificate or a setting is of no use.
    """
    server_context(settings)  # files that can't be used are told at once
    if unused := settings.unused():
        log.warning("%s has no use for %s: not used", settings.server_type, ", ".join(unused))
    listener = Listener.open(settings)
    tune(listener.sock)
    forking = settings.server_type == "TForkingServer"
    board = Scoreboard(
        settings.server_type,
        2 * (settings.worker_processes + 1),  # a worker and its successor in each place, and the control service
        settings.max_children if forking else 0,
    )
    groups = [
        WorkerGroup(
            "worker",
            settings.worker_processes,
            lambda context: _loop(settings.server_type, Host(settings, listener, context, factory, refusal)),
            listener,
        )
    ]
    ready = f"thriftserve ready {listener.describe()} server_type={settings.server_type}"
    ready += f" workers={settings.worker_processes} pid={os.getpid()}"
    if control is not None:
        groups.append(_control_group(control, settings, control_port))
        ready += f" control_port={groups[-1].listener.port}"
    if preload is not None:
        preload()
    gc.freeze()  # what is here now is shared with every child, until the collector writes on it
    arbiter = Arbiter(groups, board, drain_timeout_s=settings.drain_timeout_s, on_ready=lambda: on_ready(ready))
    return arbiter.run()


def _loop(server_type: str, host: Host) -> Loop:
    module, _, name = LOOPS[server_type].partition(":")
    cls: Any = getattr(importlib.import_module(module), name)
    loop: Loop = cls(host)
    return loop


def _control_group(control: ControlFactory, settings: HostSettings, port: int) -> WorkerGroup:
    own = HostSettings(
        server_type="TThreadPoolServer",
        host=_CONTROL_HOST,
        port=port,
        threads=_CONTROL_THREADS,
        transport=settings.transport,
        protocol=settings.protocol,
    )
    listener = Listener.open(own)
    tune(listener.sock)

    def make_loop(context: WorkerContext) -> Loop:
        host = Host(own, listener, context, lambda found: control(ControlContext(found)))
        return _loop(own.server_type, host)

    return WorkerGroup("control", 1, make_loop, listener, reloads=False)

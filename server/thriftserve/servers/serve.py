"""One call hosts any Thrift service on any server type.

    serve(factory, settings)  -->  listener, scoreboard, arbiter  -->  workers: factory(context) -> TProcessor

::

    from thriftserve.servers import HostSettings, serve

    def processor(context):                     # called in each process that serves
        return Calculator.Processor(CalculatorHandler())

    serve(processor, HostSettings(server_type="TThreadedServer", port=9090))
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve.errors import Code, ExitCode
from thriftserve.rpc import Refusal
from thriftserve.servers.acceptor import tune
from thriftserve.servers.batching import FrontPolicy, Rendezvous, TBatchingFront, TBatchingWorker
from thriftserve.servers.context import Factory, ServerContext, begun
from thriftserve.servers.control_process import ControlFactory, control_group
from thriftserve.settings import HostSettings
from thriftserve.supervisor.arbiter import Arbiter
from thriftserve.supervisor.child import Loop
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.fork_server import release_clean_pages
from thriftserve.supervisor.listener import Listener
from thriftserve.supervisor.scoreboard import Scoreboard
from thriftserve.supervisor.tls import tls_context
from thriftserve.supervisor.worker_group import WorkerGroup

log = logging.getLogger(__name__)

#: Server type -> where its loop is; imported when chosen.
LOOPS = {
    "TSimpleServer": "thriftserve.servers.simple:TSimpleServer",
    "TThreadedServer": "thriftserve.servers.threaded:TThreadedServer",
    "TThreadPoolServer": "thriftserve.servers.thread_pool:TThreadPoolServer",
    "TNonblockingServer": "thriftserve.servers.nonblocking:TNonblockingServer",
    "TForkingServer": "thriftserve.servers.forking:TForkingServer",
    "TProcessPoolServer": "thriftserve.servers.process_pool:TProcessPoolServer",
}


def serve(
    factory: Factory,
    settings: HostSettings,
    *,
    preload: Callable[[], None] | None = None,
    refusal: Refusal | None = None,
    desk: FrontPolicy | None = None,
    control: ControlFactory | None = None,
    control_door: HostSettings | None = None,
    frees_first: bool = False,
    beside: Callable[[Listener], WorkerGroup] | None = None,
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
        desk: what the fronts of TBatchingServer may do by themselves; the other types have no use for it.
        control: makes the service that looks after what is served, in a process of its own; SIGHUP is for it.
        control_door: the address, TLS and limits with which its processor is served; None: it is not.
        frees_first: whether a reload ends each worker before its successor loads.
        beside: makes a group that calls the service on its listener; it drains before the service does.
        on_ready: gets the one line that says that every worker is ready.

    Returns:
        How the process should end.

    Raises:
        StartError: the address, a certificate or a setting is of no use.
    """
    tls_context(settings)  # files that can't be used are told at once
    if unused := settings.unused():
        log.warning("%s has no use for %s: not used", settings.server_type, ", ".join(unused))
    groups = _serving_groups(factory, settings, preload, refusal, desk)
    ready = f"thriftserve ready {_described(groups[0])} server_type={settings.server_type}"
    ready += f" workers={settings.worker_processes} pid={os.getpid()}"
    if control is not None:
        groups.append(control_group(control, control_door))
        ready += f" control_port={_port(groups[-1])}" if control_door is not None else ""
    groups = [replace(group, stop_first=frees_first) for group in groups]
    if beside is not None:
        groups, rest_port = _with_one_before(groups, beside)
        ready += f" rest_port={rest_port}"
    if preload is not None and settings.server_type != "TBatchingServer":
        preload()
        release_clean_pages()
    gc.freeze()  # what is here now is shared with every child, until the collector writes on it
    board = _scoreboard(settings, groups)
    arbiter = Arbiter(groups, board, drain_timeout_s=settings.drain_timeout_s, on_ready=lambda: on_ready(ready))
    return arbiter.run()


def _serving_groups(
    factory: Factory,
    settings: HostSettings,
    preload: Callable[[], None] | None,
    refusal: Refusal | None,
    desk: FrontPolicy | None,
) -> list[WorkerGroup]:
    """Who serves the service itself; the first of them listens."""
    if settings.server_type == "TBatchingServer":
        return _batching_groups(factory, settings, preload, desk or _plain_desk(refusal))
    return [_own_group(factory, settings, refusal)]


def _scoreboard(settings: HostSettings, groups: list[WorkerGroup]) -> Scoreboard:
    forking = settings.server_type == "TForkingServer"
    return Scoreboard(
        settings.server_type,
        2 * sum(group.count for group in groups),  # a worker and its successor in each place
        settings.max_children if forking else 0,
    )


def _with_one_before(
    groups: list[WorkerGroup], make: Callable[[Listener], WorkerGroup]
) -> tuple[list[WorkerGroup], int]:
    """The groups and one that calls the first of them: it drains before all others. And its port."""
    assert groups[0].listener is not None
    caller = make(groups[0].listener)
    return [*(replace(one, drain_order=one.drain_order + 1) for one in groups), caller], _port(caller)


def _described(group: WorkerGroup) -> str:
    assert group.listener is not None
    return group.listener.describe()


def _port(group: WorkerGroup) -> int:
    assert group.listener is not None
    return group.listener.port


def _own_group(factory: Factory, settings: HostSettings, refusal: Refusal | None) -> WorkerGroup:
    """Workers that have the listening socket themselves."""
    listener = Listener.open(settings)
    tune(listener.sock)
    return WorkerGroup(
        "worker",
        settings.worker_processes,
        lambda context: _loop(
            settings.server_type, ServerContext(settings, listener, context, begun(factory), refusal)
        ),
        listener,
    )


def _batching_groups(
    factory: Factory, settings: HostSettings, preload: Callable[[], None] | None, desk: FrontPolicy
) -> list[WorkerGroup]:
    """Fronts, each with a listening socket, and the workers behind them."""
    listeners = Listener.open_shared(settings, settings.fronts)
    switchboard = Rendezvous(settings.fronts)
    groups = [_front_group(number, listener, settings, switchboard, desk) for number, listener in enumerate(listeners)]

    def make_worker(context: WorkerContext) -> Loop:
        return TBatchingWorker(ServerContext(settings, listeners[0], context, begun(factory)), switchboard)

    workers = WorkerGroup("worker", settings.worker_processes, make_worker, None, preload=preload, drain_order=1)
    return [*groups, workers]


def _front_group(
    number: int, listener: Listener, settings: HostSettings, switchboard: Rendezvous, desk: FrontPolicy
) -> WorkerGroup:
    tune(listener.sock)

    def make_front(context: WorkerContext) -> Loop:
        host = ServerContext(settings, listener, context, _nothing_to_serve)
        return TBatchingFront(host, number, switchboard, desk)

    return WorkerGroup(f"front {number}" if settings.fronts > 1 else "front", 1, make_front, listener, reloads=False)


def _nothing_to_serve(context: WorkerContext) -> TProcessor:
    raise NotImplementedError("a front serves nothing itself")


def _plain_desk(refusal: Refusal | None) -> FrontPolicy:
    def fault(method: str, code: Code, message: str) -> Any:
        return refusal(method, message) if refusal is not None and code is Code.RESOURCE_EXHAUSTED else None

    return FrontPolicy(fault=fault)


def _loop(server_type: str, host: ServerContext) -> Loop:
    module, _, name = LOOPS[server_type].partition(":")
    cls: Any = getattr(importlib.import_module(module), name)
    loop: Loop = cls(host)
    return loop

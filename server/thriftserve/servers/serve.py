"""One call hosts any Thrift service on any server type.

    Service, settings  -->  listeners, scoreboard, arbiter  -->  workers: factory(context) -> TProcessor

::

    from thriftserve.servers import HostSettings, serve

    def create_processor(context):              # called in each process that serves
        return Calculator.Processor(CalculatorHandler())

    serve(create_processor, HostSettings(server_type="TThreadedServer", port=9090))
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from thrift.Thrift import TProcessor

from thriftserve.errors import Code, ExitCode
from thriftserve.rpc import Refusal
from thriftserve.servers.acceptor import tune
from thriftserve.servers.batching import FrontPolicy, Rendezvous, TBatchingFront, TBatchingWorker
from thriftserve.servers.context import ProcessorFactory, ServerContext
from thriftserve.servers.control_process import ControlPlane, control_group
from thriftserve.settings import HostSettings
from thriftserve.supervisor.arbiter import Arbiter
from thriftserve.supervisor.child import Loop
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.fork_server import release_clean_pages
from thriftserve.supervisor.listener import Listener, tls_context
from thriftserve.supervisor.scoreboard import Scoreboard
from thriftserve.supervisor.worker_group import WorkerGroup

log = logging.getLogger(__name__)

#: Server type -> module and class of its loop, imported when chosen. TBatchingServer has fronts and workers instead.
LOOPS = {
    "TSimpleServer": "thriftserve.servers.simple:TSimpleServer",
    "TThreadedServer": "thriftserve.servers.threaded:TThreadedServer",
    "TThreadPoolServer": "thriftserve.servers.thread_pool:TThreadPoolServer",
    "TNonblockingServer": "thriftserve.servers.nonblocking:TNonblockingServer",
    "TForkingServer": "thriftserve.servers.forking:TForkingServer",
    "TProcessPoolServer": "thriftserve.servers.process_pool:TProcessPoolServer",
}
#: The order in which processes drain: the sidecar (0), those that hold connections of clients, workers behind fronts.
_CONNECTIONS_ORDER, _BEHIND_ORDER = 1, 2


@dataclass(frozen=True)
class Service:
    """A Thrift service to host.

    Attributes:
        factory: creates the processor, in each process that serves. A StartError that it raises ends the server.
        refusal: creates the answer to a request over a limit: (method, reason) -> result struct. None: the answer is
            a TApplicationException.
        front_policy: what the fronts of TBatchingServer may do without a worker. Other types don't use it.
        preload: imports what every worker needs, once, before workers are forked. It must not start a thread, or use
            TensorFlow beyond its import.
        on_worker_start: called in each worker process before it creates a processor, or forks a child that does.
        stop_first: whether a reload ends each worker before its successor loads.
    """

    factory: ProcessorFactory
    refusal: Refusal | None = None
    front_policy: FrontPolicy | None = None
    preload: Callable[[], None] | None = None
    on_worker_start: Callable[[], None] | None = None
    stop_first: bool = False


class ServiceOptions(TypedDict, total=False):
    """What `serve` accepts beside a factory: fields of `Service`. `desk` is the old name of `front_policy`."""

    refusal: Refusal | None
    front_policy: FrontPolicy | None
    preload: Callable[[], None] | None
    desk: FrontPolicy | None


def serve(
    service: Service | ProcessorFactory,
    settings: HostSettings,
    *,
    control: ControlPlane | None = None,
    sidecar: Callable[[Listener], WorkerGroup] | None = None,
    on_ready: Callable[[str], None] = print,
    **options: Unpack[ServiceOptions],
) -> ExitCode:
    """Host a Thrift service until a signal or a failure ends it. Call it in the main thread.

    Args:
        service: the service, or only the factory of its processor; then `options` may have more.
        settings: server type, address, wire, limits.
        control: the service that controls what is served. It runs in its own process.
        sidecar: returns the group of a process that calls the service on its listener, and drains before it.
        on_ready: gets the ready line, once every worker is ready.
        **options: further fields of `Service`, if `service` is a factory.

    Returns:
        How the process should end.

    Raises:
        StartError: the address, a certificate or a setting can't be used.
    """
    if not isinstance(service, Service):
        service = _service_of(service, options)
    elif options:
        raise TypeError(f"serve(Service(…)) accepts no {', '.join(options)}: give them to Service")
    tls_context(settings)  # fail now, not in the workers, if a file is wrong
    if unused := settings.unused():
        log.warning("%s does not use %s", settings.server_type, ", ".join(unused))
    groups, listener = _service_groups(service, settings)
    ready = f"thriftserve ready {listener.describe()} server_type={settings.server_type}"
    ready += f" workers={settings.worker_processes} pid={os.getpid()}"
    if control is not None:
        groups.append(control_group(control, drain_order=_CONNECTIONS_ORDER))
        ready += _port("control_port", groups[-1])
    if sidecar is not None:
        groups.append(sidecar(listener))
        ready += _port("rest_port", groups[-1])
    if service.preload is not None and settings.server_type != "TBatchingServer":
        service.preload()
        release_clean_pages()
    gc.freeze()  # keeps the collector from writing on pages that this process shares with its children
    board = Scoreboard(
        settings.server_type,
        2 * sum(group.count for group in groups),  # a worker and its successor in each slot
        settings.max_children if settings.server_type == "TForkingServer" else 0,
    )
    arbiter = Arbiter(groups, board, drain_timeout_s=settings.drain_timeout_s, on_ready=lambda: on_ready(ready))
    return arbiter.run()


def _service_of(factory: ProcessorFactory, options: ServiceOptions) -> Service:
    if "desk" in options:
        warnings.warn("serve(desk=…) is called front_policy=… now", DeprecationWarning, stacklevel=3)
        options["front_policy"] = options.pop("desk")
    return Service(factory, **options)  # type: ignore[misc]  # without `desk`, the options are fields of Service


def _port(name: str, group: WorkerGroup) -> str:
    return f" {name}={group.listener.port}" if group.listener is not None else ""


def _service_groups(service: Service, settings: HostSettings) -> tuple[list[WorkerGroup], Listener]:
    """Return the groups that serve the service, and the listener that the ready line names."""
    if settings.server_type == "TBatchingServer":
        return _batching_groups(service, settings)
    listener = Listener.open(settings)
    tune(listener.sock)

    def make_loop(context: WorkerContext) -> Loop:
        module, _, name = LOOPS[settings.server_type].partition(":")
        loop_class: Any = getattr(importlib.import_module(module), name)
        loop: Loop = loop_class(_worker_server(service, settings, listener, context))
        return loop

    group = WorkerGroup(
        "worker",
        settings.worker_processes,
        make_loop,
        listener,
        stop_first=service.stop_first,
        drain_order=_CONNECTIONS_ORDER,
    )
    return [group], listener


def _batching_groups(service: Service, settings: HostSettings) -> tuple[list[WorkerGroup], Listener]:
    """Return the fronts, each a group with its own listener, and the workers behind them."""
    listeners = Listener.open_shared(settings, settings.fronts)
    rendezvous = Rendezvous(settings.fronts)
    policy = service.front_policy or _policy_for(service.refusal)
    fronts = [_front_group(number, listener, settings, rendezvous, policy) for number, listener in enumerate(listeners)]

    def make_worker(context: WorkerContext) -> Loop:
        return TBatchingWorker(_worker_server(service, settings, listeners[0], context), rendezvous)

    workers = WorkerGroup(
        "worker",
        settings.worker_processes,
        make_worker,
        preload=service.preload,
        stop_first=service.stop_first,
        drain_order=_BEHIND_ORDER,
    )
    return [*fronts, workers], listeners[0]


def _front_group(
    number: int, listener: Listener, settings: HostSettings, rendezvous: Rendezvous, policy: FrontPolicy
) -> WorkerGroup:
    tune(listener.sock)

    def make_front(context: WorkerContext) -> Loop:
        server = ServerContext(settings, listener, context, _no_processor)
        return TBatchingFront(server, number, rendezvous, policy)

    name = f"front {number}" if settings.fronts > 1 else "front"
    return WorkerGroup(name, 1, make_front, listener, reloads=False, drain_order=_CONNECTIONS_ORDER)


def _worker_server(
    service: Service, settings: HostSettings, listener: Listener, context: WorkerContext
) -> ServerContext:
    if service.on_worker_start is not None:
        service.on_worker_start()
    return ServerContext(settings, listener, context, service.factory, service.refusal)


def _no_processor(context: WorkerContext) -> TProcessor:
    raise NotImplementedError("a front has no processor")


def _policy_for(refusal: Refusal | None) -> FrontPolicy:
    """Return the policy of a service that has none of its own."""

    def fault(method: str, code: Code, message: str) -> Any:
        return refusal(method, message) if refusal is not None and code is Code.RESOURCE_EXHAUSTED else None

    return FrontPolicy(fault=fault)

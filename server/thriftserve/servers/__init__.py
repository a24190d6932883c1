"""How a connection's bytes become messages for the processor: one file per server type, one call for all of them."""

from thriftserve.servers.batching import FrontPolicy
from thriftserve.servers.control_process import ControlContext, ControlPlane
from thriftserve.servers.serve import LOOPS, Service, serve
from thriftserve.settings import HostSettings
from thriftserve.supervisor.context import WorkerContext

__all__ = [
    "LOOPS",
    "ControlContext",
    "ControlPlane",
    "FrontPolicy",
    "HostSettings",
    "Service",
    "WorkerContext",
    "serve",
]

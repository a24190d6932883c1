"""How a request reaches the handler: one file a server type, one call for all of them."""

from thriftserve.servers.batching import FrontPolicy
from thriftserve.servers.control_process import ControlContext
from thriftserve.servers.serve import LOOPS, serve
from thriftserve.settings import HostSettings
from thriftserve.supervisor.context import WorkerContext

__all__ = ["LOOPS", "ControlContext", "FrontPolicy", "HostSettings", "WorkerContext", "serve"]

"""How a request reaches the handler: one file a server type, one call for all of them."""

from thriftserve.server_types.batched import Desk
from thriftserve.server_types.control import ControlContext
from thriftserve.server_types.hosting import LOOPS, serve
from thriftserve.settings import HostSettings
from thriftserve.supervisor.context import WorkerContext

__all__ = ["LOOPS", "ControlContext", "Desk", "HostSettings", "WorkerContext", "serve"]

"""The name that `thriftserve.servers` had until version 0.2; it stays until 1.0.

>>> from thriftserve.server_types import serve
"""

from thriftserve.servers import LOOPS, ControlContext, HostSettings, WorkerContext, serve
from thriftserve.servers import FrontPolicy as Desk

__all__ = ["LOOPS", "ControlContext", "Desk", "HostSettings", "WorkerContext", "serve"]

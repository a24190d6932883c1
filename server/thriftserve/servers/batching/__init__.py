"""TBatchingServer: fronts that hold the connections, workers that take batches from them."""

from thriftserve.servers.batching.front import TBatchingFront
from thriftserve.servers.batching.ipc import Switchboard
from thriftserve.servers.batching.local_replies import Desk, Fault
from thriftserve.servers.batching.worker import TBatchingWorker

__all__ = ["Desk", "Fault", "Switchboard", "TBatchingFront", "TBatchingWorker"]

"""TBatchingServer: fronts that hold the connections, workers that take batches from them."""

from thriftserve.servers.batching.front import TBatchingFront
from thriftserve.servers.batching.ipc import Rendezvous
from thriftserve.servers.batching.local_replies import Fault, FrontPolicy
from thriftserve.servers.batching.worker import TBatchingWorker

__all__ = ["Fault", "FrontPolicy", "Rendezvous", "TBatchingFront", "TBatchingWorker"]

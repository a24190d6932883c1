"""TBatchingServer: fronts that hold the connections, workers that take batches from them."""

from thriftserve.server_types.batched.desk import Desk, Fault
from thriftserve.server_types.batched.front import TBatchingFront
from thriftserve.server_types.batched.switchboard import Switchboard
from thriftserve.server_types.batched.worker import TBatchingWorker

__all__ = ["Desk", "Fault", "Switchboard", "TBatchingFront", "TBatchingWorker"]

"""What is asked of the model, and what it answers.

Setup  -->  predict  -->  Prediction
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from thriftserve_bench.records.calls import OURS, SIDES
from thriftserve_bench.records.experiments import TYPES
from thriftserve_bench.servers import SERVER_TYPES
from thriftserve_bench.simulator.costs import Costs

#: How a call spends its service time: see `thriftserve_bench.workloads.timed`.
HOLD_GIL, SPIN, SLEEP = "hold-gil", "spin", "sleep"
WORKLOADS = (HOLD_GIL, SPIN, SLEEP)


class NotToBeSimulated(Exception):
    """The model has no answer for such a setup; the message says what it expected."""


@dataclass(frozen=True)
class Setup:
    """A server, its work and its machine.

    Raises:
        NotToBeSimulated: the model does not know it, or a number makes no sense.
    """

    server_type: str
    side: str = OURS
    workload: str = HOLD_GIL
    service_s: float = 0.3
    cores: int = 64
    workers: int = 10
    threads: int = 10
    #: Calls that each worker of TBatchingServer has in hand at once.
    runs: int = 1
    costs: Costs = field(default_factory=Costs)
    #: Clients are the threads of one process on the server's machine, as in the experiments; False: each is
    #: a machine of its own.
    clients_here: bool = True

    def __post_init__(self) -> None:
        for name, known in (("server_type", SERVER_TYPES), ("side", SIDES), ("workload", WORKLOADS)):
            if getattr(self, name) not in known:
                raise NotToBeSimulated(f"{name}={getattr(self, name)}: expected one of {', '.join(known)}")
        if self.server_type not in TYPES[self.side]:
            raise NotToBeSimulated(f"server_type={self.server_type}: there is none with side={self.side}")
        for name in ("cores", "workers", "threads", "runs"):
            if getattr(self, name) < 1:
                raise NotToBeSimulated(f"{name}={getattr(self, name)}: expected 1 or more")
        if not 0 <= self.service_s < float("inf"):
            raise NotToBeSimulated(f"service_s={self.service_s:g}: expected 0 or more seconds")


class PredictedCall(NamedTuple):
    """One call, as its client would see it."""

    thread: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Prediction:
    """What the model expects, in seconds from the moment at which the first client thread is let go."""

    elapsed_s: float
    #: In the order of their ends.
    calls: list[PredictedCall]
    #: Steps that the simulation took: what it costs, whatever the machine.
    events: int

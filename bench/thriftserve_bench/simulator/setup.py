"""The questions to the model and its answers: setups, their costs, predictions.

Setup, Costs  -->  predict  -->  Prediction
ExperimentRun.calibration  --costs_from-->  Costs of one server on the machine of the run
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import linear_regression, median
from typing import NamedTuple

from thriftserve_bench.records.calls import OURS, SIDES
from thriftserve_bench.records.experiments import TYPES, ExperimentRun
from thriftserve_bench.servers import BATCHING, SERVER_TYPES

FORKING = "TForkingServer"


@dataclass(frozen=True)
class Costs:
    """Seconds, each on an idle machine.

    The defaults are round figures of one 2-core virtual machine (Xeon, 2.x GHz, Python 3.11, loopback): they
    stand in where nothing was measured, and next to a service time of 300 ms they hardly matter.
    """

    #: From one client thread to the next where many are released at once.
    client_start_s: float = 0.00005
    connect_s: float = 0.0001
    #: A call's client side: encode, send, wake up, decode.
    client_call_s: float = 0.00015
    #: A call's server side, half of it before the service and half after.
    server_call_s: float = 0.00015
    #: A connection's first call beyond another call, in the process that takes it; without fork.
    accept_s: float = 0.0002
    thread_start_s: float = 0.0001
    #: What TNonblockingServer's I/O thread does with a message, which it does not decode: little, under the lock.
    io_turn_s: float = 0.00001
    #: What TBatchingServer's front does with a request, handing it over and passing its answer on included.
    front_s: float = 0.00006
    #: fork() in the parent, which does nothing else meanwhile.
    fork_s: float = 0.0015
    #: A child's beginning, until it can take the request: page faults, its own signals, its model.
    fork_child_s: float = 0.004
    #: A child's end: its memory is given back.
    fork_exit_s: float = 0.002
    #: What a wait takes beyond its time.
    oversleep_s: float = 0.0001


def costs_from(run: ExperimentRun, server_type: str = FORKING, side: str = OURS) -> Costs:
    """Return the costs of a server on the machine of a run.

    `calibrate` measures a server's calls and first calls separately, by the clock and by CPU. A first call is a
    connection, a call and a set-up: what both clocks agree on, for the wall's alone counts what else the machine
    did. A forking server's set-up is the fork, which the parent's own CPU shows, and the child's beginning; CPU
    beyond what the client waited for was spent when the child ended. The front of TBatchingServer has its part of a
    call's CPU by itself. What was not measured has `Costs`' defaults.
    """
    measured, default = run.calibration, Costs()
    of_server = {
        name.split("/")[0]: value for name, value in measured.items() if name.endswith(f"/{side}/{server_type}")
    }
    server_call_s = of_server.get("call_cpu_s", default.server_call_s)
    call_s = of_server.get("call_s", server_call_s + default.client_call_s)
    server_call_s = min(server_call_s, call_s)
    connect_s = measured.get("connect_s", default.connect_s)
    set_up = _set_up(run, of_server, call_s + connect_s, server_call_s, forks=server_type == FORKING)
    front_s = min(of_server.get("front_cpu_s", default.front_s), server_call_s) if server_type == BATCHING else 0.0
    return Costs(
        client_start_s=measured.get("client_start_s", default.client_start_s),
        connect_s=connect_s,
        client_call_s=call_s - server_call_s,
        server_call_s=server_call_s - front_s,
        front_s=front_s,
        thread_start_s=measured.get("thread_start_s", default.thread_start_s),
        oversleep_s=measured.get("oversleep_s", default.oversleep_s),
        **set_up,
    )


def _set_up(
    run: ExperimentRun, of_server: dict[str, float], without_s: float, call_cpu_s: float, *, forks: bool
) -> dict[str, float]:
    """Return a first call's cost beyond a connection and a call, by the process that has it."""
    fork_s = of_server.get("first_call_parent_cpu_s", run.calibration.get("fork_s", Costs().fork_s))
    if "first_call_s" not in of_server:
        return {"fork_s": fork_s} if forks else {}
    waited_s = max(0.0, of_server["first_call_s"] - without_s)
    cpu_s = max(0.0, of_server.get("first_call_cpu_s", waited_s + call_cpu_s) - call_cpu_s)
    set_up_s = min(waited_s, cpu_s)
    if not forks:
        return {"accept_s": set_up_s}
    fork_s = min(fork_s, set_up_s)
    return {"accept_s": 0.0, "fork_s": fork_s, "fork_child_s": set_up_s - fork_s, "fork_exit_s": cpu_s - set_up_s}


@dataclass(frozen=True)
class ForkLine:
    """fork() against the parent's resident memory: a straight line, for what is copied are page tables."""

    base_s: float
    s_per_byte: float

    def fork_s(self, resident_bytes: float) -> float:
        """Return what a fork of such a parent costs."""
        return self.base_s + self.s_per_byte * resident_bytes

    def resident_bytes(self, fork_s: float) -> float:
        """Return how large a parent is whose forks cost so much; 0 where any parent's do."""
        return max(0.0, (fork_s - self.base_s) / self.s_per_byte)


def fork_line(run: ExperimentRun, filled_with: str = "ballast") -> ForkLine | None:
    """Fit the line through what a run measured, or None if it measured fewer than two sizes, or no growth."""
    points = [(cost.resident_bytes, median(cost.fork_s)) for cost in run.fork_costs if cost.filled_with == filled_with]
    if len({size for size, _ in points}) < 2:
        return None
    slope, base = linear_regression([size for size, _ in points], [cost for _, cost in points])
    return ForkLine(base, slope) if slope > 0 else None


#: How a call spends its service time: see `thriftserve_bench.workloads.timed`.
HOLD_GIL, SPIN, SLEEP = "hold-gil", "spin", "sleep"
WORKLOADS = (HOLD_GIL, SPIN, SLEEP)


class NotSimulated(Exception):
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
                raise NotSimulated(f"{name}={getattr(self, name)}: expected one of {', '.join(known)}")
        if self.server_type not in TYPES[self.side]:
            raise NotSimulated(f"server_type={self.server_type}: there is none with side={self.side}")
        for name in ("cores", "workers", "threads", "runs"):
            if getattr(self, name) < 1:
                raise NotSimulated(f"{name}={getattr(self, name)}: expected 1 or more")
        if not 0 <= self.service_s < float("inf"):
            raise NotSimulated(f"service_s={self.service_s:g}: expected 0 or more seconds")


class PredictedCall(NamedTuple):
    """One call, as its client would see it."""

    thread: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Prediction:
    """What the model expects, in seconds from the moment at which the first client thread is released."""

    elapsed_s: float
    #: In the order of their ends.
    calls: list[PredictedCall]
    #: Steps that the simulation took: what it costs, whatever the machine.
    events: int

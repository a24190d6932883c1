"""Predictions by a discrete-event model of each server type.

    Pattern + Setup  --predict-->  Prediction: when every call begins and ends
    ExperimentRun    --check-->    prediction beside measurement, for each of its cells
    Published        --predict_published-->  the published table's column, on its 64 cores

    >>> from thriftserve_bench.records.experiments import TEN
    >>> round(predict(TEN, Setup("TProcessPoolServer", service_s=0.3, workers=10)).elapsed_s, 1)
    3.0

In the model are: who accepts and in which order, the interpreter's lock, forks that are serial in the parent, cores,
workers and threads, connections and what they occupy, and the clients' own costs. Not in it are limits (refusals),
memory, the network, and anything that happens by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from simpy import Environment
from simpy.core import EmptySchedule

from thriftserve_bench.records.calls import APACHE, OURS
from thriftserve_bench.records.experiments import PATTERNS, PUBLISHED, ExperimentRun, Outcome, Pattern, Published
from thriftserve_bench.servers import BATCHING
from thriftserve_bench.simulator.machine import SWITCH_INTERVAL_S
from thriftserve_bench.simulator.server_models import (
    ApacheProcessPool,
    ApacheThreadPool,
    Batching,
    Forking,
    Nonblocking,
    ProcessPool,
    Simple,
    Threaded,
    ThreadPool,
)
from thriftserve_bench.simulator.setup import (
    FORKING,
    HOLD_GIL,
    Costs,
    NotSimulated,
    Prediction,
    Setup,
    costs_from,
    fork_line,
)
from thriftserve_bench.simulator.world import Clients, SimulatedServer, World

_SAME = {"TSimpleServer": Simple, "TThreadedServer": Threaded, "TNonblockingServer": Nonblocking, FORKING: Forking}
_SERVERS: dict[str, dict[str, type[SimulatedServer]]] = {
    OURS: {**_SAME, "TThreadPoolServer": ThreadPool, "TProcessPoolServer": ProcessPool, BATCHING: Batching},
    APACHE: {**_SAME, "TThreadPoolServer": ApacheThreadPool, "TProcessPoolServer": ApacheProcessPool},
}
#: Turns that threads which compute take on the lock, in all, at most: more would cost time and change nothing.
_TURNS = 50_000
#: What the published clients ran into: 64 cores, and 33 s for 100 calls in series.
PUBLISHED_CORES, PUBLISHED_SERVICE_S = 64, 0.33


def predict(pattern: Pattern, setup: Setup) -> Prediction:
    """Run the model: no server, no socket, no waiting."""
    world = World(setup, max(SWITCH_INTERVAL_S, pattern.calls * setup.service_s / _TURNS))
    server = _SERVERS[setup.side][setup.server_type](world)
    clients = Clients(world, server, pattern)
    server.start()
    clients.start()
    events = _run(world.env)
    if len(clients.calls) != pattern.calls:
        raise RuntimeError(
            f"the model of {setup.server_type} lost calls: {len(clients.calls)} of {pattern.calls} ended"
        )
    return Prediction(clients.calls[-1].end_s if clients.calls else 0.0, clients.calls, events)


def _run(env: Environment) -> int:
    events = 0
    try:
        while True:
            env.step()
            events += 1
    except EmptySchedule:
        return events


def predict_published(row: Published, fork_s: float | None = None) -> Prediction:
    """Predict a row of the published table on its own machine.

    Args:
        row: the row; one for any server type is predicted for TThreadedServer.
        fork_s: what a fork costs there; None: what explains experiments 5 and 6, see `published_fork_s`.
    """
    fork_s = sum(published_fork_s()) / 2 if fork_s is None else fork_s
    setup = Setup(
        row.server_type or "TThreadedServer",
        side=APACHE,
        workload=HOLD_GIL,
        service_s=PUBLISHED_SERVICE_S,
        cores=PUBLISHED_CORES,
        workers=max(1, row.workers),
        threads=max(1, row.workers),
        costs=Costs(fork_s=fork_s),
    )
    return predict(PATTERNS[row.pattern], setup)


@cache
def published_fork_s() -> tuple[float, float]:
    """Return the costs of a fork, from and to, that explain both published runs of TForkingServer.

    With n clients the last child is born after n forks, one after the other in the parent: a run takes n forks
    longer than without their cost. Experiment 5 has 10 of them and experiment 6 has 100, so each bounds the cost of
    one; what is returned lies within both bounds.
    """
    bounds = []
    for row in PUBLISHED:
        if row.server_type == FORKING:
            free_s = predict_published(row, fork_s=0.0).elapsed_s
            forks = PATTERNS[row.pattern].threads
            bounds.append(((row.low_s - free_s) / forks, (row.high_s - free_s) / forks))
    return max(low for low, _ in bounds), min(high for _, high in bounds)


def published_parent_bytes(run: ExperimentRun) -> tuple[float, float] | None:
    """Return how much a parent would hold, from and to, whose forks are as slow on the machine of a run.

    None if the run did not measure how forks grow with the parent's memory.
    """
    line = fork_line(run)
    if line is None:
        return None
    low_s, high_s = published_fork_s()
    return line.resident_bytes(low_s), line.resident_bytes(high_s)


class Checked(NamedTuple):
    """A measured cell beside its prediction; `ratio` is predicted / measured."""

    outcome: Outcome
    predicted_s: float
    measured_s: float
    ratio: float


def check(run: ExperimentRun) -> list[Checked]:
    """Predict each cell of a run on its machine; cells that failed or can't be simulated are left out."""
    checked = []
    for outcome in run.outcomes:
        prediction = predict_outcome(run, outcome)
        if prediction is not None and not outcome.failure and outcome.elapsed_s > 0:
            ratio = prediction.elapsed_s / outcome.elapsed_s
            checked.append(Checked(outcome, prediction.elapsed_s, outcome.elapsed_s, ratio))
    return checked


def predict_outcome(run: ExperimentRun, outcome: Outcome) -> Prediction | None:
    """Return what the model expects where an outcome was measured, or None if it has no answer."""
    try:
        setup = Setup(
            outcome.server_type,
            outcome.side,
            outcome.workload,
            service_s=outcome.service_ms / 1000,
            cores=int(run.machine["cores"]),
            workers=max(1, outcome.workers),
            threads=max(1, outcome.threads),
            costs=costs_from(run, outcome.server_type, outcome.side),
        )
        return predict(PATTERNS[outcome.pattern], setup)
    except (NotSimulated, KeyError):
        return None


#: Predicted and measured are to agree this well.
WITHIN = 0.15


@dataclass(frozen=True)
class Predictions:
    """Predicted seconds, by outcome and by published row; what is missing was not predicted."""

    by_outcome: dict[int, float] = field(default_factory=dict)
    by_published: dict[str, float] = field(default_factory=dict)

    def of(self, outcome: Outcome) -> float | None:
        """Return the predicted seconds of an outcome, on the machine of its run."""
        return self.by_outcome.get(id(outcome))

    def of_published(self, row: Published) -> float | None:
        """Return the predicted seconds of a published row, on 64 cores."""
        return self.by_published.get(row.row)


def predict_run(run: ExperimentRun) -> Predictions:
    """Predict every outcome of a run; what can't be simulated is left out."""
    return Predictions({id(checked.outcome): checked.predicted_s for checked in check(run)}, _published_predictions())


@cache
def _published_predictions() -> dict[str, float]:
    return {row.row: predict_published(row).elapsed_s for row in PUBLISHED}

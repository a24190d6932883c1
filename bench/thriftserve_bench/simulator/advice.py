"""Which server type for which case, and why: the simulator's answers for every case, with this machine's costs.

ExperimentRun  -->  Case: work, service time, clients, cores, processes, parent  -->  Advice: winner, reason, every time

A type that needs more processes than the case affords cannot win. Of types within `TIE` of the fastest the one with
the fewest processes wins: each process is a copy of the model (the front of TBatchingServer has none, and is not
counted). What is equal then goes to TBatchingServer, for what is not in the times: no client can hold a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from statistics import median

from thriftserve_bench.records.calls import OURS
from thriftserve_bench.records.experiments import HUNDRED, TEN, ExperimentRun, Pattern
from thriftserve_bench.servers import BATCHING, WITH_THREADS, WITH_WORKERS
from thriftserve_bench.simulator.ideal import HOLDS_LOCK
from thriftserve_bench.simulator.predict import predict
from thriftserve_bench.simulator.setup import Costs, Setup, costs_from

FORKING, POOL = "TForkingServer", "TProcessPoolServer"
#: Those of equal time and processes are named in this order: the one with the fewest ways to starve first.
TYPES = (BATCHING, "TThreadPoolServer", "TNonblockingServer", "TThreadedServer", POOL, FORKING, "TSimpleServer")
_MANY_PROCESSES = (*WITH_WORKERS, FORKING)
TIE = 1.05

WORKS = {
    "spin": "computes in Python",
    "hold-gil": "holds the interpreter lock while it waits",
    "sleep": "waits for a GPU",
}
CLIENTS = {"ten": "10 that stay connected", "hundred": "100 that come for one call and go"}
SERVICES_MS = (10, 300)
CORES = (2, 4, 8, 64)
_ENOUGH_CORES = 4
PROCESSES = (1, 2, 4, 10, 100)
PARENTS = {"light": "small", "tensorflow": "has TensorFlow loaded"}


@dataclass(frozen=True)
class Case:
    """A case that a reader can choose."""

    work: str
    service_ms: int
    #: A pattern's name.
    clients: str
    cores: int
    #: At most so many that serve: what memory allows.
    processes: int
    #: What the parent of a forking server holds.
    parent: str

    @property
    def key(self) -> str:
        """The key of the case in the page."""
        return "|".join(map(str, (self.work, self.service_ms, self.clients, self.cores, self.processes, self.parent)))


@dataclass(frozen=True)
class Advice:
    """The answer to a case."""

    winner: str
    #: Workers or threads to start it with.
    size: str
    why: str
    #: Seconds for the pattern's 100 calls, by type; None: it needs more processes than there may be.
    seconds: dict[str, float | None]


def cases() -> Iterator[Case]:
    """Yield every case that can be chosen."""
    for choice in product(WORKS, SERVICES_MS, CLIENTS, CORES, PROCESSES, PARENTS):
        yield Case(*choice)


def advise(run: ExperimentRun) -> dict[str, Advice]:
    """Return the advice for every case, by its key, with the costs of the machine of the run."""
    simulated = _Simulated(run)
    return {case.key: _judged(case, simulated) for case in cases()}


class _Simulated:
    """Times of a run's machine, each simulated once."""

    def __init__(self, run: ExperimentRun) -> None:
        self._costs = {(name, parent): _costs(run, name, parent) for name in TYPES for parent in PARENTS}
        self.seconds = cache(self._seconds)

    def best_size(self, case: Case, server_type: str) -> int:
        """Return the workers of the fastest allowed server of a type, the fewest if several are equal.

        Calls that wait without the lock do so together in one worker of TBatchingServer. Computing fills the cores,
        but fewer workers than callers may leave a core idle at the end.
        """
        if server_type == BATCHING and case.work not in HOLDS_LOCK:
            return 1
        most = min(case.processes, _pattern(case.clients).threads)
        sizes = sorted({min(most, case.cores), most}) if case.work == "spin" else [most]
        times = [self.of(case, server_type, size) for size in sizes]
        return next(size for size, time in zip(sizes, times, strict=True) if time <= min(times) * TIE)

    def of(self, case: Case, server_type: str, size: int) -> float:
        """Return seconds of a case on a type with so many workers."""
        parent = case.parent if server_type == FORKING else "light"
        # Calls of one process, a core or less together, gain nothing by many.
        cores = case.cores if server_type in _MANY_PROCESSES else min(case.cores, _ENOUGH_CORES)
        return self.seconds(server_type, case.work, case.service_ms, case.clients, cores, size, parent)

    def _seconds(
        self, server_type: str, work: str, service_ms: int, clients: str, cores: int, size: int, parent: str
    ) -> float:
        pattern = _pattern(clients)
        setup = Setup(
            server_type,
            OURS,
            work,
            service_s=service_ms / 1000,
            cores=cores,
            workers=size,
            threads=pattern.threads,
            runs=1 if work in HOLDS_LOCK else pattern.threads,
            costs=self._costs[server_type, parent],
        )
        return predict(pattern, setup).elapsed_s


def _costs(run: ExperimentRun, server_type: str, parent: str) -> Costs:
    costs = costs_from(run, server_type, OURS)
    measured = [cost for cost in run.fork_costs if cost.filled_with == parent]
    if server_type != FORKING or not measured:
        return costs
    whole, fork = (median(times) for times in (measured[-1].fork_and_exit_s, measured[-1].fork_s))
    return replace(costs, fork_s=max(costs.fork_s, fork), fork_exit_s=max(costs.fork_exit_s, whole - fork))


def _pattern(name: str) -> Pattern:
    return {each.name: each for each in (TEN, HUNDRED)}[name]


def _judged(case: Case, simulated: _Simulated) -> Advice:
    callers = _pattern(case.clients).threads
    processes = {FORKING: callers} | {name: simulated.best_size(case, name) for name in WITH_WORKERS}
    seconds: dict[str, float | None] = {name: simulated.of(case, name, processes.get(name, 1)) for name in TYPES}
    if callers > case.processes:
        seconds[FORKING] = None
    possible = {name: value for name, value in seconds.items() if value is not None}
    fastest = min(possible.values())
    winner = min(
        (name for name, value in possible.items() if value <= fastest * TIE),
        key=lambda name: (processes.get(name, 1), TYPES.index(name)),
    )
    workers = processes.get(winner, 1)
    return Advice(winner, _size(case, winner, workers), _why(case, winner, possible, workers), seconds)


def _size(case: Case, winner: str, workers: int) -> str:
    callers, waits = _pattern(case.clients).threads, case.work not in HOLDS_LOCK
    if winner in WITH_WORKERS:
        runs = f" --runs-per-worker {callers}" if winner == BATCHING and waits else ""
        return f"--workers {workers}{runs}"
    if winner in WITH_THREADS:
        # Threads that take turns on the lock win nothing by being many.
        return f"--threads {callers if waits else 2}"
    return ""


def _why(case: Case, winner: str, possible: dict[str, float], workers: int) -> str:
    threads_s = possible["TThreadPoolServer"]
    if case.work not in HOLDS_LOCK:
        text = "A call that waits lets go of the interpreter lock, so threads of one process wait together"
        if winner in (POOL, FORKING):
            return f"{text}; here processes are {threads_s / possible[winner]:.1f} times as fast all the same."
        return f"{text}: as fast as processes, with one copy of the model instead of one a process.{_equal(winner)}"
    if winner not in _MANY_PROCESSES or workers == 1:
        reason = "only one process may be" if case.processes == 1 else "more processes would win nothing"
        text = f"A call holds the interpreter lock to its end, calls go one after another; {reason}."
        return text + (_equal(winner) or " The simplest wins.")
    text = f"A call holds the interpreter lock, so threads of one process take turns ({_s(threads_s)} for 100 calls). "
    if winner == FORKING:
        return (
            f"{text}A child for each of {_pattern(case.clients).threads} connections has a lock of its own: "
            f"{_s(possible[FORKING])}, forks included. A pool needs {_s(possible[POOL])}."
        )
    return text + _why_workers(case, winner, possible, workers)


def _equal(winner: str) -> str:
    """Say why TBatchingServer comes before a type of the same time."""
    if winner != BATCHING:
        return ""
    return " Others are as fast; here a slow or idle client holds nothing, and clients that send much wait their turn."


def _why_workers(case: Case, winner: str, possible: dict[str, float], workers: int) -> str:
    callers = _pattern(case.clients).threads
    threads_s = possible["TThreadPoolServer"]
    text = f"{workers} processes have a lock each: {threads_s / possible[winner]:.1f} times as fast"
    if case.work == "spin" and workers >= case.cores:
        text += f", and {case.cores} cores have no room for more"
    if winner == BATCHING:
        text += ". Whichever idles takes the next request, whoever sent it"
        if possible[POOL] > TIE * possible[BATCHING]:
            text += f"; in {POOL} a connection stays with its worker: {_s(possible[POOL])}"
    else:
        text += f". All calls would go through one front in {BATCHING}: {_s(possible[BATCHING])}"
    if FORKING not in possible:
        return f"{text}. {FORKING} would need {callers} processes; you can afford {case.processes}."
    if possible[FORKING] > TIE * possible[winner]:
        return f"{text}. {FORKING} pays for {callers} forks on top: {_s(possible[FORKING])}."
    return f"{text}, and its workers are there before the callers: nothing is forked for them."


def _s(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"

"""Which candidates are measured, and for how long: all of them briefly, the promising ones again.

    arrangements x batch sizes  --a short round-->  the best of them  --a longer round-->  …  -->  results

Processes are started anew for each number of workers and threads, since both stay the same for a process's life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby, product

from thriftserve.errors import StartError, ThriftServeError
from thriftserve.tools.tune_workers import TuneWorkers

#: A result this near to the best one counts as good as it: measuring again would differ by as much.
_AS_GOOD = 0.97
#: The part of a candidate's time that each round uses.
_ROUNDS = (0.25, 0.5, 1.0)
#: The part of the candidates of a round that go on to the next, and how many at least.
_FINALISTS_PART, _MIN_FINALISTS = 0.3, 4


@dataclass(frozen=True, order=True)
class Arrangement:
    """Worker processes x runs in flight in each x threads inside one operation."""

    workers: int
    runs: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers} x {self.runs} x {self.threads}"

    @property
    def cores(self) -> int:
        """Cores that it keeps busy."""
        return self.workers * self.runs * self.threads


@dataclass(frozen=True)
class Candidate:
    """An arrangement at one batch size."""

    arrangement: Arrangement
    rows: int


@dataclass(frozen=True)
class Result:
    """The figures of a candidate."""

    candidate: Candidate
    rows_per_s: float
    #: Of one run: the median, and the 99th percentile.
    median_ms: float
    p99_ms: float
    #: How long it was measured.
    seconds: float


#: Starts a number of workers with a number of threads each.
StartWorkers = Callable[[int, int], TuneWorkers]
#: Called before each candidate: how many are measured, how many there are in this round, and the candidate.
Progress = Callable[[int, int, Candidate], None]


def arrangements(cores: int) -> list[Arrangement]:
    """Return every way, in powers of two, to keep all of `cores` busy, and one run alone for comparison."""
    sizes = sorted({*(2**power for power in range(cores.bit_length())), cores})
    all_arrangements = (Arrangement(*counts) for counts in product(sizes, repeat=3))
    full = [arrangement for arrangement in all_arrangements if cores / 2 < arrangement.cores <= cores]
    return sorted({Arrangement(1, 1, 1), *full})


def best(results: Iterable[Result], objective: str) -> Result | None:
    """Return the winner: most rows a second, or the shortest run; None if nothing was measured.

    Of those that are as good as the best one, it is the one with the fewest processes (each holds the model once
    more), then the smallest batches (nobody waits for others' rows), then the fewest threads.
    """
    measured = list(results)
    if not measured:
        return None
    top = max(_score(result, objective) for result in measured)
    good = [result for result in measured if _score(result, objective) >= top * _AS_GOOD]
    return min(
        good,
        key=lambda result: (
            result.candidate.arrangement.workers,
            result.candidate.rows,
            result.candidate.arrangement,
        ),
    )


def ranked(results: Iterable[Result], objective: str) -> list[Result]:
    """Return the results, best first."""
    return sorted(results, key=lambda result: -_score(result, objective))


def _score(result: Result, objective: str) -> float:
    return result.rows_per_s if objective == "throughput" else 1 / result.median_ms


@dataclass
class Search:
    """A search over candidates; `results` grows as it goes, so that an interrupted one has something to show.

    Args:
        start_workers: starts the processes for a number of workers and of threads.
        objective: "throughput" or "latency".
        seconds: the longest that one candidate is measured.
        budget_s: nothing new begins after so much time.
        progress: called before each candidate.
    """

    start_workers: StartWorkers
    objective: str
    seconds: float
    budget_s: float
    progress: Progress
    #: The latest, and longest, measurement of each candidate.
    results: dict[Candidate, Result] = field(default_factory=dict)
    #: Candidates that could not be measured, and why.
    failed: dict[Candidate, str] = field(default_factory=dict)
    #: Candidates that there was no time for.
    skipped: int = 0

    def run(self, candidates: Iterable[Candidate]) -> None:
        """Measure.

        Raises:
            StartError: No process could load the model.
        """
        self._end = time.monotonic() + self.budget_s
        left = list(candidates)
        for part in _ROUNDS:
            self._run_round(left, self.seconds * part)
            finalists = max(_MIN_FINALISTS, int(len(left) * _FINALISTS_PART))
            measured = [self.results[candidate] for candidate in left if candidate in self.results]
            left = [result.candidate for result in ranked(measured, self.objective)][:finalists]

    def _run_round(self, candidates: list[Candidate], seconds: float) -> None:
        measured = 0
        ordered = sorted(candidates, key=_order)
        for (workers, threads), group in groupby(ordered, key=lambda candidate: _order(candidate)[:2]):
            same_processes = list(group)
            if self._is_over():
                self.skipped += sum(candidate not in self.results for candidate in same_processes)
                continue
            self.progress(measured, len(candidates), same_processes[0])
            try:
                tune_workers = self.start_workers(workers, threads)
            except StartError as error:
                if not self.results:
                    raise
                self.failed.update(dict.fromkeys(same_processes, error.message))
                continue
            try:
                for candidate in same_processes:
                    self.progress(measured, len(candidates), candidate)
                    self._measure(tune_workers, candidate, seconds)
                    measured += 1
            finally:
                tune_workers.close()

    def _is_over(self) -> bool:
        return time.monotonic() >= self._end and bool(self.results)

    def _measure(self, tune_workers: TuneWorkers, candidate: Candidate, seconds: float) -> None:
        if self._is_over():
            self.skipped += candidate not in self.results
            return
        try:
            rate, times = tune_workers.call(candidate.arrangement.runs, candidate.rows, seconds)
        except ThriftServeError as error:
            self.failed[candidate] = error.message
            return
        median, p99 = times[len(times) // 2] * 1000, times[min(len(times) - 1, len(times) * 99 // 100)] * 1000
        self.results[candidate] = Result(candidate, rate, median, p99, seconds)


def _order(candidate: Candidate) -> tuple[int, int, int, int]:
    """Sort candidates of the same processes together, the smallest first."""
    arrangement = candidate.arrangement
    return arrangement.workers, arrangement.threads, arrangement.runs, candidate.rows

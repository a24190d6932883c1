"""Which cells are measured, and for how long: all of them briefly, the promising ones again.

    arrangements x batch sizes  --a short look-->  the best of them  --twice as long-->  …  -->  results

A crew of processes is made for each number of workers and threads, since both hold for a process's life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby, product

from thriftserve.errors import StartError, ThriftServeError
from thriftserve.tools.tune_workers import TuneWorkers

# What is tried: how many processes, runs and threads, and how many rows a run.

#: A result this near to the best one counts as good as it: measuring again would differ by as much.
_AS_GOOD = 0.97


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
    """What a cell came to."""

    cell: Candidate
    rows_per_s: float
    #: Of one run: the median, and what one run in a hundred exceeds.
    median_ms: float
    p99_ms: float
    #: How long it was measured.
    seconds: float


def arrangements(cores: int) -> list[Arrangement]:
    """Every way, in powers of two, to keep all of `cores` busy, and one run alone for comparison."""
    powers = [2**power for power in range(cores.bit_length())]
    sizes = sorted({*powers, cores})
    every = (Arrangement(*sizes_of) for sizes_of in product(sizes, repeat=3))
    full = [one for one in every if cores / 2 < one.cores <= cores]
    return sorted({Arrangement(1, 1, 1), *full})


def best(results: Iterable[Result], objective: str) -> Result | None:
    """The winner: most rows a second, or the shortest run; None where nothing was measured.

    Of those that are as good as the best one, the one with the fewest processes (each holds the model once more),
    then the smallest batches (nobody waits for others' rows), then the fewest threads.
    """
    found = list(results)
    if not found:
        return None
    top = max(_score(one, objective) for one in found)
    good = [one for one in found if _score(one, objective) >= top * _AS_GOOD]
    return min(good, key=lambda one: (one.cell.arrangement.workers, one.cell.rows, one.cell.arrangement))


def ranked(results: Iterable[Result], objective: str) -> list[Result]:
    """Best first."""
    return sorted(results, key=lambda one: -_score(one, objective))


def _score(result: Result, objective: str) -> float:
    return result.rows_per_s if objective == "throughput" else 1 / result.median_ms


#: Of a cell's time, what the first and the second look take; the last takes all of it.
_LOOKS = (0.25, 0.5, 1.0)
#: Of the cells of one look, the part that has another.
_KEPT = 0.3
#: At least so many have another look.
_FINALISTS = 4

Hire = Callable[[int, int], TuneWorkers]
#: Told before each cell: how many are done, how many there are in this look, and the cell.
Progress = Callable[[int, int, Candidate], None]


@dataclass
class Search:
    """A search over cells; `results` grows as it goes, so that an interrupted one has something to show.

    Args:
        hire: makes the crew for a number of workers and of threads.
        objective: "throughput" or "latency".
        seconds: the longest that one cell is measured.
        budget_s: no look begins after so much time; None: no limit.
        progress: told of each cell.
    """

    hire: Hire
    objective: str
    seconds: float
    budget_s: float
    progress: Progress
    #: The latest, and longest, look at each cell.
    results: dict[Candidate, Result] = field(default_factory=dict)
    #: Cells that could not be measured, and why.
    failed: dict[Candidate, str] = field(default_factory=dict)
    #: Cells that the time was too short for.
    skipped: int = 0

    def run(self, cells: Iterable[Candidate]) -> None:
        """Measures.

        Raises:
            StartError: not one crew could load the model.
        """
        self._end = time.monotonic() + self.budget_s
        left = list(cells)
        for part in _LOOKS:
            self._look(left, self.seconds * part)
            finalists = max(_FINALISTS, int(len(left) * _KEPT))
            left = [one.cell for one in ranked(self._of(left), self.objective)][:finalists]

    def _of(self, cells: Iterable[Candidate]) -> list[Result]:
        return [self.results[cell] for cell in cells if cell in self.results]

    def _look(self, cells: list[Candidate], seconds: float) -> None:
        done = 0
        for (workers, threads), group in groupby(sorted(cells, key=_order), key=lambda cell: _order(cell)[:2]):
            mine = list(group)
            if time.monotonic() >= self._end and self.results:
                self.skipped += len([cell for cell in mine if cell not in self.results])
                continue
            self.progress(done, len(cells), mine[0])
            try:
                crew = self.hire(workers, threads)
            except StartError as error:
                if not self.results:
                    raise
                self.failed.update(dict.fromkeys(mine, error.message))
                continue
            try:
                for cell in mine:
                    self.progress(done, len(cells), cell)
                    self._measure(crew, cell, seconds)
                    done += 1
            finally:
                crew.close()

    def _measure(self, crew: TuneWorkers, cell: Candidate, seconds: float) -> None:
        if time.monotonic() >= self._end and self.results:
            self.skipped += cell not in self.results
            return
        try:
            rate, times = crew.call(cell.arrangement.runs, cell.rows, seconds)
        except ThriftServeError as error:
            self.failed[cell] = error.message
            return
        median, p99 = times[len(times) // 2] * 1000, times[min(len(times) - 1, len(times) * 99 // 100)] * 1000
        self.results[cell] = Result(cell, rate, median, p99, seconds)


def _order(cell: Candidate) -> tuple[int, int, int, int]:
    """Cells of one crew beside each other, the smallest first."""
    at: Arrangement = cell.arrangement
    return at.workers, at.threads, at.runs, cell.rows

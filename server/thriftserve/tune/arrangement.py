"""What is tried: how many processes, runs and threads, and how many rows a run.

cores  --arrangements-->  Arrangement, …  --with each batch size-->  Cell  --measured-->  Result

>>> [str(one) for one in arrangements(2)]
['1 x 1 x 1', '1 x 1 x 2', '1 x 2 x 1', '2 x 1 x 1']
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

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
class Cell:
    """An arrangement at one batch size."""

    arrangement: Arrangement
    rows: int


@dataclass(frozen=True)
class Result:
    """What a cell came to."""

    cell: Cell
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

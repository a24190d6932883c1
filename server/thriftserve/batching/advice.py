"""How many requests are worth handing to a process at once, by what its runs took.

    lanes used lately --> the one that took most of the time --> Advice

Where several lanes are in use, the busiest one decides: what suits it costs the others least.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from thriftserve.batching.lane import Lane

#: Seconds of use that are looked at together.
WINDOW_S = 2.0
#: Seconds for which an advice stays as it is: it is asked for after every batch.
KEPT_S = 0.02


class Advice(NamedTuple):
    """What runs take in this process now.

    `take` is the number of requests that are worth running together, by their usual number of rows; `fixed_us`
    and `row_us` are the microseconds of a run, and of each row in it (0 while they are not known).
    """

    take: int
    fixed_us: float
    row_us: float


class Usage:
    """The lanes used lately.

    Threads may add and ask at once: what one of them misses is counted a moment later.
    """

    def __init__(self, unknown: int) -> None:
        """Keeps what to advise while nothing is known.

        Args:
            unknown: requests to take before any run.
        """
        self._advice = Advice(unknown, 0.0, 0.0)
        self._used: set[Lane] = set()
        self._until = 0.0
        self._window_ends = 0.0

    def add(self, lane: Lane) -> None:
        """Says that a lane had a run."""
        self._used.add(lane)

    def advice(self) -> Advice:
        """The advice of this moment."""
        now = time.monotonic()
        if now < self._until:
            return self._advice
        self._until = now + KEPT_S
        used = self._used
        if used:
            self._advice = of_lane(max(used.copy(), key=lambda lane: lane.busy_us))
        if now > self._window_ends:
            self._window_ends = now + WINDOW_S
            self._used = {lane for lane in used.copy() if lane.fade()}
        return self._advice


def of_lane(lane: Lane) -> Advice:
    """What is worth it where every request is of one lane."""
    rows_a_job = max(1.0, lane.rows / lane.jobs) if lane.jobs and lane.sharing.stacks else 1.0
    fit = lane.times.fit()
    take = max(1, math.ceil(lane.efficient_rows() / rows_a_job))
    return Advice(take, fit.fixed_us if fit else 0.0, fit.row_us if fit else 0.0)

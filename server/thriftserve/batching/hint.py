"""How many requests are worth handing to a process at once, by what its runs took.

    lanes used lately --> the one that took most of the time --> Advice

Where several lanes are in use, the busiest one decides: what suits it costs the others least.
"""

from __future__ import annotations

import math
import time

from thriftserve.batching.group import BatchGroup
from thriftserve.rpc.batch_processor import BatchHint

#: Seconds of use that are looked at together.
WINDOW_S = 2.0
#: Seconds for which an advice stays as it is: it is asked for after every batch.
KEPT_S = 0.02
#: Microseconds that handing requests over costs, however many: waking the other process, a message each way.
HAND_OVER_US = 50.0
#: What is handed over should take this many times that: 95 % of the time is then spent on it.
HAND_OVERS = 19


class UsageTracker:
    """The lanes used lately.

    Threads may add and ask at once: what one of them misses is counted a moment later.
    """

    def __init__(self, unknown: int, timeout_ms: float | None = None) -> None:
        """Keeps what to advise while nothing is known.

        Args:
            unknown: requests to take before any run, and at most where a model doesn't say itself.
            timeout_ms: how long to wait for others, where a model doesn't say itself; None: as it is worth.
        """
        self._unknown = unknown
        self._timeout_ms = timeout_ms
        self._hint = BatchHint(unknown, 0.0, 0.0, _us(timeout_ms))
        self._used: set[BatchGroup] = set()
        self._until = 0.0
        self._window_ends = 0.0

    def add(self, lane: BatchGroup) -> None:
        """Says that a lane had a run."""
        self._used.add(lane)

    def hint(self) -> BatchHint:
        """Return the hint of this moment."""
        now = time.monotonic()
        if now < self._until:
            return self._hint
        self._until = now + KEPT_S
        used = self._used
        if used:
            self._hint = hint_for(max(used.copy(), key=lambda lane: lane.busy_us), self._unknown, self._timeout_ms)
        if now > self._window_ends:
            self._window_ends = now + WINDOW_S
            self._used = {lane for lane in used.copy() if lane.fade()}
        return self._hint


def hint_for(lane: BatchGroup, most: int, timeout_ms: float | None = None) -> BatchHint:
    """What is worth it where every request is of one lane; at most `most`, or what the model says itself."""
    known = lane.sharing.calibration
    fixed_us, row_us = (known.fixed_us, known.row_us) if known is not None else (0.0, 0.0)
    own = lane.sharing.settings.batch_timeout_ms
    wait_us = _us(timeout_ms if own is None else own) if lane.merges else 0  # others would not share its run
    if not lane.jobs:
        return BatchHint(most, fixed_us, row_us, wait_us)
    rows_a_job = max(1.0, lane.rows / lane.jobs) if lane.sharing.stacks else 1.0
    if wait_us:
        return BatchHint(math.ceil(lane.sharing.most / rows_a_job), fixed_us, row_us, wait_us)
    one_run = math.ceil(lane.rows_to_run() / rows_a_job)
    # Small requests are worth handing over together even where they are run one by one.
    one_hand = math.ceil(HAND_OVERS * HAND_OVER_US * lane.jobs / max(1, lane.busy_us))
    return BatchHint(max(1, one_run, min(one_hand, most)), fixed_us, row_us, wait_us)


def _us(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else int(milliseconds * 1000)

"""How many requests are worth handing to a process at once, by what its runs took.

    batch groups used lately --> the one that took most of the time --> BatchHint

If several groups are in use, the busiest one decides: what suits it costs the others least.
"""

from __future__ import annotations

import math
import time

from thriftserve.batching.group import BatchGroup
from thriftserve.rpc.batch_processor import BatchHint

#: Seconds of use that count together.
WINDOW_S = 2.0
#: Seconds for which a hint stays as it is: it is asked for after every batch.
HINT_S = 0.02
#: Microseconds that handing requests over costs, however many: waking the other process, a message each way.
HAND_OVER_US = 50.0
#: What is handed over should take this many times that: 95 % of the time is then spent on it.
HAND_OVERS = 19


class UsageTracker:
    """The batch groups used lately.

    Threads may add and ask at once: what one of them misses is counted a moment later.

    Args:
        max_requests: requests that are worth it before any run, and at most if the model sets no batch size.
        timeout_ms: how long to wait for others, if the model sets no time; None: as long as it is worth.
    """

    def __init__(self, max_requests: int, timeout_ms: float | None = None) -> None:
        self._max_requests = max_requests
        self._timeout_ms = timeout_ms
        self._hint = BatchHint(max_requests, wait_us=_us(timeout_ms))
        self._used: set[BatchGroup] = set()
        self._hint_ends = 0.0
        self._window_ends = 0.0

    def add(self, group: BatchGroup) -> None:
        """Note that a group had a run."""
        self._used.add(group)

    def hint(self) -> BatchHint:
        """Return the hint of this moment."""
        now = time.monotonic()
        if now < self._hint_ends:
            return self._hint
        self._hint_ends = now + HINT_S
        used = self._used
        if used:
            busiest = max(used.copy(), key=lambda group: group.busy_us)
            self._hint = hint_for(busiest, self._max_requests, self._timeout_ms)
        if now > self._window_ends:
            self._window_ends = now + WINDOW_S
            self._used = {group for group in used.copy() if group.fade()}
        return self._hint


def hint_for(group: BatchGroup, max_requests: int, timeout_ms: float | None = None) -> BatchHint:
    """Return what is worth it if every request is of one group; arguments as for `UsageTracker`."""
    policy = group.policy
    calibration = policy.calibration
    fixed_us, row_us = (calibration.fixed_us, calibration.row_us) if calibration is not None else (0.0, 0.0)
    own_ms = policy.settings.batch_timeout_ms
    wait_us = _us(timeout_ms if own_ms is None else own_ms) if group.merges else 0  # others would not share its run
    if not group.tasks:
        return BatchHint(max_requests, fixed_us, row_us, wait_us)
    rows_per_task = max(1.0, group.rows / group.tasks) if policy.stacks else 1.0
    if wait_us:
        return BatchHint(math.ceil(policy.max_rows / rows_per_task), fixed_us, row_us, wait_us)
    one_run = math.ceil(group.rows_to_run() / rows_per_task)
    # Small requests are worth handing over together even if they are run one by one.
    one_hand_over = math.ceil(HAND_OVERS * HAND_OVER_US * group.tasks / max(1, group.busy_us))
    return BatchHint(max(1, one_run, min(one_hand_over, max_requests)), fixed_us, row_us, wait_us)


def _us(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else int(milliseconds * 1000)

"""When a point has been measured for long enough: three windows in a row that agree.

windows  -->  rate and median latency of the last three  -->  settled, or not yet
"""

from __future__ import annotations

from collections.abc import Sequence

from thriftserve_bench import stats
from thriftserve_bench.records.sweep import CLOSED, SweepWindow

#: Windows in a row that have to agree.
IN_A_ROW = 3


def settled(windows: Sequence[SweepWindow], mode: str, within: float) -> bool:
    """Whether the last three windows agree on the rate and on the median latency.

    In an open loop the rate is what arrives, which differs by chance: there it is the part that was answered.
    """
    last = windows[-IN_A_ROW:]
    if len(last) < IN_A_ROW or not all(one.calls for one in last):
        return False
    rates = [rate(one) if mode == CLOSED else one.calls / offered(one) for one in last]
    medians = [stats.quantile_us(stats.merge_histograms([one.latency]), 0.5) or 0.0 for one in last]
    return stats.agree(rates, within) and stats.agree(medians, within)


def rate(window: SweepWindow) -> float:
    """Answers a second."""
    return window.calls / window.elapsed_s if window.elapsed_s else 0.0


def offered(window: SweepWindow) -> int:
    """Calls that were to be made: answered, failed, or without an answer."""
    return window.calls + sum(window.failures.values()) + window.unanswered

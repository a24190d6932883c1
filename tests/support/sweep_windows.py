"""Windows of a sweep, made up for tests.

what a test is about  -->  SweepWindow, everything else of it plain
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from thriftserve_bench import stats
from thriftserve_bench.records.sweep import SweepWindow

_PLAIN = SweepWindow(
    calls=0,
    failures={},
    reason="",
    unanswered=0,
    elapsed_s=1.0,
    latency="",
    from_send="",
    lag="",
    waited=0,
    queue="",
    compute="",
    mean_batch_rows=0.0,
    server_cpu_s=0.1,
    client_cpu_s=[0.1],
    client_starved_s=[0.0],
    rss_bytes=2**21,
    pss_bytes=2**21,
    uss_bytes=2**20,
    load_1m=0.0,
    seed=0,
)


def window(times_us: list[int], **changed: Any) -> SweepWindow:
    """A window of one second with an answer for each of the times, microseconds."""
    return replace(_PLAIN, calls=len(times_us), latency=stats.encode_histogram(stats.histogram_us(times_us)), **changed)

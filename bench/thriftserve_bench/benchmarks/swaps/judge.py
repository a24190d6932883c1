"""Judge the clients' calls: which phase each belongs to, and whether its version could answer it.

    Calls of every client, the versions' states  -->  Load: phases with latencies, wrong and unavailable answers

A version may answer from the moment of its loading, for a worker that has it answers while others still load, until the
server gives it up: later requests are not for it. A request and the news of that may cross on their way, which takes
at most `GRACE_S`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thriftserve_bench.benchmarks.swaps.swapper import AVAILABLE, ENDED, LOADING, UNLOADING
from thriftserve_bench.load.version_clients import Calls
from thriftserve_bench.records.swaps import Load, Phase, Slice
from thriftserve_bench.stats import three_digits

SLICE_S = 0.25
GRACE_S = 0.1
_EXAMPLES = 5
_P99 = 0.99
_NEVER_S = 4e9  # the year 2096


def judge(load: Load, calls: Sequence[Calls], entered: Mapping[int, Mapping[str, float]]) -> None:
    """Add the clients' calls to `load`, whose phases have their times.

    Args:
        load: one server type's load.
        calls: each client's.
        entered: by version and state: when it was entered, seconds since 1970.
    """
    begun, latency, version = (
        np.concatenate(each) for each in zip(*(client.columns() for client in calls), strict=True)
    )
    failed = np.array([failed_us for client in calls for failed_us in client.failed_us], np.int64)
    load.calls = len(begun)
    for client in calls:
        load.wrong += client.wrong
        load.examples += client.wrong_examples
        for reason, count in client.failures.items():
            load.failures[reason] = load.failures.get(reason, 0) + count
    for number in np.unique(version):
        own = version == number
        _judge_version(load, int(number), begun[own] / 1e6, latency[own] / 1e6, entered.get(int(number)))
    for phase in load.phases:
        _count_calls(phase, begun, latency, failed)
    del load.examples[_EXAMPLES:]


def _judge_version(load: Load, number: int, begun_s: Any, took_s: Any, entered: Mapping[str, float] | None) -> None:
    """Judge one version's answers; the version that a server starts with has no LOADING in the log."""
    if entered is None and number != 1:
        load.unavailable += len(begun_s)
        load.examples.append(f"version {number} answered, and the server never said that it had it")
        return
    times = entered or {}
    known_from = times.get(LOADING, 0.0)
    answered_s = begun_s + took_s
    known_to = times.get(UNLOADING, times.get(ENDED, _NEVER_S))
    too_early, too_late = answered_s < known_from, begun_s > known_to + GRACE_S
    load.crossed += int(np.sum((begun_s > known_to) & ~too_late))
    load.early += int(np.sum(answered_s < times.get(AVAILABLE, _NEVER_S if known_from else 0.0)))
    load.unavailable += int(np.sum(too_early | too_late))
    if too_early.any():
        load.examples.append(f"version {number} answered {known_from - answered_s.min():.3f} s before it was loaded")
    if too_late.any():
        late_s = begun_s.max() - known_to
        load.examples.append(f"version {number} answered a request made {late_s:.3f} s after it was given up")


def _count_calls(phase: Phase, begun_us: Any, latency_us: Any, failed_us: Any) -> None:
    from_us, to_us = phase.from_s * 1e6, phase.to_s * 1e6
    inside = (begun_us >= from_us) & (begun_us < to_us)
    begun, latency = begun_us[inside], latency_us[inside]
    phase.calls = len(latency)
    phase.failures = int(np.sum((failed_us >= from_us) & (failed_us < to_us)))
    counted: Counter[int] = Counter()
    for micros, count in zip(*np.unique(latency, return_counts=True), strict=True):
        counted[three_digits(int(micros))] += int(count)
    phase.latencies_us = sorted(counted.items())
    slices = ((begun - from_us) / (SLICE_S * 1e6)).astype(np.int64)
    phase.slices = [_slice(phase.from_s + number * SLICE_S, latency[slices == number]) for number in np.unique(slices)]


def _slice(at: float, latency_us: Any) -> Slice:
    p99 = np.quantile(latency_us, _P99, method="inverted_cdf")
    return Slice(round(at, 3), len(latency_us), int(p99), int(latency_us.max()))

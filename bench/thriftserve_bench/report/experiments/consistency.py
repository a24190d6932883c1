"""Checks of a run's raw calls: what a wrong edit, or a wrong program, would break.

ExperimentRun  -->  Finding: cell and what is wrong with it

Times obey the patterns (each thread's calls follow each other, the last end is the elapsed time) and the workloads
(a call takes its service time; with one lock a process its calls end one after another).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from thriftserve_bench.records.experiments import PATTERNS, Call, ExperimentRun, Outcome, Pattern
from thriftserve_bench.report.experiments.table import cells, elapsed_s

#: Clocks and rounding: seconds.
SLACK_S = 0.002
#: A call may seem this much shorter than its service time (timers of the kernel).
_SERVICE_SLACK = 0.05
#: Workloads whose time is known before: they wait, they don't compute.
_TIMED = ("hold-gil", "sleep")


@dataclass(frozen=True)
class Finding:
    """Something impossible in a cell."""

    cell: str
    text: str


def findings(run: ExperimentRun) -> list[Finding]:
    """Return everything that is wrong; empty if every cell is consistent."""
    result = []
    for cell in cells(run):
        if not cell.outcome.failure:
            result += [Finding(cell.id, text) for text in _faults(cell.outcome)]
    return result


def _faults(outcome: Outcome) -> Iterator[str]:
    pattern = PATTERNS.get(outcome.pattern)
    if pattern is None:
        yield f"pattern {outcome.pattern!r} is unknown"
        return
    yield from _count_faults(outcome, pattern)
    yield from _time_faults(outcome)
    yield from _thread_faults(outcome, pattern)
    if outcome.workload in _TIMED:
        yield from _service_faults(outcome)
    if outcome.workload == "hold-gil":
        yield from _lock_faults(outcome)


def _count_faults(outcome: Outcome, pattern: Pattern) -> Iterator[str]:
    if len(outcome.calls) != pattern.calls:
        yield f"{len(outcome.calls)} calls recorded, the pattern makes {pattern.calls}"
    counts = Counter(call.thread for call in outcome.calls)
    odd = sorted(thread for thread, count in counts.items() if count != pattern.calls_per_thread)
    if len(counts) != pattern.threads or odd:
        yield (
            f"{len(counts)} client threads, of which {len(odd)} made another number of calls than "
            f"{pattern.calls_per_thread}; the pattern has {pattern.threads} threads"
        )


def _time_faults(outcome: Outcome) -> Iterator[str]:
    if any(not 0 <= call.start_s <= call.end_s for call in outcome.calls):
        yield "a call ends before it starts, or starts before the clock"
    last = elapsed_s(outcome)
    if last is None:
        yield "no calls, and no reason given"
    elif abs(last - outcome.elapsed_s) > SLACK_S:
        yield f"elapsed is recorded as {outcome.elapsed_s:.4f} s, its calls end at {last:.4f} s"


def _thread_faults(outcome: Outcome, pattern: Pattern) -> Iterator[str]:
    """Check that a thread makes one call at a time; on a shared client all threads together."""
    ordered = sorted(outcome.calls, key=lambda call: (call.thread, call.start_s, call.end_s))
    overlaps = sum(
        after.start_s < before.end_s - SLACK_S for before, after in pairwise(ordered) if before.thread == after.thread
    )
    if overlaps:
        yield f"{overlaps} calls start before the call before them on the same thread has ended"
    if pattern.shared_client and outcome.workload in _TIMED and outcome.calls:
        yield from _too_early(outcome, outcome.calls, "on the one connection")


def _service_faults(outcome: Outcome) -> Iterator[str]:
    least = outcome.service_ms / 1000 * (1 - _SERVICE_SLACK) - SLACK_S
    short = sum(call.outcome == "ok" and call.end_s - call.start_s < least for call in outcome.calls)
    if short:
        yield f"{short} answered calls are shorter than the {outcome.service_ms:g} ms that each takes to serve"


def _lock_faults(outcome: Outcome) -> Iterator[str]:
    """Check that of a process with one lock no more calls ended than service times passed."""
    known = sorted((call for call in outcome.calls if call.worker_pid), key=lambda call: call.worker_pid)
    for pid, calls in groupby(known, key=lambda call: call.worker_pid):
        yield from _too_early(outcome, list(calls), f"in process {pid}, which has one lock,")


def _too_early(outcome: Outcome, calls: list[Call], where: str) -> Iterator[str]:
    service_s = outcome.service_ms / 1000 * (1 - _SERVICE_SLACK)
    began = min(call.start_s for call in calls)
    ends = sorted(call.end_s for call in calls if call.outcome == "ok")
    early = sum(end - began < count * service_s - SLACK_S for count, end in enumerate(ends, 1))
    if early:
        yield f"{early} calls {where} ended sooner than one after another can"

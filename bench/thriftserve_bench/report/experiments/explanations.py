"""Explanations of a cell's time, with the run's own figures.

Outcome, ideal, fork costs  -->  two or three sentences
"""

from __future__ import annotations

from statistics import median

from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import HUNDRED, PATTERNS, SERIES, SHARED, ExperimentRun, ForkCost, Outcome
from thriftserve_bench.simulator.ideal import HOLDS_LOCK, USES_CORE
from thriftserve_bench.simulator.predict import published_fork_s

_WHOSE = {OURS: "ours", APACHE: "Apache's"}
_IN_ONE_PROCESS = ("TThreadedServer", "TThreadPoolServer", "TNonblockingServer")


def explain(outcome: Outcome, ideal: float, run: ExperimentRun) -> str:
    """Explain what bounds an outcome.

    Args:
        outcome: the cell's.
        ideal: seconds without any overhead.
        run: where it comes from: fork costs and cores.
    """
    if outcome.pattern == SERIES.name:
        return f"One caller, one call at a time: {SERIES.calls} calls in series, whatever serves them."
    if outcome.pattern == SHARED.name:
        return f"{SHARED.threads} threads take turns on one connection, one call at a time: a series again."
    if outcome.server_type == "TSimpleServer":
        return "One connection at a time: the next one waits until the previous one has closed."
    sentences = [_in_threads(outcome) if outcome.server_type in _IN_ONE_PROCESS else _in_processes(outcome, ideal, run)]
    cores = run.machine.get("cores")
    if outcome.workload in USES_CORE and cores:
        sentences.append(f"Each call needs a core, and this machine has {cores}.")
    return " ".join(sentences)


def fork_line(run: ExperimentRun) -> str:
    """Return what a fork costs, smallest and dearest parent that was measured; empty if none was."""
    if not run.fork_costs:
        return ""
    least = min(run.fork_costs, key=lambda cost: cost.resident_bytes)
    most = next(
        (cost for cost in run.fork_costs if cost.filled_with == "tensorflow"),
        max(run.fork_costs, key=lambda cost: cost.resident_bytes),
    )
    return f"A fork costs {_fork(least)}, {_fork(most)}."


def child_line(run: ExperimentRun) -> str:
    """Return what a connection's child costs beyond a call, until its first answer; empty if it was not measured."""
    costs = []
    for side in SIDES:
        first, call = (run.calibration.get(f"{name}/{side}/TForkingServer") for name in ("first_call_s", "call_s"))
        if first is not None and call is not None:
            costs.append(f"{(first - call) * 1000:.1f} ms with {_WHOSE[side]}")
    return f"A child takes {', '.join(costs)} to be born and ready, alone on the machine." if costs else ""


def fork_ms(cost: ForkCost) -> float:
    """Return milliseconds of one fork() as the parent sees it: the median of the repetitions."""
    return median(cost.fork_s) * 1000


def _fork(cost: ForkCost) -> str:
    inside = "TensorFlow in the parent, " if cost.filled_with == "tensorflow" else ""
    return f"{fork_ms(cost):.1f} ms with {inside}{cost.resident_bytes / 2**20:,.0f} MiB resident"


def _in_threads(outcome: Outcome) -> str:
    many = {"TThreadedServer": "A thread for each connection"}.get(outcome.server_type, f"{outcome.threads} threads")
    if outcome.workload in HOLDS_LOCK:
        return f"{many}, one process, one interpreter lock, held for all of a call: calls go one after another."
    tail = "" if outcome.server_type == "TThreadedServer" else f": {outcome.threads} at a time"
    return f"{many} in one process; a call lets go of the interpreter lock while it waits, so calls overlap{tail}."


def _in_processes(outcome: Outcome, ideal: float, run: ExperimentRun) -> str:
    if outcome.server_type == "TForkingServer":
        return _forking(outcome, run)
    rounds = f"{round(ideal * 1000 / outcome.service_ms)} rounds" if outcome.service_ms else "rounds"
    if outcome.server_type == "TProcessPoolServer":
        return f"{outcome.workers} processes with a lock each: {outcome.workers} calls at once, {rounds}."
    return (
        f"{outcome.workers} processes with a lock each take requests from one queue, whichever connection they came "
        f"by: {rounds}, and no worker waits for a slow client."
    )


def _published_fork() -> str:
    low, high = published_fork_s()
    return f"The published 4 s and 11 s both follow from {low * 1000:.0f} to {high * 1000:.0f} ms a fork."


def _forking(outcome: Outcome, run: ExperimentRun) -> str:
    clients = PATTERNS[outcome.pattern].threads
    if outcome.pattern != HUNDRED.name:
        text = f"A process for each connection: {clients} forks, then {clients} calls at once, a lock each."
        return f"{text} {child_line(run)}".strip()
    text = f"A process for each call: {clients} forks one after another, then all calls run at once. {child_line(run)}"
    return " ".join(filter(None, (text.strip(), fork_line(run), _published_fork())))

"""The tables of a run of `swaps`.

FILE.json  -->  SwapsRun  -->  a row a server type, what was missed  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from thriftserve_bench.records.swaps import WITH, WITHOUT, Load, Phase, SwapMemory, SwapsRun
from thriftserve_bench.servers import WITH_WORKERS
from thriftserve_bench.stats import quantile

#: p99 with swaps is at most so many times that without, where new versions load in processes beside those that serve
#: and several serve; and memory after the last swap at most so much above that after the first sample.
P99_TARGET, MEMORY_TARGET = 2.0, 0.05
OUTCOME_HEADINGS = ("server", "clients", "calls", "failed", "wrong", "versions", "swaps", "swap s")
LATENCY_HEADINGS = ("server", "calls/s", "p50 ms", "p99 ms", "max ms", "ratio", "CPU µs")
_NONE = "–"


@dataclass(frozen=True)
class Side:
    """The phases of one name together; milliseconds, calls a second, microseconds of the server's CPU a call."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    calls_per_s: float
    cpu_us: float


def side(load: Load, name: str) -> Side | None:
    """The figures of the phases of a name; None where no call was answered in them."""
    phases = [one for one in load.phases if one.name == name]
    counted = _counted(phases)
    if not counted:
        return None
    calls = sum(one.calls for one in phases)
    return Side(
        p50_ms=quantile(counted, 0.5) / 1000,
        p99_ms=quantile(counted, 0.99) / 1000,
        max_ms=max(each.max_us for one in phases for each in one.slices) / 1000,
        calls_per_s=calls / sum(one.to_s - one.from_s for one in phases),
        cpu_us=sum(one.server_cpu_s for one in phases) / calls * 1e6,
    )


def _counted(phases: Sequence[Phase]) -> list[tuple[int, int]]:
    counts: dict[int, int] = {}
    for one in phases:
        for micros, count in one.latencies_us:
            counts[micros] = counts.get(micros, 0) + count
    return sorted(counts.items())


def p99_ratio(load: Load) -> float | None:
    """p99 with swaps by p99 without."""
    without, swapped = side(load, WITHOUT), side(load, WITH)
    return swapped.p99_ms / without.p99_ms if without and swapped and without.p99_ms else None


def growth(memory: SwapMemory) -> float | None:
    """By how much the last sample is above the first, as a part of it."""
    if len(memory.samples) < 2:
        return None
    return memory.samples[-1].alone / memory.samples[0].alone - 1


def faults(run: SwapsRun) -> list[str]:
    """What must not be, in words: failed requests, wrong answers, swaps that did not happen."""
    found = []
    for one in run.loads:
        failed = sum(one.failures.values())
        if failed:
            reason = max(one.failures, key=lambda each: one.failures[each])
            found.append(f"{one.server_type}: {failed} of {failed + one.calls} requests failed, most by: {reason}")
        if one.wrong or one.unavailable:
            told = "; ".join(one.examples)
            found.append(f"{one.server_type}: {one.wrong} wrong answers, {one.unavailable} out of their time: {told}")
        if one.failure:
            found.append(f"{one.server_type}: {one.failure}")
    for each in run.memory:
        if each.failures or each.wrong:
            found.append(
                f"{each.server_type}: {each.wrong} wrong answers after a swap; failed: {each.failures or 'none'}"
            )
        if each.failure:
            found.append(f"{each.server_type}: {each.failure}")
    return found


def misses(run: SwapsRun) -> list[str]:
    """Targets that are missed, in words."""
    found = []
    for one in run.loads:
        ratio = p99_ratio(one)
        if one.server_type in WITH_WORKERS and ratio is not None and ratio > P99_TARGET:
            found.append(f"{one.server_type}: p99 with swaps {ratio:.2f} times that without, wanted {P99_TARGET:g}")
    for each in run.memory:
        grown = growth(each)
        if grown is not None and grown > MEMORY_TARGET:
            found.append(f"{each.server_type}: memory grew by {grown:.1%}, wanted {MEMORY_TARGET:.0%} at most")
        unsettled = [sample.swaps for sample in each.samples if not sample.settled]
        if unsettled:
            found.append(f"{each.server_type}: memory still changed when it was looked at, after swaps {unsettled}")
    return found


def markdown(run: SwapsRun) -> str:
    """The whole report as Markdown."""
    parts = ["# Swaps: versions that change under load", "\n".join(f"- {line}" for line in _preface(run))]
    for headings, rows in _tables(run):
        rule = ["---", *["---:"] * (len(headings) - 1)]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *rows)))
    return "\n\n".join((*parts, *_verdict(run))) + "\n"


def show(run: SwapsRun, console: Console) -> None:
    """The same on a terminal."""
    for line in _preface(run):
        console.print(line, highlight=False)
    for headings, rows in _tables(run):
        drawn = Table(header_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
        for at, heading in enumerate(headings):
            drawn.add_column(heading, justify="right" if at else "left", no_wrap=True)
        for row in rows:
            drawn.add_row(*row)
        console.print(drawn)
    for line in _verdict(run):
        console.print(line, highlight=False, soft_wrap=True)


def _tables(run: SwapsRun) -> list[tuple[Sequence[str], list[Sequence[str]]]]:
    tables: list[tuple[Sequence[str], list[Sequence[str]]]] = []
    if run.loads:
        tables.append((OUTCOME_HEADINGS, [_outcome_row(one) for one in run.loads]))
        tables.append((LATENCY_HEADINGS, [_latency_row(one) for one in run.loads]))
    if run.memory:
        counts = [f"MiB {sample.swaps}" for sample in max((each.samples for each in run.memory), key=len)]
        rows = [_memory_row(each, len(counts)) for each in run.memory]
        tables.append((("server", *counts, "grown", "PSS", "processes", "s/swap"), rows))
    return tables


def _outcome_row(one: Load) -> Sequence[str]:
    took = [each.available_at - each.landed_at for phase in one.phases for each in phase.swaps]
    return (
        one.server_type,
        str(one.clients),
        f"{one.calls:,}",
        str(sum(one.failures.values())),
        str(one.wrong + one.unavailable),
        str(sum(phase.landed for phase in one.phases)),
        str(len(took)),
        f"{median(took):.2f}/{max(took):.2f}" if took else _NONE,
    )


def _latency_row(one: Load) -> Sequence[str]:
    without, swapped = side(one, WITHOUT), side(one, WITH)
    ratio = p99_ratio(one)

    def pair(name: str, form: str) -> str:
        return "/".join(_NONE if each is None else format(getattr(each, name), form) for each in (without, swapped))

    return (
        one.server_type,
        pair("calls_per_s", ",.0f"),
        pair("p50_ms", ".2f"),
        pair("p99_ms", ".2f"),
        pair("max_ms", ".0f"),
        _NONE if ratio is None else f"{ratio:.2f}",
        pair("cpu_us", ".0f"),
    )


def _memory_row(each: SwapMemory, width: int) -> Sequence[str]:
    sizes = [f"{one.alone / 2**20:.1f}" for one in each.samples]
    grown = growth(each)
    last = each.samples[-1] if each.samples else None
    return (
        each.server_type,
        *sizes,
        *[_NONE] * (width - len(sizes)),
        _NONE if grown is None else f"{grown:+.1%}",
        f"{last.pss / 2**20:.1f}" if last else _NONE,
        str(last.processes) if last else _NONE,
        f"{each.elapsed_s / last.swaps:.2f}" if last else _NONE,
    )


def _preface(run: SwapsRun) -> list[str]:
    told = run.machine
    lines = [
        f"{told['cpu']}, {told['cores']} cores, {told['kernel']}; load average {told['load_before'][0]:.1f} before",
        ", ".join(f"{name} {number}" for name, number in run.versions.items()) + f"; commit {run.commit}; {run.began}",
    ]
    if run.loads:
        settings = run.settings["load"]
        lines.append(
            f"{settings['seconds']:g} s with a new version every {settings['every_s']:g} s and as long without, in "
            f"turns, {settings['rounds']} of each; swap s: from its directory until every worker answers with it "
            "(median/longest); then without/with swaps, ratio: of the p99s; CPU: user + system of all the "
            "server's processes, a call"
        )
        if any(one.clients == 1 for one in run.loads):
            lines.append("TSimpleServer serves one connection at a time: it has one client")
    if run.memory:
        lines.append(
            "memory of the whole process tree after so many swaps, settled, as if nothing else mapped the same files"
        )
    return [*lines, "cut short: the run was stopped before its end"] if run.cut_short else lines


def _verdict(run: SwapsRun) -> list[str]:
    wrong, missed = faults(run), misses(run)
    if not wrong and not missed:
        return ["No request failed, every answer came from a version that was served, and every target is met."]
    lines = ["\n".join(("Wrong:", *(f"- {one}" for one in wrong)))] if wrong else []
    return [*lines, "\n".join(("Targets missed:", *(f"- {one}" for one in missed)))] if missed else lines

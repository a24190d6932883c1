"""The report of `swaps`: failures, latencies and memory, and the targets that are missed.

FILE.json  -->  SwapsRun  -->  a row a server type, what was missed  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console

from thriftserve_bench import tables
from thriftserve_bench.records.swaps import WITH, WITHOUT, Load, SwapMemory, SwapsRun
from thriftserve_bench.servers import WITH_WORKERS
from thriftserve_bench.stats import merge_counts, quantile
from thriftserve_bench.tables import NONE

#: p99 with swaps is at most so many times that without, where new versions load in processes beside those that serve
#: and several serve; and memory after the last swap at most so much above that after the first sample.
P99_TARGET, MEMORY_TARGET = 2.0, 0.05
OUTCOME_HEADINGS = ("server", "clients", "calls", "failed", "wrong", "versions", "swaps", "swap s")
LATENCY_HEADINGS = ("server", "calls/s", "p50 ms", "p99 ms", "max ms", "ratio", "CPU µs")


@dataclass(frozen=True)
class Side:
    """The phases of one name together; milliseconds, calls a second, microseconds of the server's CPU a call."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    calls_per_s: float
    cpu_us: float


def side(load: Load, name: str) -> Side | None:
    """Return the figures of the phases of a name, or None if no call was answered in them."""
    phases = [phase for phase in load.phases if phase.name == name]
    counted = merge_counts(phase.latencies_us for phase in phases)
    if not counted:
        return None
    calls = sum(phase.calls for phase in phases)
    return Side(
        p50_ms=quantile(counted, 0.5) / 1000,
        p99_ms=quantile(counted, 0.99) / 1000,
        max_ms=max(piece.max_us for phase in phases for piece in phase.slices) / 1000,
        calls_per_s=calls / sum(phase.to_s - phase.from_s for phase in phases),
        cpu_us=sum(phase.server_cpu_s for phase in phases) / calls * 1e6,
    )


def p99_ratio(load: Load) -> float | None:
    """Return p99 with swaps by p99 without."""
    without, swapped = side(load, WITHOUT), side(load, WITH)
    return swapped.p99_ms / without.p99_ms if without and swapped and without.p99_ms else None


def growth(memory: SwapMemory) -> float | None:
    """Return by how much the last sample is above the first, as a part of it."""
    if len(memory.samples) < 2:
        return None
    return memory.samples[-1].alone / memory.samples[0].alone - 1


def faults(run: SwapsRun) -> list[str]:
    """Return the faults in words: failed requests, wrong answers, swaps that did not happen."""
    lines = []
    for load in run.loads:
        failed = sum(load.failures.values())
        if failed:
            reason = max(load.failures, key=lambda reason: load.failures[reason])
            lines.append(f"{load.server_type}: {failed} of {failed + load.calls} requests failed, most by: {reason}")
        if load.wrong or load.unavailable:
            examples = "; ".join(load.examples)
            lines.append(
                f"{load.server_type}: {load.wrong} wrong answers, {load.unavailable} out of their time: {examples}"
            )
        if load.failure:
            lines.append(f"{load.server_type}: {load.failure}")
    for memory in run.memory:
        if memory.failures or memory.wrong:
            lines.append(
                f"{memory.server_type}: {memory.wrong} wrong answers after a swap; failed: {memory.failures or 'none'}"
            )
        if memory.failure:
            lines.append(f"{memory.server_type}: {memory.failure}")
    return lines


def misses(run: SwapsRun) -> list[str]:
    """Return the targets that are missed, in words."""
    lines = []
    for load in run.loads:
        ratio = p99_ratio(load)
        if load.server_type in WITH_WORKERS and ratio is not None and ratio > P99_TARGET:
            lines.append(f"{load.server_type}: p99 with swaps {ratio:.2f} times that without, wanted {P99_TARGET:g}")
    for memory in run.memory:
        grown = growth(memory)
        if grown is not None and grown > MEMORY_TARGET:
            lines.append(f"{memory.server_type}: memory grew by {grown:.1%}, wanted {MEMORY_TARGET:.0%} at most")
        unsettled = [sample.swaps for sample in memory.samples if not sample.settled]
        if unsettled:
            lines.append(f"{memory.server_type}: memory still changed when it was looked at, after swaps {unsettled}")
    return lines


def markdown(run: SwapsRun) -> str:
    """Return the report as Markdown."""
    parts = ["# Swaps: versions that change under load", tables.bullets(_preface(run))]
    parts += [tables.markdown_rows(headings, rows) for headings, rows in _tables(run)]
    return "\n\n".join((*parts, *_verdict(run))) + "\n"


def show(run: SwapsRun, console: Console) -> None:
    """Print the report."""
    for line in _preface(run):
        console.print(line, highlight=False)
    for headings, rows in _tables(run):
        tables.show_table(console, headings, rows)
    tables.show_lines(console, _verdict(run))


def _tables(run: SwapsRun) -> list[tuple[Sequence[str], list[Sequence[str]]]]:
    parts: list[tuple[Sequence[str], list[Sequence[str]]]] = []
    if run.loads:
        parts.append((OUTCOME_HEADINGS, [_outcome_row(load) for load in run.loads]))
        parts.append((LATENCY_HEADINGS, [_latency_row(load) for load in run.loads]))
    if run.memory:
        counts = [f"MiB {sample.swaps}" for sample in max((memory.samples for memory in run.memory), key=len)]
        rows = [_memory_row(memory, len(counts)) for memory in run.memory]
        parts.append((("server", *counts, "grown", "PSS", "processes", "s/swap"), rows))
    return parts


def _outcome_row(load: Load) -> Sequence[str]:
    took = [swap.available_at - swap.landed_at for phase in load.phases for swap in phase.swaps]
    return (
        load.server_type,
        str(load.clients),
        f"{load.calls:,}",
        str(sum(load.failures.values())),
        str(load.wrong + load.unavailable),
        str(sum(phase.landed for phase in load.phases)),
        str(len(took)),
        f"{median(took):.2f}/{max(took):.2f}" if took else NONE,
    )


def _latency_row(load: Load) -> Sequence[str]:
    without, swapped = side(load, WITHOUT), side(load, WITH)
    ratio = p99_ratio(load)

    def pair(name: str, form: str) -> str:
        return "/".join(
            NONE if figures is None else format(getattr(figures, name), form) for figures in (without, swapped)
        )

    return (
        load.server_type,
        pair("calls_per_s", ",.0f"),
        pair("p50_ms", ".2f"),
        pair("p99_ms", ".2f"),
        pair("max_ms", ".0f"),
        tables.ratio(ratio),
        pair("cpu_us", ".0f"),
    )


def _memory_row(memory: SwapMemory, width: int) -> Sequence[str]:
    sizes = [f"{sample.alone / 2**20:.1f}" for sample in memory.samples]
    grown = growth(memory)
    last = memory.samples[-1] if memory.samples else None
    return (
        memory.server_type,
        *sizes,
        *[NONE] * (width - len(sizes)),
        NONE if grown is None else f"{grown:+.1%}",
        f"{last.pss / 2**20:.1f}" if last else NONE,
        str(last.processes) if last else NONE,
        f"{memory.elapsed_s / last.swaps:.2f}" if last else NONE,
    )


def _preface(run: SwapsRun) -> list[str]:
    lines = tables.provenance(run, run.machine["load_before"][:1])
    if run.loads:
        settings = run.settings["load"]
        lines.append(
            f"{settings['seconds']:g} s with a new version every {settings['every_s']:g} s and as long without, in "
            f"turns, {settings['rounds']} of each; swap s: from its directory until every worker answers with it "
            "(median/longest); then without/with swaps, ratio: of the p99s; CPU: user + system of all the "
            "server's processes, a call"
        )
        if any(load.clients == 1 for load in run.loads):
            lines.append("TSimpleServer serves one connection at a time: it has one client")
    if run.memory:
        lines.append(
            "memory of the whole process tree after so many swaps, settled, as if nothing else mapped the same files"
        )
    return lines + tables.cut_short(run)


def _verdict(run: SwapsRun) -> list[str]:
    wrong, missed = faults(run), misses(run)
    if not wrong and not missed:
        return ["No request failed, every answer came from a version that was served, and every target is met."]
    lines = ["\n".join(("Wrong:", *(f"- {line}" for line in wrong)))] if wrong else []
    return [*lines, "\n".join(("Targets missed:", *(f"- {line}" for line in missed)))] if missed else lines

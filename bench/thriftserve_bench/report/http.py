"""The tables of a run of `http`, as Markdown.

HttpRun  -->  the two stacks side by side, bodies, verdict  -->  Markdown
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from thriftserve_bench.benchmarks.http.bodies import STANDARD
from thriftserve_bench.records.http import HttpRun
from thriftserve_bench.report.http_figures import Figures, Pair, body_misses, cpu_ms, pairs

_NONE = "–"
_STACKS = (
    "at a time",
    "connections",
    "requests/s: published",
    "ours",
    "ratio",
    "p50 ms: published",
    "ours",
    "p99 ms: published",
    "ours",
    "CPU µs/request: published",
    "ours",
    "ab's",
    "memory MiB: published",
    "ours",
    "PSS MiB: published",
    "ours",
    "failed: published",
    "ours",
)
_BODIES = ("an image as", "request bytes", "answer bytes", "CPU ms/request")


def markdown(run: HttpRun) -> str:
    """The whole report."""
    compared = pairs(run)
    parts = ["# HTTP: the published stack and ours", "\n".join(f"- {line}" for line in _preface(run))]
    if compared:
        parts += [_table(_STACKS, [_row(one) for one in compared], left=2)]
    if run.bodies:
        told = [(one.name, f"{one.request_bytes:,}", f"{one.answer_bytes:,}", _cost(cpu_ms(one))) for one in run.bodies]
        about = f"CPU of the gateway's process alone, MobileNetV2 behind it; {STANDARD}: text to numpy, answer to text."
        parts += ["## Bodies", about, _table(_BODIES, told, left=1)]
    parts += [verdict(run)]
    if run.skipped:
        parts += ["## Not there", "\n".join(f"- {name}: {reason}" for name, reason in run.skipped.items())]
    return "\n\n".join(parts) + "\n"


def show(run: HttpRun, console: Console) -> None:
    """The same on a terminal: it is to be pasted."""
    console.print(markdown(run), highlight=False, markup=False, soft_wrap=True, end="")


def verdict(run: HttpRun) -> str:
    """Which targets are missed, and by how much."""
    compared = pairs(run)
    missed = [miss for one in compared for miss in one.misses()] + body_misses(run)
    if missed:
        return "Targets missed:\n\n" + "\n".join(f"- {one}" for one in missed)
    if any(one.ratio is None for one in compared) or not (compared or run.bodies):
        return "No target is missed by what was measured; not everything was."
    return "Every target that was measured is met."


def _preface(run: HttpRun) -> list[str]:
    told, settings = run.machine, run.settings
    loads = [window.load_1m for cell in run.cells for window in cell.windows]
    lines = [
        f"{told['cpu']}, {told['cores']} cores, {told['kernel']}; "
        f"load average {min(loads, default=0):.1f} to {max(loads, default=0):.1f} meanwhile",
        ", ".join(f"{name} {version}" for name, version in run.versions.items())
        + f"; commit {run.commit}; {run.began}",
        *(f"{name}: {title}" for name, title in run.stacks.items()),
    ]
    if run.cells:
        lines += [
            f"rounds of {settings['requests']} requests: {settings['rounds']}, the stacks in turns, both up all the "
            "time; ab on the same machine; the same model and request, the same answers",
            "medians of the rounds; CPU: user + system of all the stack's processes; memory: of all its processes, "
            "as if nothing else ran; PSS divides pages among all that map them, the other stack included",
        ]
    if run.cut_short:
        lines.append("cut short: the run was stopped before its end")
    return lines


def _row(one: Pair) -> list[str]:
    cells = [str(one.concurrency), "kept" if one.kept else "new"]
    cells += _both(one, lambda side: _number(side.requests_per_s))
    cells.append(_NONE if one.ratio is None else f"{one.ratio:.2f}")
    cells += _both(one, lambda side: f"{side.p50_ms:.2f}") + _both(one, lambda side: f"{side.p99_ms:.2f}")
    cells += _both(one, lambda side: _number(side.server_cpu_us))
    some = one.ours or one.published
    cells.append(_number(some.client_cpu_us) if some else _NONE)
    cells += _both(one, lambda side: f"{side.alone_mib:,.0f}") + _both(one, lambda side: f"{side.pss_mib:,.0f}")
    return [*cells, *_both(one, lambda side: str(side.failed))]


def _both(one: Pair, text: Callable[[Figures], str]) -> list[str]:
    return [text(side) if side else _NONE for side in (one.published, one.ours)]


def _table(headings: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---" if at < left else "---:" for at in range(len(headings))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *body))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _cost(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"

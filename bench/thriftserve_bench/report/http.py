"""The report of `http`: both stacks side by side, what each form of an image costs, and the targets that are missed.

HttpRun  -->  StackFigures of each stack in a cell, Pair: ratio  |  milliseconds of each form  -->  Markdown
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console

from thriftserve_bench import tables
from thriftserve_bench.records.http import LISTS_FORM, OURS, PUBLISHED, STANDARD_JSON, AbWindow, Body, HttpRun
from thriftserve_bench.tables import NONE, number, ratio

#: Ours does at least so many times the published stack's requests/s.
RATE_TARGET = 3.0
#: An image that is not text costs the gateway less, milliseconds of CPU.
IMAGE_TARGET_MS = 1.0
#: Bodies that this is for.
IMAGES = ("application/octet-stream", "image/jpeg")
#: JSON lists cost it less than so much of the standard library's json.
LISTS_TARGET = 0.5

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


@dataclass(frozen=True)
class StackFigures:
    """One stack at one concurrency: medians of the rounds; memory: the most."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    client_cpu_us: float
    pss_mib: float
    alone_mib: float
    failed: int


@dataclass(frozen=True)
class Pair:
    """Both stacks at one concurrency, or None if one was not measured."""

    concurrency: int
    keep_alive: bool
    ours: StackFigures | None
    published: StackFigures | None

    @property
    def ratio(self) -> float | None:
        """Requests/s, ours by the published stack's."""
        return self.ours.requests_per_s / self.published.requests_per_s if self.ours and self.published else None

    def misses(self) -> list[str]:
        """Return the targets that it misses, in words."""
        where = f"{self.concurrency} at a time{', connections kept' if self.keep_alive else ''}"
        missed = []
        if self.ours is not None and self.ours.failed:
            missed.append(f"{where}: ours failed {self.ours.failed} requests")
        if self.ratio is not None and self.ratio < RATE_TARGET:
            missed.append(f"{where}: {self.ratio:.2f} times the published stack's rate, wanted {RATE_TARGET:g}")
        return missed


def stack_figures(windows: Sequence[AbWindow]) -> StackFigures | None:
    """Return the figures of a stack in a cell, or None if nothing was answered."""
    answered = [window for window in windows if window.requests and window.elapsed_s]
    if not answered:
        return None
    return StackFigures(
        requests_per_s=median((window.requests - window.failed) / window.elapsed_s for window in answered),
        p50_ms=median(window.percentiles_ms[50] for window in answered),
        p99_ms=median(window.percentiles_ms[99] for window in answered),
        server_cpu_us=median(window.server_cpu_s / window.requests for window in answered) * 1e6,
        client_cpu_us=median(window.client_cpu_s / window.requests for window in answered) * 1e6,
        pss_mib=max(window.pss_bytes for window in answered) / 2**20,
        alone_mib=max(window.alone_bytes for window in answered) / 2**20,
        failed=sum(window.failed for window in windows),
    )


def pairs(run: HttpRun) -> list[Pair]:
    """Return every cell, in the order of the run."""
    compared = []
    for concurrency, keep_alive in dict.fromkeys((cell.concurrency, cell.keep_alive) for cell in run.cells):
        cells = [cell for cell in run.cells if (cell.concurrency, cell.keep_alive) == (concurrency, keep_alive)]
        sides = {cell.stack: stack_figures(cell.windows) for cell in cells}
        compared.append(Pair(concurrency, keep_alive, sides.get(OURS), sides.get(PUBLISHED)))
    return compared


def cpu_ms(body: Body) -> float | None:
    """Return CPU of a request, milliseconds: the median of the rounds, or None if there was none."""
    costs_s = [window.cpu_s / window.requests for window in body.windows if window.requests]
    return median(costs_s) * 1e3 if costs_s else None


def body_misses(run: HttpRun) -> list[str]:
    """Return the targets that bodies miss, in words."""
    missed = []
    costs = {body.name: cpu_ms(body) for body in run.bodies}
    for name in IMAGES:
        cost = costs.get(name)
        if cost is not None and cost >= IMAGE_TARGET_MS:
            missed.append(f"{name}: {cost:.2f} ms of the gateway's CPU, wanted less than {IMAGE_TARGET_MS:g}")
    lists, standard = costs.get(LISTS_FORM), costs.get(STANDARD_JSON)
    if lists is not None and standard is not None and lists >= LISTS_TARGET * standard:
        missed.append(f"{LISTS_FORM}: {lists / standard:.2f} of {STANDARD_JSON}, wanted less than {LISTS_TARGET:g}")
    return missed


def markdown(run: HttpRun) -> str:
    """Return the report as Markdown."""
    compared = pairs(run)
    parts = ["# HTTP: the published stack and ours", tables.bullets(_preface(run))]
    if compared:
        parts += [tables.markdown_rows(_STACKS, map(_row, compared), left=(0, 1))]
    if run.bodies:
        rows = [(body.name, f"{body.request_bytes:,}", f"{body.answer_bytes:,}", _cost(body)) for body in run.bodies]
        about = "CPU of the gateway's process alone, MobileNetV2 behind it; "
        about += f"{STANDARD_JSON}: text to numpy, answer to text."
        parts += ["## Bodies", about, tables.markdown_rows(_BODIES, rows)]
    parts += [verdict(run)]
    if run.skipped:
        parts += ["## Not there", tables.bullets(f"{name}: {reason}" for name, reason in run.skipped.items())]
    return "\n\n".join(parts) + "\n"


def show(run: HttpRun, console: Console) -> None:
    """Print the Markdown: it is to be pasted."""
    console.print(markdown(run), highlight=False, markup=False, soft_wrap=True, end="")


def verdict(run: HttpRun) -> str:
    """Say which targets are missed, and by how much."""
    compared = pairs(run)
    missed = [miss for pair in compared for miss in pair.misses()] + body_misses(run)
    if missed:
        return f"Targets missed:\n\n{tables.bullets(missed)}"
    if any(pair.ratio is None for pair in compared) or not (compared or run.bodies):
        return "No target is missed by what was measured; not everything was."
    return "Every target that was measured is met."


def _preface(run: HttpRun) -> list[str]:
    settings = run.settings
    lines = tables.provenance(run, [window.load_1m for cell in run.cells for window in cell.windows])
    lines += [f"{name}: {title}" for name, title in run.stacks.items()]
    if run.cells:
        lines += [
            f"rounds of {settings['requests']} requests: {settings['rounds']}, the stacks in turns, both up all the "
            "time; ab on the same machine; the same model and request, the same answers",
            "medians of the rounds; CPU: user + system of all the stack's processes; memory: of all its processes, "
            "as if nothing else ran; PSS divides pages among all that map them, the other stack included",
        ]
    return lines + tables.cut_short(run)


def _row(pair: Pair) -> list[str]:
    def both(text: Callable[[StackFigures], str]) -> list[str]:
        return [text(side) if side else NONE for side in (pair.published, pair.ours)]

    some = pair.ours or pair.published
    return [
        str(pair.concurrency),
        "kept" if pair.keep_alive else "new",
        *both(lambda side: number(side.requests_per_s)),
        ratio(pair.ratio),
        *both(lambda side: f"{side.p50_ms:.2f}"),
        *both(lambda side: f"{side.p99_ms:.2f}"),
        *both(lambda side: number(side.server_cpu_us)),
        number(some.client_cpu_us) if some else NONE,
        *both(lambda side: f"{side.alone_mib:,.0f}"),
        *both(lambda side: f"{side.pss_mib:,.0f}"),
        *both(lambda side: str(side.failed)),
    ]


def _cost(body: Body) -> str:
    return ratio(cpu_ms(body))

"""The experiments' table, computed from the raw calls alone.

ExperimentRun  -->  Cell an outcome  -->  Row: published | ideal | ours | Apache | predicted | explanation

    for row in rows(load_experiments(Path("experiments.json"))):
        print(row.name, row.server_type, row.ideal_s, row.ours and row.ours.elapsed_s)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from thriftserve_bench.records.calls import OURS, SIDES
from thriftserve_bench.records.experiments import PATTERNS, PUBLISHED, ExperimentRun, Outcome, Pattern, Published
from thriftserve_bench.report.experiments.explanations import explain
from thriftserve_bench.servers import SERVER_TYPES
from thriftserve_bench.simulator.ideal import ideal_s
from thriftserve_bench.simulator.prediction import Predictions, predictions

#: The published rows with no type of their own are shown with this one: nothing in it could help or hinder.
PLAINEST = "TSimpleServer"


@dataclass(frozen=True)
class Cell:
    """One measured outcome, and the figures that its calls give."""

    #: What the page calls it: "ten/ours/TForkingServer/hold-gil", with "#2" for a repetition.
    id: str
    outcome: Outcome
    #: Seconds until the last call ended; None where nothing was measured.
    elapsed_s: float | None
    failed: int

    @property
    def usable(self) -> bool:
        """Every call was answered: its time can be compared."""
        return self.elapsed_s is not None and not self.failed


@dataclass(frozen=True)
class Row:
    """A pattern on a server type: what was published, what is possible, what was measured on both sides, and why."""

    #: "1a" … "6" where it was published, else the published rows' number of that pattern with the type in brackets.
    name: str
    pattern: Pattern
    server_type: str
    workload: str
    service_s: float
    workers: int
    threads: int
    published: Published | None
    ideal_s: float
    ours: Cell | None
    apache: Cell | None
    predicted_ours_s: float | None
    predicted_apache_s: float | None
    #: What the simulator says of the published machine; None where nothing was published.
    predicted_published_s: float | None
    explanation: str

    @property
    def id(self) -> str:
        """What the page calls it."""
        return f"{self.pattern.name}/{self.server_type}/{self.workload}"

    def cell(self, side: str) -> Cell | None:
        """Ours or Apache's."""
        return self.ours if side == OURS else self.apache

    def predicted_s(self, side: str) -> float | None:
        """What the simulator says of this cell on the machine of the run, in seconds."""
        return self.predicted_ours_s if side == OURS else self.predicted_apache_s

    def ratio(self, side: str) -> float | None:
        """Measured by ideal: 1 is perfect."""
        cell = self.cell(side)
        return cell.elapsed_s / self.ideal_s if cell and cell.elapsed_s and self.ideal_s else None

    def against_apache(self) -> float | None:
        """Ours by Apache's time: below 1 is faster. None where a side has unanswered calls."""
        ours, apache = self.ours, self.apache
        if not (ours and apache and ours.usable and apache.usable and ours.elapsed_s and apache.elapsed_s):
            return None
        return ours.elapsed_s / apache.elapsed_s


def rows(run: ExperimentRun) -> list[Row]:
    """One row for each pattern, type and workload that was tried: published ones first, in their order."""
    told = predictions(run)
    grouped: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells(run):
        one = cell.outcome
        if one.pattern in PATTERNS:
            grouped.setdefault((one.workload, one.pattern, one.server_type), []).append(cell)
    made = [_row(run, told, group) for group in grouped.values()]
    workloads = list(dict.fromkeys(one.workload for one in run.outcomes))
    return sorted(made, key=lambda row: (workloads.index(row.workload), _place(row)))


def cells(run: ExperimentRun) -> list[Cell]:
    """One cell for each outcome, in the run's order; repetitions are numbered."""
    seen: dict[str, int] = {}
    found = []
    for one in run.outcomes:
        name = f"{one.pattern}/{one.side}/{one.server_type}/{one.workload}"
        seen[name] = seen.get(name, 0) + 1
        name += f"#{seen[name]}" if seen[name] > 1 else ""
        found.append(Cell(name, one, elapsed_s(one), sum(call.outcome != "ok" for call in one.calls)))
    return found


def elapsed_s(outcome: Outcome) -> float | None:
    """From the first thread let go until the last call ended; None where it failed as a whole."""
    return max((call.end_s for call in outcome.calls), default=None) if not outcome.failure else None


def published_row(pattern: str, server_type: str) -> Published | None:
    """The published row of a pattern on a type."""
    return next(
        (one for one in PUBLISHED if one.pattern == pattern and one.server_type in (None, server_type)),
        None,
    )


def headline(found: Sequence[Row], workload: str | None = None) -> list[Row]:
    """The seven published rows, one each; rows without a type of their own are shown with the plainest."""
    chosen = []
    for one in PUBLISHED:
        same = [row for row in found if row.published == one and workload in (None, row.workload)]
        same.sort(key=lambda row: row.server_type != (one.server_type or PLAINEST))
        chosen += same[:1]
    return chosen


def _row(run: ExperimentRun, told: Predictions, group: Sequence[Cell]) -> Row:
    by_side = {side: _typical([cell for cell in group if cell.outcome.side == side]) for side in SIDES}
    first = group[0].outcome
    pattern, service_s = PATTERNS[first.pattern], first.service_ms / 1000
    published = published_row(first.pattern, first.server_type)
    ours, apache = (by_side[side] for side in SIDES)
    ideal = ideal_s(
        pattern, first.server_type, first.workers, first.threads, service_s, first.workload, run.machine.get("cores")
    )
    return Row(
        name=published.row if published else f"({_number(first.pattern)})",
        pattern=pattern,
        server_type=first.server_type,
        workload=first.workload,
        service_s=service_s,
        workers=first.workers,
        threads=first.threads,
        published=published,
        ideal_s=ideal,
        ours=ours,
        apache=apache,
        predicted_ours_s=told.of(ours.outcome) if ours else None,
        predicted_apache_s=told.of(apache.outcome) if apache else None,
        predicted_published_s=told.of_published(published) if published else None,
        explanation=explain(first, ideal, run),
    )


def _typical(repeated: Sequence[Cell]) -> Cell | None:
    """Of several repetitions the one in the middle: a cell that exists, so that its calls can be shown."""
    measured = [cell for cell in repeated if cell.usable] or [cell for cell in repeated if cell.elapsed_s is not None]
    if not measured:
        return repeated[0] if repeated else None
    middle = median_low([cell.elapsed_s or 0.0 for cell in measured])
    return next(cell for cell in measured if cell.elapsed_s == middle)


def _number(pattern: str) -> str:
    """The published numbers of a pattern: "2, 4, 5"."""
    return ", ".join(one.row for one in PUBLISHED if one.pattern == pattern)


def _place(row: Row) -> tuple[int, int, int]:
    patterns = list(PATTERNS)
    types = SERVER_TYPES.index(row.server_type) if row.server_type in SERVER_TYPES else len(SERVER_TYPES)
    published = PUBLISHED.index(row.published) if row.published else len(PUBLISHED)
    return published, patterns.index(row.pattern.name), types

"""The experiments' table, computed from the raw calls alone.

ExperimentRun  -->  Cell an outcome  -->  Row: published | ideal | ours | Apache | predicted | explanation

    for row in rows(ExperimentRun.load(Path("experiments.json"))):
        print(row.name, row.server_type, row.ideal_s, row.ours and row.ours.elapsed_s)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from thriftserve_bench.records.calls import OURS, SIDES
from thriftserve_bench.records.experiments import PATTERNS, PUBLISHED, ExperimentRun, Outcome, Pattern, Published
from thriftserve_bench.report.experiments.explanations import explain
from thriftserve_bench.servers import BATCHING, SERVER_TYPES
from thriftserve_bench.simulator.ideal import ideal_s
from thriftserve_bench.simulator.predict import Predictions, predict_run

#: The published rows with no type of their own are shown with this one: nothing in it could help or hinder.
PLAINEST = "TSimpleServer"


@dataclass(frozen=True)
class Cell:
    """One measured outcome, and the figures that its calls give."""

    #: What the page calls it: "ten/ours/TForkingServer/hold-gil", with "#2" for a repetition.
    id: str
    outcome: Outcome
    #: Seconds until the last call ended, or None if nothing was measured.
    elapsed_s: float | None
    failed: int

    @property
    def usable(self) -> bool:
        """Whether every call was answered, so that its time can be compared."""
        return self.elapsed_s is not None and not self.failed


@dataclass(frozen=True)
class Row:
    """A pattern on a server type: published, ideal, measured on both sides, predicted, explained."""

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
    #: What the simulator says of the published machine, or None if nothing was published.
    predicted_published_s: float | None
    explanation: str

    @property
    def id(self) -> str:
        """Its name in the page."""
        return f"{self.pattern.name}/{self.server_type}/{self.workload}"

    def cell(self, side: str) -> Cell | None:
        """Return the cell of a side."""
        return self.ours if side == OURS else self.apache

    def predicted_s(self, side: str) -> float | None:
        """Return what the simulator says of this cell on the machine of the run, in seconds."""
        return self.predicted_ours_s if side == OURS else self.predicted_apache_s

    def ratio(self, side: str) -> float | None:
        """Return measured by ideal: 1 is perfect."""
        cell = self.cell(side)
        return cell.elapsed_s / self.ideal_s if cell and cell.elapsed_s and self.ideal_s else None

    def against_apache(self) -> float | None:
        """Return ours by Apache's time: below 1 is faster. None if a side has unanswered calls."""
        ours, apache = self.ours, self.apache
        if not (ours and apache and ours.usable and apache.usable and ours.elapsed_s and apache.elapsed_s):
            return None
        return ours.elapsed_s / apache.elapsed_s


def rows(run: ExperimentRun) -> list[Row]:
    """Return a row for each pattern, type and workload: published ones first, in their order."""
    predicted = predict_run(run)
    grouped: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells(run):
        outcome = cell.outcome
        if outcome.pattern in PATTERNS:
            grouped.setdefault((outcome.workload, outcome.pattern, outcome.server_type), []).append(cell)
    table_rows = [_row(run, predicted, group) for group in grouped.values()]
    workloads = list(dict.fromkeys(outcome.workload for outcome in run.outcomes))
    return sorted(table_rows, key=lambda row: (workloads.index(row.workload), _place(row)))


def cells(run: ExperimentRun) -> list[Cell]:
    """Return a cell for each outcome, in the run's order; repetitions are numbered."""
    seen: dict[str, int] = {}
    all_cells = []
    for outcome in run.outcomes:
        name = f"{outcome.pattern}/{outcome.side}/{outcome.server_type}/{outcome.workload}"
        seen[name] = seen.get(name, 0) + 1
        name += f"#{seen[name]}" if seen[name] > 1 else ""
        all_cells.append(Cell(name, outcome, elapsed_s(outcome), sum(call.outcome != "ok" for call in outcome.calls)))
    return all_cells


def elapsed_s(outcome: Outcome) -> float | None:
    """Return the seconds until the last call ended, or None if the outcome failed as a whole."""
    return max((call.end_s for call in outcome.calls), default=None) if not outcome.failure else None


def published_row(pattern: str, server_type: str) -> Published | None:
    """Return the published row of a pattern on a type."""
    return next(
        (
            published
            for published in PUBLISHED
            if published.pattern == pattern and published.server_type in (None, server_type)
        ),
        None,
    )


def headline(table_rows: Sequence[Row], workload: str | None = None) -> list[Row]:
    """Return the seven published rows, one each; rows without a type are shown with the plainest one."""
    chosen = []
    for published in PUBLISHED:
        same = [row for row in table_rows if row.published == published and workload in (None, row.workload)]
        same.sort(key=lambda row: row.server_type != (published.server_type or PLAINEST))
        chosen += same[:1]
    return chosen


def _row(run: ExperimentRun, predicted: Predictions, group: Sequence[Cell]) -> Row:
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
        predicted_ours_s=predicted.of(ours.outcome) if ours else None,
        predicted_apache_s=predicted.of(apache.outcome) if apache else None,
        predicted_published_s=predicted.of_published(published) if published else None,
        explanation=explain(first, ideal, run),
    )


def _typical(repeated: Sequence[Cell]) -> Cell | None:
    """Return the median of several repetitions: an existing cell, so that its calls can be shown."""
    measured = [cell for cell in repeated if cell.usable] or [cell for cell in repeated if cell.elapsed_s is not None]
    if not measured:
        return repeated[0] if repeated else None
    middle = median_low([cell.elapsed_s or 0.0 for cell in measured])
    return next(cell for cell in measured if cell.elapsed_s == middle)


def _number(pattern: str) -> str:
    """Return the published numbers of a pattern: "2, 4, 5"."""
    return ", ".join(published.row for published in PUBLISHED if published.pattern == pattern)


def _place(row: Row) -> tuple[int, int, int]:
    patterns = list(PATTERNS)
    types = SERVER_TYPES.index(row.server_type) if row.server_type in SERVER_TYPES else len(SERVER_TYPES)
    published = PUBLISHED.index(row.published) if row.published else len(PUBLISHED)
    return published, patterns.index(row.pattern.name), types


#: The targets are stated for this workload and service time.
WORKLOAD, SERVICE_S = "hold-gil", 0.3


@dataclass(frozen=True)
class Target:
    """A target of our server in a row of the table."""

    #: As `Row.name` has it.
    row: str
    server_type: str
    text: str
    #: Measured by ideal, at least and at most; None: no such bound.
    least_ratio: float | None = None
    most_ratio: float | None = None
    #: Seconds, below which it has to stay.
    below_s: float | None = None


TARGETS = (
    Target("2", "TProcessPoolServer", "at most 1.05 × ideal", most_ratio=1.05),
    Target("3", "TProcessPoolServer", "at most 1.10 × ideal", most_ratio=1.10),
    Target("4", "TNonblockingServer", "shows the lock: one call at a time, as published", 0.97, 1.10),
    Target("5", "TForkingServer", "at most 1.15 × ideal", most_ratio=1.15),
    Target("6", "TForkingServer", "under 3 s", below_s=3.0),
    Target("(2, 4, 5)", BATCHING, "at most 1.05 × ideal", most_ratio=1.05),
    Target("(3, 6)", BATCHING, "at most 1.10 × ideal", most_ratio=1.10),
)


@dataclass(frozen=True)
class Verdict:
    """A target, and whether it was met."""

    target: Target
    row: Row
    cell_id: str
    elapsed_s: float
    ratio: float
    met: bool
    #: The run used the service time for which the target is stated.
    binding: bool


def verdicts(table_rows: Sequence[Row]) -> list[Verdict]:
    """Judge each target whose cell was measured."""
    judged = (_judge(target, row) for target in TARGETS for row in table_rows if _belongs(target, row))
    return [verdict for verdict in judged if verdict is not None]


def _belongs(target: Target, row: Row) -> bool:
    return row.workload == WORKLOAD and row.name == target.row and row.server_type == target.server_type


def _judge(target: Target, row: Row) -> Verdict | None:
    cell, ratio = row.ours, row.ratio(OURS)
    if cell is None or cell.elapsed_s is None or ratio is None:
        return None
    met = (
        cell.usable
        and (target.least_ratio is None or ratio >= target.least_ratio)
        and (target.most_ratio is None or ratio <= target.most_ratio)
        and (target.below_s is None or cell.elapsed_s < target.below_s)
    )
    return Verdict(target, row, cell.id, cell.elapsed_s, ratio, met, abs(row.service_s - SERVICE_S) < 1e-9)

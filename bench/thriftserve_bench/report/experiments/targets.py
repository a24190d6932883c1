"""What the experiments are to show, and whether this run shows it.

rows of the table  -->  Verdict: target, what was measured, met or not
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thriftserve_bench.records.calls import OURS
from thriftserve_bench.report.experiments.table import Row
from thriftserve_bench.servers import BATCHING

#: The targets are stated for this workload and service time.
WORKLOAD, SERVICE_S = "hold-gil", 0.3


@dataclass(frozen=True)
class Target:
    """What our server is to reach in a row: a published one, or of a type of which nothing was published."""

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
    """A target, and what became of it."""

    target: Target
    row: Row
    cell_id: str
    elapsed_s: float
    ratio: float
    met: bool
    #: The run used the service time for which the target is stated.
    binding: bool


def verdicts(found: Sequence[Row]) -> list[Verdict]:
    """One for each target whose cell was measured."""
    told = (_verdict(target, row) for target in TARGETS for row in found if _belongs(target, row))
    return [one for one in told if one is not None]


def _belongs(target: Target, row: Row) -> bool:
    return row.workload == WORKLOAD and row.name == target.row and row.server_type == target.server_type


def _verdict(target: Target, row: Row) -> Verdict | None:
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

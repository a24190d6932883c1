"""What the simulator says of each cell of a run, of the published machine, and of cases that nobody measured.

ExperimentRun  -->  Predictions  -->  seconds for an outcome | a published row
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from thriftserve_bench.records.experiments import PUBLISHED, ExperimentRun, Outcome, Published
from thriftserve_bench.simulator.simulator import check, predict_published

#: Predicted and measured are to agree this well.
WITHIN = 0.15


@dataclass(frozen=True)
class Predictions:
    """Predicted seconds, by outcome and by published row; what is missing was not predicted."""

    by_outcome: dict[int, float] = field(default_factory=dict)
    by_published: dict[str, float] = field(default_factory=dict)

    def of(self, outcome: Outcome) -> float | None:
        """For an outcome of the run, on the machine of the run."""
        return self.by_outcome.get(id(outcome))

    def of_published(self, row: Published) -> float | None:
        """For a published row, on 64 cores."""
        return self.by_published.get(row.row)


def predictions(run: ExperimentRun) -> Predictions:
    """All of them; what the simulator can say nothing of is left out."""
    return Predictions({id(one.outcome): one.predicted_s for one in check(run)}, _published())


@cache
def _published() -> dict[str, float]:
    return {row.row: predict_published(row).elapsed_s for row in PUBLISHED}

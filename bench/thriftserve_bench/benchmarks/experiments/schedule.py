"""Which cells there are, how long each should take, and which may run at the same time.

    ExperimentSettings  -->  cells  -->  groups for the lanes, cells that run alone  -->  seconds expected

Cells that keep a machine idle, as ours wait with the lock held, run side by side on servers of their own. Where
calls of a cell run at the same time, or a workload needs cores, it has the machine to itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.benchmarks.experiments.hosts import HostPlan
from thriftserve_bench.records.calls import SIDES
from thriftserve_bench.records.experiments import PATTERNS, TYPES, Pattern
from thriftserve_bench.simulator.ideal import USES_CORE, calls_at_once, ideal_s

#: A cell may take this many times what a wholly serial server would, and so much more.
_PATIENCE = 3.0
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class ExperimentSettings:
    """What `experiments` measures."""

    workload: str = "hold-gil"
    service_ms: float = 300.0
    patterns: tuple[str, ...] = tuple(PATTERNS)
    server_types: tuple[str, ...] = tuple(dict.fromkeys(name for side in SIDES for name in TYPES[side]))
    sides: tuple[str, ...] = SIDES
    workers: int = 10
    threads: int = 10
    #: Cells that run at the same time, where they don't disturb one another.
    side_by_side: int = 4
    #: Calls and connections of each server's calibration.
    probes: int = 50
    #: Memory that fills a parent before its forks are timed, MB; empty: not measured.
    fork_mb: tuple[int, ...] = (10, 50, 100, 200, 400, 800)
    fork_repeats: int = 20
    fork_tensorflow: bool = True


@dataclass(frozen=True)
class Cell:
    """One pattern on one server."""

    pattern: Pattern
    plan: HostPlan

    @property
    def expected_s(self) -> float:
        """The time without overhead on this machine, in seconds."""
        plan = self.plan
        cores = len(os.sched_getaffinity(0))
        return ideal_s(
            self.pattern,
            plan.server_type,
            plan.workers,
            plan.threads,
            plan.service_ms / 1000,
            plan.workload,
            cores,
        )

    @property
    def bound_s(self) -> float:
        """The time after which an unfinished call has failed, in seconds."""
        return _PATIENCE * self.pattern.calls * self.plan.service_ms / 1000 + _PATIENCE_S

    @property
    def alone(self) -> bool:
        """Whether it needs the machine to itself."""
        plan = self.plan
        at_once = calls_at_once(self.pattern, plan.server_type, plan.workers, plan.threads, plan.workload)
        return at_once > 1 or plan.workload in USES_CORE


def plans(settings: ExperimentSettings, model_path: Path | None = None) -> list[HostPlan]:
    """Return one server of each type and side."""
    return [
        HostPlan(side, name, settings.workload, settings.service_ms, settings.workers, settings.threads, model_path)
        for name in settings.server_types
        for side in settings.sides
        if name in TYPES[side]
    ]


class Schedule:
    """The cells of a run, and how much of it is left."""

    def __init__(self, settings: ExperimentSettings, of: Iterable[HostPlan]) -> None:
        patterns = [PATTERNS[name] for name in settings.patterns]
        self.plans = list(of)
        every = [[Cell(pattern, plan) for pattern in patterns] for plan in self.plans]
        self._lanes = settings.side_by_side
        #: For each server the cells that may run beside those of other servers.
        self.groups = [group for cells in every if (group := [cell for cell in cells if not cell.alone])]
        self.alone = [cell for cells in every for cell in cells if cell.alone]
        self._left = {cell: cell.expected_s for cells in every for cell in cells}
        self._began: dict[Cell, float] = {}
        self.cells = len(self._left)
        self.total_s = self.left_s

    @property
    def cells_left(self) -> int:
        """Number of cells that have not ended."""
        return len(self._left)

    def begins(self, cell: Cell) -> None:
        """Note that the measuring of a cell begins."""
        self._began[cell] = time.monotonic()

    def ended(self, cell: Cell) -> None:
        """Note that a cell has ended."""
        del self._left[cell]

    @property
    def left_s(self) -> float:
        """The expected time of the remaining cells, in seconds."""
        groups = [sum(map(self._cell_left_s, group)) for group in self.groups]
        side_by_side = max(sum(groups) / self._lanes, max(groups, default=0.0))
        return side_by_side + sum(map(self._cell_left_s, self.alone))

    def _cell_left_s(self, cell: Cell) -> float:
        expected_s = self._left.get(cell, 0.0)
        began = self._began.get(cell)
        return expected_s if began is None else max(0.0, expected_s - (time.monotonic() - began))

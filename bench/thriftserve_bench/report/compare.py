"""Two runs of one kind: what changed beyond noise.

    A.json, B.json  -->  Readings: each figure of each cell, one value a window  -->  Changes: better, worse

A figure has changed where the windows of the two runs don't overlap and their medians differ by more than a
threshold. One value alone has no range: there the threshold decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

#: (cell, figure): "TForkingServer tiny x4", "calls/s".
Key = tuple[str, str]


@dataclass(frozen=True)
class Series:
    """One figure of one cell of a run: its values, one a window."""

    values: Sequence[float]
    #: Whether more is better.
    up_is_better: bool
    #: False: it is told, but is no regression (another server's figure, that shows what the machine did).
    counts: bool = True

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)


@dataclass
class Readings:
    """A run as `compare` sees it."""

    format: str
    #: What must be the same for figures to mean the same, by name.
    conditions: Mapping[str, object]
    series: dict[Key, Series] = field(default_factory=dict)
    #: Failed calls of each cell.
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A figure that differs beyond noise."""

    cell: str
    figure: str
    before: float
    after: float
    better: bool
    counts: bool

    @property
    def is_regression(self) -> bool:
        """Whether it is for the worse, and ours."""
        return self.counts and not self.better

    def __str__(self) -> str:
        part = f"{self.after / self.before - 1:+.1%}" if self.before else "from nothing"
        verdict = "better" if self.better else "worse"
        return f"{verdict}: {self.cell}: {self.figure} {number(self.before)} -> {number(self.after)} ({part})"


@dataclass
class Comparison:
    """What came of two runs."""

    changes: list[Change] = field(default_factory=list)
    compared: int = 0
    #: Cells of one run alone.
    only_before: list[str] = field(default_factory=list)
    only_after: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        """The changes for the worse."""
        return [one for one in self.changes if one.is_regression]


def differences(before: Readings, after: Readings) -> list[str]:
    """Why two runs can't be compared, a line each; empty: they can."""
    if before.format != after.format:
        return [f"format: {before.format!r} and {after.format!r}"]
    names = dict.fromkeys([*before.conditions, *after.conditions])
    return [
        f"{name}: {before.conditions.get(name)!r} and {after.conditions.get(name)!r}"
        for name in names
        if before.conditions.get(name) != after.conditions.get(name)
    ]


def compare(before: Readings, after: Readings, threshold: float) -> Comparison:
    """What changed from one run to the other.

    Args:
        before: a run.
        after: another of the same format.
        threshold: part by which medians must differ at least.
    """
    cells = [dict.fromkeys([cell for cell, _ in one.series] + list(one.failures)) for one in (before, after)]
    found = Comparison(
        only_before=[one for one in cells[0] if one not in cells[1]],
        only_after=[one for one in cells[1] if one not in cells[0]],
    )
    for key, old in before.series.items():
        new = after.series.get(key)
        if new is None:
            continue
        found.compared += 1
        if beyond_noise(old.values, new.values, threshold):
            better = (new.middle > old.middle) == old.up_is_better
            found.changes.append(Change(*key, old.middle, new.middle, better, old.counts))
    found.changes += _failing(before, after)
    return found


def beyond_noise(old: Sequence[float], new: Sequence[float], threshold: float) -> bool:
    """Whether two sets of windows differ: their ranges apart, their medians by more than a part of the old one."""
    apart = min(new) > max(old) or max(new) < min(old)
    return apart and abs(median(new) - median(old)) > threshold * abs(median(old))


def _failing(before: Readings, after: Readings) -> list[Change]:
    """Cells that had no failed call and have some, or none any more."""
    changes = []
    for cell, count in after.failures.items():
        old = before.failures.get(cell)
        if old is not None and bool(old) != bool(count):
            changes.append(Change(cell, "failed calls", old, count, better=not count, counts=True))
    return changes


def number(value: float) -> str:
    """A figure in four digits or so."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

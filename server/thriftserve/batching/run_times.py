"""What a run takes, learned from runs: t(rows) = fixed + row * rows.

(rows, microseconds) of each run --> RunTimes --> fixed_us, row_us --> efficient_rows

>>> times = RunTimes()
>>> times.add(1, 120.0)
>>> times.fit() is None
True
>>> times.add(11, 320.0)
>>> times.fit()
Fit(fixed_us=100.0, row_us=20.0)
>>> efficient_rows(times.fit(), 64)
64
>>> efficient_rows(Fit(fixed_us=20.0, row_us=100.0), 64)
4
"""

from __future__ import annotations

import math
from typing import NamedTuple

#: What a run counts once another one came: about the last fifty tell.
DECAY = 0.98
#: A spread of sizes below this decays no more. The slope that it stands for is kept until runs of another size
#: tell something new: else a lane that runs single rows would forget why.
LEAST_SPREAD = 1e-3
#: Rows a second, of what runs without an end would reach, that are enough.
ENOUGH = 0.95
#: rows / (fixed + row * rows) >= ENOUGH / row, solved for rows: ENOUGH / (1 - ENOUGH) * fixed / row.
_ROWS_PER_RATIO = round(ENOUGH / (1 - ENOUGH), 9)


class Fit(NamedTuple):
    """Microseconds of a run: `fixed_us` each run and `row_us` each row of it; neither is negative."""

    fixed_us: float
    row_us: float


class RunTimes:
    """A least-squares line through the runs, recent ones counting most.

    Means and spreads are updated in place (West's algorithm): plain sums would cancel out once all sizes are alike.
    """

    __slots__ = ("_cross", "_rows", "_spread", "_us", "_weight")

    def __init__(self) -> None:
        self._weight = 0.0
        self._rows = 0.0
        self._us = 0.0
        self._spread = 0.0
        self._cross = 0.0

    def add(self, rows: int, us: float) -> None:
        """Counts a run of `rows` rows that took `us` microseconds."""
        before = self._weight * DECAY
        self._weight = before + 1
        if self._spread > LEAST_SPREAD:
            self._spread *= DECAY
            self._cross *= DECAY
        more_rows, more_us = rows - self._rows, us - self._us
        self._rows += more_rows / self._weight
        self._us += more_us / self._weight
        share = before / self._weight
        self._spread += share * more_rows * more_rows
        self._cross += share * more_rows * more_us

    def fit(self) -> Fit | None:
        """The line; None while all runs had one size. Where noise makes a part of it negative, that part is 0."""
        if self._spread <= 0:
            return None
        row = self._cross / self._spread
        fixed = self._us - row * self._rows
        if row <= 0:
            return Fit(self._us, 0.0)
        if fixed <= 0:
            return Fit(0.0, self._us / self._rows)
        return Fit(fixed, row)


def efficient_rows(fit: Fit | None, most: int) -> int:
    """The smallest run, 1 to `most` rows, that does 95 % of the rows a second that ever larger ones would."""
    if fit is None or fit.row_us <= 0:
        return most
    return min(most, max(1, math.ceil(_ROWS_PER_RATIO * fit.fixed_us / fit.row_us - 1e-9)))

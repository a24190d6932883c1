"""How one figure is distributed over requests, in buckets.

bounds + counts + sum --Histogram--> count, mean, the bound that 99 % of the values keep
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """How many values fell into which bucket.

    Attributes:
        name: what was measured.
        unit: of the bounds and the sum: "us" (microseconds) or "rows".
        bounds: upper bounds of the buckets, inclusive, ascending.
        counts: values in each bucket, and in one more for those above every bound.
        sum: all values added up.
    """

    name: str
    unit: str
    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    sum: int

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean, exactly; 0.0 where there are none."""
        return self.sum / (self.count or 1)

    def bound_of(self, share: float) -> int | None:
        """The least bound that this share of the values keeps; None where a part of them is above every bound.

        Args:
            share: 0.99 for the 99th percentile.
        """
        least = share * self.count
        seen = 0
        for bound, number in zip(self.bounds, self.counts, strict=False):
            seen += number
            if seen >= least:
                return bound
        return None

"""A histogram: how one figure is distributed over requests, in buckets.

    bounds + counts + sum --Histogram--> count, mean, percentiles

The module is separate because server processes use it without NumPy, which `results` imports.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """The number of values in each bucket.

    Attributes:
        name: the figure.
        unit: of the bounds and the sum: "us" (microseconds) or "rows".
        bounds: upper bounds of the buckets, inclusive, ascending.
        counts: values in each bucket, and in one more for those above every bound.
        sum: of all values.
    """

    name: str
    unit: str
    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    sum: int

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Exact mean of the values; 0.0 without any."""
        return self.sum / (self.count or 1)

    def bound_of(self, share: float) -> int | None:
        """Return the lowest bound that a share of the values does not exceed; None if the last bucket is needed for it.

        Args:
            share: 0.99 for the 99th percentile.
        """
        threshold = share * self.count
        total = 0
        for bound, number in zip(self.bounds, self.counts, strict=False):
            total += number
            if total >= threshold:
                return bound
        return None

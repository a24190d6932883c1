"""Time in a front and in a worker: the moment of the current round, and moving averages of what is measured."""

from __future__ import annotations

import time


class Clock:
    """The present of one front, read once a round: reading it for each request would cost more than it tells."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        #: Monotonic seconds.
        self.now = time.monotonic()

    def tick(self) -> float:
        """Read the time and return it."""
        self.now = now = time.monotonic()
        return now


class Ewma:
    """An exponentially weighted moving average.

    Threads may share one: a measurement that gets lost between two of them does not matter.

    >>> wait_s = Ewma(0.5)
    >>> wait_s.add(4.0)
    >>> wait_s.add(2.0)
    >>> wait_s.value
    3.0

    Args:
        weight: part of a new sample in the average, from 0 to 1.
        value: the average before the first sample; None: the first sample counts whole.
    """

    __slots__ = ("_weight", "empty", "value")

    def __init__(self, weight: float, value: float | None = None) -> None:
        self._weight = weight
        #: True while there is no value and no sample; `value` is 0 then.
        self.empty = value is None
        self.value = 0.0 if value is None else value

    def add(self, sample: float) -> None:
        """Add a sample."""
        if self.empty:
            self.empty = False
            self.value = sample
        else:
            self.value += self._weight * (sample - self.value)

    def reset(self, value: float) -> None:
        """Start again from a value."""
        self.empty = False
        self.value = value

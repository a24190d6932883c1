"""By when a request must have begun to run.

arrival.arrived_at() + timeout_ms --> Deadline --> check(): nothing, or DeadlineExceeded

It is checked before the inputs are decoded, and again right before the run.
"""

from __future__ import annotations

import time

from thriftserve.arrival import arrived_at
from thriftserve.errors import DeadlineExceeded, InvalidArgument


class Deadline:
    """The moment of a request's arrival and, where it set `timeout_ms`, the last moment to begin its run.

    Times are `time.monotonic()` seconds; `expires` is None where there is no limit.
    """

    __slots__ = ("_timeout_ms", "arrived", "expires")

    def __init__(self, arrived: float, timeout_ms: int | None) -> None:
        self.arrived = arrived
        self._timeout_ms = timeout_ms
        self.expires = arrived + timeout_ms / 1000 if timeout_ms else None

    @classmethod
    def after(cls, timeout_ms: int | None) -> Deadline:
        """The deadline of this thread's request; None or 0 is no limit.

        Raises:
            InvalidArgument: `timeout_ms` is negative.
        """
        if timeout_ms is not None and timeout_ms < 0:
            raise InvalidArgument(f"timeout_ms is {timeout_ms}: expected 0 (no limit) or more")
        return cls(arrived_at(), timeout_ms)

    def check(self) -> float:
        """The present, where there is time left to run.

        Raises:
            DeadlineExceeded: the time is over; the message says by how much.
        """
        now = time.monotonic()
        if self.expires is not None and now > self.expires:
            raise self.exceeded(now)
        return now

    def exceeded(self, now: float) -> DeadlineExceeded:
        """The error of a request that came to its turn at `now`, which is after `expires`."""
        over = now - (self.expires or now)
        return DeadlineExceeded(
            f"the request came to its turn {(now - self.arrived) * 1000:.1f} ms after its arrival, "
            f"{over * 1000:.1f} ms later than its timeout_ms {self._timeout_ms} allows; it was not run"
        )

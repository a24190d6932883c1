"""The moment by which a request must have started to run.

    rpc: mark_arrival(t)  -->  service: Deadline.after(timeout_ms)  -->  check(): run, or DeadlineExceeded

`timeout_ms` counts from the arrival of the request. Only the layer that owns the socket knows the arrival, and only
the service knows the timeout. A thread works on one request at a time, so the arrival is kept per thread.

The deadline is checked before the inputs are decoded, and again right before the run. All times are `time.monotonic()`
seconds.
"""

from __future__ import annotations

import threading
import time

from thriftserve.errors import DeadlineExceeded, InvalidArgument


class _Arrival(threading.local):
    at: float | None = None


_arrival = _Arrival()


def mark_arrival(at: float | None) -> None:
    """Set when the request of this thread arrived. None: at the moment at which somebody asks."""
    _arrival.at = at


def arrival_time() -> float:
    """Return when the request of this thread arrived, or the present if nobody has marked it."""
    at = _arrival.at
    return time.monotonic() if at is None else at


class Deadline:
    """When a request arrived and, if it has a `timeout_ms`, the last moment to start its run.

    Attributes:
        arrived: the arrival.
        expires: the last moment; None: no limit.
    """

    __slots__ = ("_timeout_ms", "arrived", "expires")

    def __init__(self, arrived: float, timeout_ms: int | None) -> None:
        self.arrived = arrived
        self._timeout_ms = timeout_ms
        self.expires = arrived + timeout_ms / 1000 if timeout_ms else None

    @classmethod
    def after(cls, timeout_ms: int | None) -> Deadline:
        """Return the deadline of this thread's request. None and 0 mean no limit.

        Raises:
            InvalidArgument: `timeout_ms` is negative.
        """
        if timeout_ms is not None and timeout_ms < 0:
            raise InvalidArgument(f"timeout_ms is {timeout_ms}: expected 0 (no limit) or more")
        return cls(arrival_time(), timeout_ms)

    def check(self) -> float:
        """Return the present if the request may still run.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        now = time.monotonic()
        if self.expires is not None and now > self.expires:
            raise self.exceeded(now)
        return now

    def exceeded(self, now: float) -> DeadlineExceeded:
        """Return the error of a request whose turn came at `now`, after its deadline."""
        return DeadlineExceeded(
            f"deadline exceeded: queued {(now - self.arrived) * 1000:.1f} ms, timeout_ms is {self._timeout_ms}; "
            "not executed"
        )

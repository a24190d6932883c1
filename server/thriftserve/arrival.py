"""When the request that this thread is working on arrived.

    rpc: arrival.mark(t)  -->  handler: Deadline.after(timeout_ms)  -->  run, or DEADLINE_EXCEEDED

`timeout_ms` counts from a request's arrival, which only the layer that owns the socket knows, while
only the handler knows the timeout. A thread works on one request at a time, so the moment of arrival
is kept per thread. Times are `time.monotonic()` seconds.
"""

from __future__ import annotations

import threading
import time


class _Arrival(threading.local):
    at: float | None = None


_arrival = _Arrival()


def mark(at: float | None) -> None:
    """Sets when this thread's request arrived; None means "now, whenever it is asked"."""
    _arrival.at = at


def arrived_at() -> float:
    """When this thread's request arrived; the present where nobody said."""
    at = _arrival.at
    return time.monotonic() if at is None else at

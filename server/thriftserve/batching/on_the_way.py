"""Whether other jobs are about to come: requests that other threads prepare at this moment.

handler: coming() … job ready --> arrived();   leader: wait(...) while any is coming
"""

from __future__ import annotations

import threading

from thriftserve.batching.lane import Lane

#: A run that costs less than this by itself is not waited for: waking threads costs as much.
LEAST_WAIT_S = 0.001


class OnTheWay:
    """Counts the requests that are being prepared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._watching: set[threading.Event] = set()

    def coming(self) -> None:
        """A thread begins to prepare a request."""
        with self._lock:
            self._count += 1

    def arrived(self) -> None:
        """Its job is there, or won't come."""
        with self._lock:
            self._count -= 1
            if self._count <= 0:
                for event in self._watching:
                    event.set()

    def worth_s(self, lane: Lane) -> float:
        """Seconds that a run is worth waiting for others: what it costs by itself, where others are coming."""
        if self._count <= 0:
            return 0.0
        fit = lane.fit()
        worth_s = fit.fixed_us / 1e6 if fit is not None else 0.0
        return worth_s if worth_s >= LEAST_WAIT_S else 0.0

    def wait(self, enough: threading.Event, timeout_s: float) -> None:
        """Blocks until `enough` is set, nobody is coming any more, or the time is over."""
        with self._lock:
            if self._count <= 0:
                return
            self._watching.add(enough)
        try:
            enough.wait(timeout_s)
        finally:
            with self._lock:
                self._watching.discard(enough)

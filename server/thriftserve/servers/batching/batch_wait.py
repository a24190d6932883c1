"""Whether a slot waits for more requests before it gets those that are queued.

    the slot's hint, queued requests, clients that ask again soon --hold_until()--> a moment | None: now

If the operator set a time-out for batches, the slot waits that long. Otherwise it waits only where a further run costs
more than the wait is long, and a client that just got a reply is about to ask again. The request of a lone client never
waits. Figures: docs/explanation/decisions.md, "The front waits for clients that ask again at once".
"""

from __future__ import annotations

from collections.abc import Callable

from thriftserve.rpc import BatchHint
from thriftserve.servers.batching.clock import Ewma
from thriftserve.servers.batching.request_queue import Request, RequestQueue

#: Saving a run that costs less than this is not worth a wait that epoll counts in milliseconds.
_MIN_RUN_US = 1000
_MAX_WAIT_S = 0.05
#: Requests that must be expected, at least.
_MIN_EXPECTED = 0.5
_WEIGHT = 0.05


class BatchWait:
    """Decides for one front.

    Args:
        queue: the requests that wait.
        expiry: returns when a request must have begun to run.
    """

    def __init__(self, queue: RequestQueue, expiry: Callable[[Request], float]) -> None:
        self._queue = queue
        self._expiry = expiry
        #: Seconds that waiting is worth, and within which a client asks again "soon"; 0 if it is never worth it.
        self._worth_s = 0.0
        #: Clients that have all their replies, and since when; no longer than `_worth_s`.
        self._expected: dict[object, float] = {}
        #: The share of clients that asked again soon.
        self._soon = Ewma(_WEIGHT, _MIN_EXPECTED)

    @property
    def expected(self) -> int:
        """The number of clients that may ask again soon."""
        return len(self._expected)

    def answered(self, client: object, now: float) -> None:
        """Note that a client got the last of its replies."""
        if self._worth_s:
            self._expected[client] = now
            self._drop_late(now)

    def arrived(self, client: object, now: float) -> None:
        """Note that a request of a client was queued."""
        if self._expected:
            self._drop_late(now)
            if self._expected.pop(client, None) is not None:
                self._soon.add(1.0)

    def hold_until(self, hint: BatchHint, free_since: float, now: float, *, last: bool) -> float | None:
        """Return until when a slot with room gets nothing; None: it gets what waits now.

        Args:
            hint: what the slot wants.
            free_since: when it became free, monotonic seconds.
            now: the present.
            last: whether it is the only slot with room; otherwise later requests get another one.
        """
        oldest = self._queue.oldest()
        if self._queue.count >= hint.requests or oldest is None or hint.wait_us == 0:
            return None
        if hint.wait_us is not None:
            until = min(oldest + hint.wait_us / 1e6, self._queue.half_time(self._expiry))
            return until if now < until else None
        self._worth_s = min(_MAX_WAIT_S, hint.fixed_us / 1e6) if hint.fixed_us >= _MIN_RUN_US else 0.0
        self._drop_late(now)
        if not last or self._soon.value * len(self._expected) < _MIN_EXPECTED:
            return None
        until = max(free_since, oldest) + self._worth_s
        return until if now < until else None

    def _drop_late(self, now: float) -> None:
        """Stop expecting clients that did not ask again soon."""
        expected = self._expected
        while expected and now - expected[client := next(iter(expected))] > self._worth_s:
            del expected[client]
            self._soon.add(0.0)

"""Whether it is better to wait for more requests before a slot gets those that wait.

slot's advice, requests that wait, clients that ask again soon --hold_until()--> a moment | None: now

Told to wait by the operator, a slot waits; else only where a further run costs more than the wait is long, and
somebody who just got an answer is about to ask again. A lone client's request never waits.
"""

from __future__ import annotations

from collections.abc import Callable

from thriftserve.servers.batching.connection import FrontConnection
from thriftserve.servers.batching.request_queue import Request, RequestQueue
from thriftserve.servers.batching.slot import Slot

#: Saving a run that costs less than this is not worth a wait that poll() counts in milliseconds.
_WORTH_WAITING_US = 1000
_LONGEST_S = 0.05
#: Requests that must be expected, at least.
_EXPECTED = 0.5
_WEIGHT = 0.05


class BatchWait:
    """Decides for one front.

    Args:
        waiting: the requests that wait.
        expiry: when a request must have begun to run.
    """

    def __init__(self, waiting: RequestQueue, expiry: Callable[[Request], float]) -> None:
        self._waiting = waiting
        self._expiry = expiry
        #: Seconds that waiting is worth, and within which a client asks again "soon"; 0 where it never is.
        self._worth_s = 0.0
        #: Clients that have all their answers, and since when; no longer than `_worth_s`.
        self._due: dict[FrontConnection, float] = {}
        #: The part of the clients that asked again soon, lately.
        self._soon = _EXPECTED

    def answered(self, client: FrontConnection, now: float) -> None:
        """A client got the last of its answers."""
        if self._worth_s:
            self._due[client] = now
            self._look_back(now)

    def arrived(self, client: FrontConnection, now: float) -> None:
        """A request came."""
        if self._due:
            self._look_back(now)
            if self._due.pop(client, None) is not None:
                self._soon += _WEIGHT * (1.0 - self._soon)

    def hold_until(self, slot: Slot, now: float, *, last: bool) -> float | None:
        """Until when the slot gets nothing, though it could; None: it gets what waits.

        Args:
            slot: one with room.
            now: the present.
            last: whether it is the only one left; else whoever comes later gets another one.
        """
        advice, count, oldest = slot.advice, self._waiting.count, self._waiting.oldest()
        if count >= advice.take or oldest is None or advice.wait_us == 0:
            return None
        if advice.wait_us is not None:
            until = min(oldest + advice.wait_us / 1e6, self._waiting.halfway(self._expiry))
            return until if now < until else None
        self._worth_s = min(_LONGEST_S, advice.fixed_us / 1e6) if advice.fixed_us >= _WORTH_WAITING_US else 0.0
        self._look_back(now)
        if not last or self._soon * len(self._due) < _EXPECTED:
            return None
        until = max(slot.since, oldest) + self._worth_s
        return until if now < until else None

    def _look_back(self, now: float) -> None:
        """Expects those no longer who did not ask again soon."""
        due = self._due
        while due and now - due[client := next(iter(due))] > self._worth_s:
            del due[client]
            self._soon -= _WEIGHT * self._soon

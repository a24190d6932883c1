"""Whether it is better to wait for more requests before a slot gets those that wait.

slot's advice, requests that wait, how fast they come --hold_until()--> a moment | None: now

Told to wait by the operator, a slot waits; else only where a further run costs more than the wait is long, and
somebody who was just active is about to ask again. A lone client's request never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from thriftserve.server_types.batched.client import Client
from thriftserve.server_types.batched.request import Request, Waiting
from thriftserve.server_types.batched.slot import Slot

#: Saving a run that costs less than this is not worth a wait that poll() counts in milliseconds.
_WORTH_WAITING_US = 1000
_ACTIVE_S = 0.05
_WEIGHT = 0.1


class Patience:
    """Decides for one front.

    Args:
        waiting: the requests that wait.
        clients: all that are connected.
        expiry: when a request must have begun to run.
    """

    def __init__(
        self, waiting: Waiting, clients: Callable[[], Iterable[Client]], expiry: Callable[[Request], float]
    ) -> None:
        self._waiting = waiting
        self._clients = clients
        self._expiry = expiry
        self._last_arrival = 0.0
        self._gap_s = 1.0

    def arrived(self, now: float) -> None:
        """A request came."""
        self._gap_s += _WEIGHT * (now - self._last_arrival - self._gap_s)
        self._last_arrival = now

    def hold_until(self, slot: Slot, now: float) -> float | None:
        """Until when the slot gets nothing, though it could; None: it gets what waits."""
        advice, count, oldest = slot.advice, self._waiting.count, self._waiting.oldest()
        if count >= advice.take or oldest is None or advice.wait_us == 0:
            return None
        if advice.wait_us is not None:
            until = min(oldest + advice.wait_us / 1e6, self._waiting.halfway(self._expiry))
        elif self._worth_it(count, advice.fixed_us, now):
            until = oldest + advice.fixed_us / 1e6
        else:
            return None
        return until if now < until else None

    def _worth_it(self, count: int, fixed_us: int, now: float) -> bool:
        if fixed_us < _WORTH_WAITING_US or count * self._gap_s * 1e6 > fixed_us:
            return False
        return self._more_expected(now)

    def _more_expected(self, now: float) -> bool:
        """Whether a client that was active just now has nothing under way: its next request may come any moment."""
        since = now - _ACTIVE_S
        return any(not client.pending and client.served and client.since > since for client in self._clients())

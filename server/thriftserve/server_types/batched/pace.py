"""How much a worker wants at once, for services whose handlers tell nothing of it.

    time of a batch --Pace--> the number of requests that come to about a millisecond

A service of calls that take long gets one at a time, so that idle workers share them; one of tiny calls gets
many, for each hand-over costs as much as several of them.
"""

from __future__ import annotations

AIM_S = 0.001
MOST = 64
#: A batch this short may wait in a worker's hand for the one before it, though another worker were free sooner.
SHORT_S = 0.003
_WEIGHT = 0.2


class Pace:
    """Measures calls. Threads may share it: a measurement that is lost is of no account."""

    def __init__(self) -> None:
        self._call_s: float | None = None
        self._batch_s = SHORT_S

    def took(self, seconds: float, calls: int) -> None:
        """So many calls took so long."""
        self._batch_s += _WEIGHT * (seconds - self._batch_s)
        each = seconds / calls
        self._call_s = each if self._call_s is None else self._call_s + _WEIGHT * (each - self._call_s)

    @property
    def depth(self) -> int:
        """How many batches to have in hand: two where they are short, so that the worker need not wait for the next."""
        return 2 if self._batch_s < SHORT_S else 1

    @property
    def take(self) -> int:
        """How many calls to take at once.

        >>> pace = Pace()
        >>> pace.take
        1
        >>> pace.took(0.0002, 2)
        >>> pace.take
        10
        """
        if self._call_s is None:
            return 1
        return max(1, min(MOST, int(AIM_S / max(self._call_s, 1e-9))))

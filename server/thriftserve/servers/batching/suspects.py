"""Requests that ended their workers, so that the next one like it does not end two more.

a request whose workers died --blame--> its fingerprint, refused for a minute
a request like it, later     --suspected--> runs alone --> blamed again, refused twice as long | cleared
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from thriftserve.errors import Code
from thriftserve.servers.batching.request_queue import Clock, Request

#: How long requests like a blamed one are refused at first, and at most: it may have been the machine, or be mended.
_FIRST_S, _LAST_S = 60.0, 3600.0
_MAX_REMEMBERED = 256
#: Requests that differ in size by more than their ids do are not alike.
_SIZE_TOLERANCE = 256


@dataclass
class _Blame:
    size: int
    refused_for_s: float
    refused_until: float


class Suspects:
    """The requests of one front that ended workers; an admission filter. One thread uses it.

    Args:
        fingerprint: returns the same bytes for requests that ask for the same.
        clock: the front's.
    """

    code = Code.INTERNAL

    def __init__(self, fingerprint: Callable[[Request], bytes], clock: Clock) -> None:
        self._fingerprint = fingerprint
        self._clock = clock
        self._blamed: OrderedDict[bytes, _Blame] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blamed)

    def blame(self, request: Request) -> float:
        """Refuse requests like one that ended its workers.

        Returns:
            For how long, in seconds: twice as long as the last time.
        """
        key, now = self._fingerprint(request), self._clock.now
        known = self._blamed.pop(key, None)
        refused_for_s = _FIRST_S if known is None else min(2 * known.refused_for_s, _LAST_S)
        self._blamed[key] = _Blame(request.size, refused_for_s, now + refused_for_s)
        if len(self._blamed) > _MAX_REMEMBERED:
            self._blamed.popitem(last=False)
        return refused_for_s

    def reason(self, request: Request) -> str | None:
        """Return why a request is refused; None if it is not, or no longer."""
        blame = self._blame_of(request)
        if blame is None or (left_s := blame.refused_until - self._clock.now) <= 0:
            return None
        return f"workers died while they ran this request; it is not run again for {left_s:.0f} s"

    def suspected(self, request: Request) -> bool:
        """Return whether a request that is admitted must run alone, because one like it ended workers."""
        return self._blame_of(request) is not None

    def clear(self, request: Request) -> None:
        """Forget what is known of requests like one that was answered."""
        if self._blamed:
            self._blamed.pop(self._fingerprint(request), None)

    def _blame_of(self, request: Request) -> _Blame | None:
        if not any(abs(blame.size - request.size) <= _SIZE_TOLERANCE for blame in self._blamed.values()):
            return None
        return self._blamed.get(self._fingerprint(request))

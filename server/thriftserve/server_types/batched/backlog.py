"""How far a front is behind in reading, and what that leaves of its queue.

    how long ago a request came that is only read now, answers a second --> the requests that may wait

Requests that lie unread in their sockets wait like those in the queue. A front that takes as many as ever while
they pile up answers them all too late, and refuses the others late; so each of them takes a place away. Then
refusals, which cost little, get the time that answers would have taken, until the reading is up to date.
"""

from __future__ import annotations

#: What is left of the queue, however far behind: some are answered under any load.
_LEAST = 8
#: Places that an unread request takes: with more than one the limit is reached before it is too late.
_PLACES = 2.0
_WINDOW_S = 0.02
_WEIGHT = 0.2


class Backlog:
    """Watches one front.

    Args:
        most: the requests that may wait while nothing is unread.
    """

    def __init__(self, most: int) -> None:
        self._whole = most
        #: The requests that may wait now.
        self.most = most
        #: Requests that workers answered, in all; the front counts.
        self.answered = 0
        self._age_s = 0.0
        self._rate = 0.0
        self._seen = (0.0, 0)

    def unread(self, age_s: float, now: float) -> None:
        """A request was found that came `age_s` seconds ago and is not read yet, and there are more.

        >>> backlog = Backlog(1000)
        >>> backlog.unread(0.0, 0.0)
        >>> backlog.answered = 20_000
        >>> backlog.unread(0.01, 1.0)
        >>> backlog.most
        920
        >>> backlog.up_to_date()
        >>> backlog.most
        1000
        """
        since, answered = self._seen
        if now - since >= _WINDOW_S:
            rate = (self.answered - answered) / (now - since)
            self._rate = rate if not self._rate else self._rate + _WEIGHT * (rate - self._rate)
            self._seen = now, self.answered
        self._age_s += _WEIGHT * (age_s - self._age_s)  # of so many ready ones the first may be a newcomer
        self.most = max(min(_LEAST, self._whole), self._whole - int(_PLACES * self._age_s * self._rate))

    def up_to_date(self) -> None:
        """Everything is read."""
        self._age_s = 0.0
        self.most = self._whole

"""Waiting for what comes at once, without going to sleep for it.

    how long waits took --> is it worth it? --> look() again and again, for at most `spin_us` --> what came, or sleep

A process that sleeps has to be woken, and its core may sleep, too: on a virtual machine that costs 20 to 60 us, several
times what a small request takes, and a lone client's request to a front goes through four such waits. Who looks
again instead has it at once. It is done only while waits are that short: a server with nothing to do, or with
a request now and then, sleeps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from thriftserve.cores import usable_cores
from thriftserve.supervisor.scoreboard import Scoreboard

_Found = TypeVar("_Found")

#: Waits of this mean length, in parts of the longest spinning, are worth a try: a sleeper's wait has his own waking in
#: it, and that of others, who may be about to try, too.
_WORTH = 2.0
#: A wait counts as no longer than this: a few long ones end the spinning, a single one does not.
_LONG = 4.0
#: Who has looked in vain so many times more than not, leaves it for so many waits.
_TRIES, _REST = 8, 128
_WEIGHT = 0.25
#: While it is not worth it, every so many waits are measured.
_SAMPLE = 4
#: Who asks with every message has the other processes looked at every so many messages.
_ASKED = 128


class CoreBudget:
    """Whether each of the processes that have a client also has a core: those that wait awake share none.

    Args:
        board: the server's workers.
        every: the answer is found anew for every so many questions; until then it may be of a time with fewer clients.
    """

    def __init__(self, board: Scoreboard, every: int = _ASKED) -> None:
        self._board = board
        self._every = every
        self._cores = usable_cores()
        self._asked = 0
        self._is_there = False

    def is_there(self) -> bool:
        """Whether it was so a moment ago."""
        if not self._asked:
            self._asked = self._every
            self._is_there = sum(connections > 0 for _, _, connections in self._board.peers()) <= self._cores
        self._asked -= 1
        return self._is_there


class BusyPoll:
    """One place that waits: `soon`, and where that has nothing, sleep, then `slept`.

    Args:
        most_us: microseconds to look again for; 0: never.
    """

    def __init__(self, most_us: float) -> None:
        self._most_s = most_us / 1e6
        self._worth_s = _WORTH * self._most_s
        self._long_s = self._usual_s = _LONG * self._most_s
        self._unmeasured = _SAMPLE
        self._tries = _TRIES
        self._rest = 0
        self._began = 0.0

    @classmethod
    def among_several(cls, most_us: float) -> BusyPoll:
        """For a place of one of several processes that a request goes through: with one core for all, it sleeps."""
        return cls(most_us if usable_cores() > 1 else 0)

    def soon(self, look: Callable[[], _Found | None]) -> _Found | None:
        """What comes within the next moment, where it is worth waiting awake for; None: sleep.

        Args:
            look: gives what is there, or None; at once.
        """
        if self._rest or self._usual_s >= self._worth_s:
            self._rest -= self._rest > 0
            self._unmeasured -= 1
            if not self._unmeasured:
                self._began = time.monotonic()
            return None
        began = now = time.monotonic()
        until = began + self._most_s
        while now < until:
            found = look()
            if found is not None:
                self._usual_s += _WEIGHT * (now - began - self._usual_s)
                self._tries += self._tries < _TRIES
                return found
            os.sched_yield()
            now = time.monotonic()
        self._began = began
        self._tries -= 1
        if not self._tries:
            self._tries, self._rest = _TRIES, _REST
        return None

    def slept(self) -> None:
        """What was waited for came, after `soon` had nothing."""
        if self._began:
            wait_s = min(time.monotonic() - self._began, self._long_s)
            self._usual_s += _WEIGHT * (wait_s - self._usual_s)
            self._began = 0.0
            self._unmeasured = _SAMPLE

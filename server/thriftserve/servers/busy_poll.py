"""Busy-waiting: look again and again for a short time before sleeping.

    how long recent waits took --> worth it? --> poll for at most `spin_us` --> what arrived, or None: sleep

A process that sleeps has to be woken, and its core may sleep, too. On a virtual machine that costs 20 to 60 us, several
times what a small request takes, and a lone client's request to a front goes through four such waits. Busy-waiting is
done only while waits are that short: a server with nothing to do, or with a request now and then, sleeps. Figures are
in docs/explanation/decisions.md, "TBatchingServer"; `--spin-us 0` switches it off.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from thriftserve.cores import usable_cores
from thriftserve.supervisor.scoreboard import Peer

T = TypeVar("T")

#: Busy-waiting is worth a try while the mean wait is shorter than this many times its longest duration: a measured wait
#: includes the wake-up of this process, and of others that may be about to busy-wait, too. Without this factor a lone
#: client stayed at a p50 of 440 us instead of 200 (docs/explanation/decisions.md, "TBatchingServer").
_WORTH_FACTOR = 2.0
#: A wait counts as no longer than this many times: several long waits end the busy-waiting, a single one does not.
_LONGEST_FACTOR = 4.0
#: The weight of the latest wait in the mean.
_WEIGHT = 0.25
#: After this many tries in vain more than successful ones, the next _REST waits sleep at once.
_TRIES, _REST = 8, 128
#: While busy-waiting is not worth it, every such wait is measured.
_SAMPLE = 4
#: `CoreBudget.available` looks at the other processes once in so many questions. With 1,024, four clients lost a tenth
#: of their calls: the answer was of a moment with one client (docs/explanation/decisions.md, "TBatchingServer").
_QUESTIONS = 128


class PeerBoard(Protocol):
    """What `CoreBudget` needs of the scoreboard."""

    def peers(self) -> list[Peer]:
        """Return every worker that serves."""


class CoreBudget:
    """Whether each process with a client has a core of its own. Processes that share a core must not busy-wait.

    Args:
        board: the workers of the server.
        every: look at them once in so many questions. In between, the answer may be out of date.
    """

    def __init__(self, board: PeerBoard, every: int = _QUESTIONS) -> None:
        self._board = board
        self._every = every
        self._cores = usable_cores()
        self._questions_left = 0
        self._available = False

    def available(self) -> bool:
        """Return whether there is a core for each process with a client."""
        if not self._questions_left:
            self._questions_left = self._every
            self._available = sum(peer.connections > 0 for peer in self._board.peers()) <= self._cores
        self._questions_left -= 1
        return self._available


class BusyPoll:
    """One place at which a thread waits: `poll` or `recv`; if that returns None, sleep, then call `woke_up`.

    Not thread-safe: each waiting place has its own.

    Args:
        spin_us: busy-wait for at most this long, microseconds; 0: never.
    """

    def __init__(self, spin_us: float) -> None:
        self._spin_s = spin_us / 1e6
        self._worth_s = _WORTH_FACTOR * self._spin_s
        self._longest_s = self._mean_s = _LONGEST_FACTOR * self._spin_s
        self._unmeasured = _SAMPLE
        self._tries_left = _TRIES
        self._rest = 0
        self._sleeps_since = 0.0

    @classmethod
    def among_several(cls, spin_us: float) -> BusyPoll:
        """Return one for a process that a request passes through with others: it never busy-waits on a single core."""
        return cls(spin_us if usable_cores() > 1 else 0)

    def poll(self, probe: Callable[[], T | None]) -> T | None:
        """Return what arrives while busy-waiting is worth it. None: sleep, then call `woke_up`.

        Args:
            probe: returns at once what has arrived, or None.
        """
        return self._spin(probe) if self._is_worth_it() else None

    def recv(self, sock: socket.socket, size: int, flags: int = 0) -> bytes | None:
        """Receive up to `size` bytes while busy-waiting is worth it. None: sleep in `sock.recv`, then call `woke_up`.

        Raises:
            OSError: the connection is broken.
        """
        if not self._is_worth_it():
            return None
        return self._spin(partial(_recv_now, sock, size, flags | socket.MSG_DONTWAIT))

    def woke_up(self) -> None:
        """Note that what was waited for has arrived, after `poll` or `recv` returned None."""
        if self._sleeps_since:
            wait_s = min(time.monotonic() - self._sleeps_since, self._longest_s)
            self._mean_s += _WEIGHT * (wait_s - self._mean_s)
            self._sleeps_since = 0.0
            self._unmeasured = _SAMPLE

    def _is_worth_it(self) -> bool:
        if not self._rest and self._mean_s < self._worth_s:
            return True
        self._rest -= self._rest > 0
        self._unmeasured -= 1
        if not self._unmeasured:
            self._sleeps_since = time.monotonic()
        return False

    def _spin(self, probe: Callable[[], T | None]) -> T | None:
        start = now = time.monotonic()
        end = start + self._spin_s
        while now < end:
            arrived = probe()
            if arrived is not None:
                self._mean_s += _WEIGHT * (now - start - self._mean_s)
                self._tries_left += self._tries_left < _TRIES
                return arrived
            os.sched_yield()
            now = time.monotonic()
        self._sleeps_since = start
        self._tries_left -= 1
        if not self._tries_left:
            self._tries_left, self._rest = _TRIES, _REST
        return None


def _recv_now(sock: socket.socket, size: int, flags: int) -> bytes | None:
    try:
        return sock.recv(size, flags)
    except BlockingIOError:
        return None

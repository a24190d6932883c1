"""The machine under the model: cores that are shared, interpreters that are locked.

CPU seconds  -->  Interpreter (one thread at a time)  -->  Cores (all runnable ones share)  -->  when it is done

Cores are shared evenly among those that want them, as a kernel's fair scheduler does over more than a
few milliseconds: with n runnable threads on c cores each gets min(1, c/n) of one. The sharing is kept in
virtual time, the CPU seconds that a thread runnable since the beginning would have had, so a change costs
O(log n) and not a look at every thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from heapq import heappop, heappush
from itertools import count
from typing import Any

from simpy import Environment, Event

#: What a simulated thread is: it yields what it waits for.
Steps = Generator[Event, Any, Any]
#: CPython's sys.getswitchinterval(): how long a computing thread keeps the lock while others want it.
SWITCH_INTERVAL_S = 0.005
_SAME_S = 1e-9


class Cores:
    """So many cores, shared by all that compute."""

    def __init__(self, env: Environment, number: int) -> None:
        self._env = env
        self._number = number
        self._virtual_s = 0.0
        self._known_at = 0.0
        self._ends: list[tuple[float, int, Event]] = []
        self._order = count()
        self._plan_number = 0

    def run(self, cpu_s: float) -> Event:
        """Happens once so many CPU seconds were had."""
        self._advance()
        done = Event(self._env)
        heappush(self._ends, (self._virtual_s + cpu_s, next(self._order), done))
        self._plan()
        return done

    def _rate(self) -> float:
        return min(1.0, self._number / len(self._ends))

    def _advance(self) -> None:
        if self._ends:
            self._virtual_s += (self._env.now - self._known_at) * self._rate()
        self._known_at = self._env.now

    def _plan(self) -> None:
        """Sets the alarm for whoever is done first; earlier alarms are void."""
        self._plan_number += 1
        if self._ends:
            wait_s = max(0.0, (self._ends[0][0] - self._virtual_s) / self._rate())
            alarm = self._env.timeout(wait_s, self._plan_number)
            assert alarm.callbacks is not None
            alarm.callbacks.append(self._on_alarm)

    def _on_alarm(self, alarm: Event) -> None:
        if alarm.value != self._plan_number:
            return
        self._advance()
        until = max(self._virtual_s, self._ends[0][0]) + _SAME_S
        while self._ends and self._ends[0][0] <= until:
            heappop(self._ends)[2].succeed()
        self._plan()


class Lock:
    """Held by one, wanted by many, given in the order of asking."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._held = False
        self._waiting: deque[Event] = deque()

    @property
    def wanted(self) -> bool:
        """Somebody waits for it."""
        return bool(self._waiting)

    def take(self) -> Steps:
        """Waits until it is had."""
        if self._held:
            turn = Event(self._env)
            self._waiting.append(turn)
            yield turn
        self._held = True

    def drop(self) -> None:
        """Gives it to whoever has waited longest."""
        if self._waiting:
            self._waiting.popleft().succeed()
        else:
            self._held = False


class Interpreter:
    """A process: its threads run one at a time, each at most `slice_s` while others want to.

    Args:
        env: the simulation.
        cores: the machine that it runs on; None: one that is never short of cores.
        slice_s: the switch interval; infinite where there is but one thread, which costs fewer events.
    """

    def __init__(self, env: Environment, cores: Cores | None, slice_s: float = SWITCH_INTERVAL_S) -> None:
        self._env = env
        self._cores = cores
        self._slice_s = slice_s
        self._lock = Lock(env)

    def compute(self, cpu_s: float) -> Steps:
        """Computes under the lock, and passes it on after each slice if it is wanted."""
        if cpu_s <= 0:
            return
        yield from self._lock.take()
        while cpu_s > self._slice_s:
            yield self._on_a_core(self._slice_s)
            cpu_s -= self._slice_s
            if self._lock.wanted:
                self._lock.drop()
                yield from self._lock.take()
        yield self._on_a_core(cpu_s)
        self._lock.drop()

    def hold(self, cpu_s: float, asleep_s: float) -> Steps:
        """Computes for a moment, then sleeps with the lock held: nobody else runs, and no core is used."""
        yield from self._lock.take()
        if cpu_s > 0:
            yield self._on_a_core(cpu_s)
        yield self._env.timeout(asleep_s)
        self._lock.drop()

    def _on_a_core(self, cpu_s: float) -> Event:
        return self._cores.run(cpu_s) if self._cores else self._env.timeout(cpu_s)

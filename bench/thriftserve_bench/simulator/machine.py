"""The machine of the model: shared cores, interpreters with a lock, connections, queues.

CPU seconds  -->  Interpreter (one thread at a time)  -->  Cores (all runnable ones share)  -->  when it is done

Cores are shared evenly among runnable threads, as a kernel's fair scheduler does over more than a
few milliseconds: with n runnable threads on c cores each gets min(1, c/n) of one. The sharing is computed in
virtual time, the CPU seconds that a thread runnable since the beginning would have had, so a change costs
O(log n) and not a look at every thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

from simpy import Environment, Event

Item = TypeVar("Item")


class Queue(Generic[Item]):
    """An unbounded queue: first come, first served, for items and for receivers."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._items: deque[Item] = deque()
        self._takers: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Add an item; the longest waiting receiver gets it."""
        if self._takers:
            self._takers.popleft().succeed(item)
        else:
            self._items.append(item)

    def get(self) -> Event:
        """Return an event with the next item as its value."""
        taken = Event(self._env)
        if self._items:
            taken.succeed(self._items.popleft())
        else:
            self._takers.append(taken)
        return taken

    def leave(self, taken: Event) -> None:
        """Stop waiting."""
        self._takers.remove(taken)


class Request:
    """One call in flight."""

    def __init__(self, env: Environment) -> None:
        self.answered = Event(env)


#: What a connection carries: requests, and None at its end.
Message = Request | None


class Connection:
    """A client's connection, from connect to close."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._inbox: Queue[Message] = Queue(env)
        #: Called when something has come; None: somebody waits in `receive`.
        self.watcher: Callable[[Connection], None] | None = None

    @property
    def has_pending(self) -> bool:
        """Whether something can be received."""
        return len(self._inbox) > 0

    def send(self) -> Request:
        """Send a request; its `answered` happens when the answer is there."""
        request = Request(self._env)
        self._put(request)
        return request

    def close(self) -> None:
        """Close the connection, as the client."""
        self._put(None)

    def _put(self, message: Message) -> None:
        self._inbox.put(message)
        if self.watcher is not None:
            self.watcher(self)

    def receive(self) -> Event:
        """Return an event with the next request, or None at the end, as its value."""
        return self._inbox.get()

    def leave(self, receiving: Event) -> None:
        """Stop waiting for what `receive` returned."""
        self._inbox.leave(receiving)


#: What a simulated thread is: it yields what it waits for.
Steps = Generator[Event, Any, Any]
#: CPython's sys.getswitchinterval(): how long a computing thread holds the lock while others wait for it.
SWITCH_INTERVAL_S = 0.005
_SAME_S = 1e-9


class Cores:
    """The cores of a machine, shared by all threads that compute."""

    def __init__(self, env: Environment, number: int) -> None:
        self._env = env
        self._number = number
        self._virtual_s = 0.0
        self._known_at = 0.0
        self._ends: list[tuple[float, int, Event]] = []
        self._order = count()
        self._plan_number = 0

    def run(self, cpu_s: float) -> Event:
        """Return an event that happens after so many CPU seconds."""
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
        """Set the alarm for the first that will be done; earlier alarms are void."""
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
    """A lock that is passed on in the order of requests."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._held = False
        self._waiting: deque[Event] = deque()

    @property
    def wanted(self) -> bool:
        """Whether a thread waits for it."""
        return bool(self._waiting)

    def take(self) -> Steps:
        """Wait for the lock."""
        if self._held:
            turn = Event(self._env)
            self._waiting.append(turn)
            yield turn
        self._held = True

    def drop(self) -> None:
        """Pass the lock to the longest waiting thread."""
        if self._waiting:
            self._waiting.popleft().succeed()
        else:
            self._held = False


class Interpreter:
    """A process: its threads run one at a time, each at most `slice_s` while others are runnable.

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
        """Compute under the lock, and pass it on after each slice if it is wanted."""
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
        """Compute for a moment, then sleep with the lock held: no other thread runs, and no core is used."""
        yield from self._lock.take()
        if cpu_s > 0:
            yield self._on_a_core(cpu_s)
        yield self._env.timeout(asleep_s)
        self._lock.drop()

    def _on_a_core(self, cpu_s: float) -> Event:
        return self._cores.run(cpu_s) if self._cores else self._env.timeout(cpu_s)

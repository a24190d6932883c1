"""Closed loops of calls: each connection asks again as soon as it has its reply.

connections  --in_line (one) | InTurns (several)-->  Tally: latencies, failures
"""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from thriftserve_bench.load.caller import Caller, WrongReply
from thriftserve_bench.load.predict_call import EchoCall
from thriftserve_bench.records.calls import Order
from thriftserve_bench.stats import three_digits

CALL_TIMEOUT_S = 20.0
#: A server that fails this often in a row is given up for this window.
MAX_FAILURES_IN_ROW = 20
_FAILURES = (OSError, WrongReply)

Callers = dict[int, Caller]
_Found = TypeVar("_Found")


class GivenUp(Exception):
    """Too many calls failed in a row."""


class Tally:
    """What came of the calls of a window."""

    def __init__(self) -> None:
        #: Microseconds, to three significant digits, and how often.
        self.latencies_us: Counter[int] = Counter()
        self.calls = 0
        self.failures = 0
        self.reason = ""
        self._in_row = 0

    def answered(self, latency_ns: int) -> None:
        """A call has its reply."""
        self.latencies_us[three_digits(latency_ns // 1000)] += 1
        self.calls += 1
        self._in_row = 0

    def failed(self, error: Exception) -> None:
        """A call failed.

        Raises:
            GivenUp: too many did in a row.
        """
        self.failures += 1
        self.reason = f"{type(error).__name__}: {error}"
        self._in_row += 1
        if self._in_row >= MAX_FAILURES_IN_ROW:
            raise GivenUp(f"given up after {self._in_row} failures in a row, the last: {self.reason}")


def open_all(order: Order, question: EchoCall) -> Callers:
    """The connections of an order.

    Raises:
        GivenUp: the server fails every first call.
    """
    tally = Tally()
    opened = [_open(order, question, tally) for _ in range(order.connections)]
    return {caller.sock.fileno(): caller for caller in opened}


def _open(order: Order, question: EchoCall, tally: Tally) -> Caller:
    """A connection whose first call went well; failures are counted until one does."""
    while True:
        try:
            return Caller(
                order.port, question, blocking=order.connections == 1, timeout_s=CALL_TIMEOUT_S, looks=order.awake
            )
        except _FAILURES as error:
            tally.failed(error)


def in_line(callers: Callers, order: Order, question: EchoCall, tally: Tally) -> float:
    """Calls on the one connection of `callers`, which is replaced when it fails; returns the seconds it took."""
    now_ns = time.perf_counter_ns
    receive = _receive_awake if order.awake else Caller.receive
    ((fd, caller),) = callers.items()
    began = before = now_ns()
    until = began + int(order.seconds * 1e9)
    while before < until or tally.calls < order.min_calls:
        try:
            caller.send()
            if not receive(caller):
                raise TimeoutError(f"no reply within {CALL_TIMEOUT_S:g} s")
            after = now_ns()
            tally.answered(after - before)
        except _FAILURES as error:
            callers.pop(fd).close()
            tally.failed(error)
            caller = _open(order, question, tally)
            fd = caller.sock.fileno()
            callers[fd] = caller
            after = now_ns()
        before = after
    return (before - began) / 1e9


def _receive_awake(caller: Caller) -> bool:
    """The rest of a reply, looked for without sleeping; false where it does not come in time."""
    return _awake(caller.receive)


def _awake(look: Callable[[], _Found]) -> _Found:
    """What there is, looked for without sleeping; what stands for nothing where it does not come in time."""
    until_ns = time.perf_counter_ns() + int(CALL_TIMEOUT_S * 1e9)
    while not (found := look()) and time.perf_counter_ns() < until_ns:
        pass
    return found


class InTurns:
    """Calls on several connections side by side, in one thread."""

    def __init__(self, callers: Callers, order: Order, question: EchoCall, tally: Tally) -> None:
        self._callers = callers
        self._order = order
        self._question = question
        self._tally = tally
        self._sending: set[int] = set()
        self._epoll: select.epoll

    def run(self) -> float:
        """Calls until the time is over and the last reply is there; returns the seconds until then."""
        began = last = time.perf_counter_ns()
        self._until = began + int(self._order.seconds * 1e9)
        with select.epoll() as self._epoll:
            for fd, caller in list(self._callers.items()):
                try:
                    self._watch(caller)
                except _FAILURES as error:  # closed since its last reply
                    self._replace(fd, error)
            waiting = len(self._callers)
            while waiting:
                events = self._next_events()
                if not events:
                    self._drop_all()
                    break
                for fd, _ in events:
                    try:
                        waiting -= self._step(fd, self._callers[fd])
                    except _FAILURES as error:
                        self._replace(fd, error)
                last = time.perf_counter_ns()
        return (last - began) / 1e9

    def _next_events(self) -> list[tuple[int, int]]:
        """Empty: nothing comes any more."""
        return _awake(lambda: self._epoll.poll(0)) if self._order.awake else self._epoll.poll(CALL_TIMEOUT_S)

    def _watch(self, caller: Caller) -> None:
        self._epoll.register(caller.sock.fileno(), select.EPOLLIN)
        self._begin(caller)

    def _begin(self, caller: Caller) -> None:
        caller.began_ns = time.perf_counter_ns()
        if not caller.send():
            fd = caller.sock.fileno()
            self._sending.add(fd)
            self._epoll.modify(fd, select.EPOLLOUT)

    def _step(self, fd: int, caller: Caller) -> bool:
        """Goes on with a connection; true where it has had its last call."""
        if fd in self._sending:
            if caller.send():
                self._sending.discard(fd)
                self._epoll.modify(fd, select.EPOLLIN)
            return False
        if not caller.receive():
            return False
        now = time.perf_counter_ns()
        self._tally.answered(now - caller.began_ns)
        if now >= self._until and self._tally.calls >= self._order.min_calls:
            self._epoll.unregister(fd)  # its server may close it now: that is no failed call
            return True
        self._begin(caller)
        return False

    def _replace(self, fd: int, error: Exception) -> None:
        failure: Exception | None = error
        while failure is not None:
            self._sending.discard(fd)
            self._callers.pop(fd).close()
            self._tally.failed(failure)
            caller = _open(self._order, self._question, self._tally)
            fd = caller.sock.fileno()
            self._callers[fd] = caller
            try:
                self._watch(caller)
                failure = None
            except _FAILURES as again:
                failure = again

    def _drop_all(self) -> None:
        for caller in self._callers.values():
            caller.close()
        self._callers.clear()
        self._tally.failed(TimeoutError(f"no reply within {CALL_TIMEOUT_S:g} s"))

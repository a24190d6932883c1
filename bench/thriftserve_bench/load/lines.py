"""The connections of one load generator, and what comes back on them.

    ask(line)  --frame-->  server  --reply-->  answered(events)  -->  lines that are free again, a Tally that grows

Nothing waits here but `events`: connecting on the loopback interface is immediate, and neither sending nor
receiving blocks, so one slow answer delays no other call.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter, deque

from thriftserve_bench.load.caller import Asked, Caller
from thriftserve_bench.load.calls_loops import MAX_FAILURES_IN_ROW, GivenUp
from thriftserve_bench.load.predict_call import FrameQuestion, Refused
from thriftserve_bench.workloads.messages import LENGTH

#: Every so many answers one is kept, to read its Timing from later; so many at most, and few of large ones.
_SAMPLE_EVERY = 16
_MAX_SAMPLES = 500
_LARGE_BYTES = 65536
_MAX_LARGE_SAMPLES = 4
_FAILURES = (OSError, ValueError)


class Line(Caller):
    """A connection that carries one call at a time; answers may differ in length."""

    def __init__(self, port: int, question: FrameQuestion, timeout_s: float) -> None:
        self.busy = False
        #: Since when it could carry the next call, and when its call was meant to be and was sent; nanoseconds.
        self.free_ns = self.intended_ns = self.sent_ns = 0
        self.size = 0
        self._question = question
        super().__init__(port, question, blocking=False, timeout_s=timeout_s)

    def _first_call(self, question: Asked) -> None:
        """None: a call that waits here would delay those on other connections."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reply = bytearray(max(4096, 2 * len(question.frame)))
        self._view = memoryview(self._reply)

    def receive(self) -> bool:
        """Goes on with receiving; true once an answer is there.

        Raises:
            Refused: an error is there instead; the line is of further use.
            OSError: the connection broke or was closed.
            ValueError: what came is no reply.
        """
        filled = self._filled
        while True:
            try:
                got = self.sock.recv_into(self._view[filled:] if filled else self._view)
            except BlockingIOError:
                self._filled = filled
                return False
            if not got:
                raise ConnectionError("closed before a reply")
            filled += got
            if filled >= LENGTH.size:
                self.size = LENGTH.size + LENGTH.unpack_from(self._reply)[0]
                if filled == self.size:
                    break
                if filled > self.size:
                    raise ValueError("more came than one reply")
                self._grow(self.size)
        self._filled = 0
        if not self._reply.startswith(FrameQuestion.head, LENGTH.size):
            self._question.check(self.message())
        return True

    def _grow(self, size: int) -> None:
        if size > len(self._reply):
            self._view.release()
            self._reply.extend(bytes(size - len(self._reply)))
            self._view = memoryview(self._reply)

    def message(self) -> bytes:
        """The reply that came last."""
        return bytes(self._view[LENGTH.size : self.size])


class Tally:
    """What came of the calls of a window; times in nanoseconds."""

    def __init__(self) -> None:
        #: From the intended time, and from the send.
        self.latencies: list[int] = []
        self.from_send: list[int] = []
        self.lags: list[int] = []
        self.samples: list[bytes] = []
        self.failures: Counter[str] = Counter()
        #: Of the last failure, in words.
        self.reason = ""
        self.calls = self.unanswered = self.waited = 0
        self._in_row = 0

    def answered(self, line: Line, now: int) -> None:
        """A call has its answer."""
        self.latencies.append(now - line.intended_ns)
        self.from_send.append(now - line.sent_ns)
        if self.calls % _SAMPLE_EVERY == 0:
            most = _MAX_LARGE_SAMPLES if line.size > _LARGE_BYTES else _MAX_SAMPLES
            if len(self.samples) < most:
                self.samples.append(line.message())
        self.calls += 1
        self._in_row = 0

    def failed(self, kind: str, reason: str, *, broken: bool) -> None:
        """A call failed; `broken`: with its connection.

        Raises:
            GivenUp: too many connections broke in a row.
        """
        self.failures[kind] += 1
        self.reason = reason
        self._in_row += broken
        if self._in_row >= MAX_FAILURES_IN_ROW:
            raise GivenUp(f"given up after {self._in_row} broken connections in a row, the last: {reason}")


class Lines:
    """All connections of a generator. `open` before anything else, `close` at the end."""

    def __init__(self, port: int, question: FrameQuestion, timeout_s: float) -> None:
        self._port = port
        self._question = question
        self._timeout_s = timeout_s
        # Made before the connections: select() takes no descriptor above 1023.
        self._epoll = select.epoll()
        self._sending: set[int] = set()
        self._by_fd: dict[int, Line] = {}
        self.idle: deque[Line] = deque()
        self.busy = 0

    def open(self, count: int) -> None:
        """Connects; no call is made.

        Raises:
            OSError: the server does not take them.
        """
        for _ in range(count):
            self.idle.append(self._connect())

    def _connect(self) -> Line:
        line = Line(self._port, self._question, self._timeout_s)
        fd = line.sock.fileno()
        self._by_fd[fd] = line
        self._epoll.register(fd, select.EPOLLIN)
        return line

    def ask(self, line: Line, intended_ns: int, now: int) -> None:
        """Begins a call on a line that is not busy."""
        line.busy = True
        line.intended_ns, line.sent_ns = intended_ns, now
        self.busy += 1
        try:
            if line.send():
                return
        except OSError:
            return  # the same is told again when its answer is read, where it is counted
        fd = line.sock.fileno()
        self._sending.add(fd)
        self._epoll.modify(fd, select.EPOLLOUT)

    def events(self, wait_s: float) -> list[tuple[int, int]]:
        """Waits until something can be read or written, or time is over; to a millisecond, rounded up."""
        return self._epoll.poll(max(0.0, wait_s))

    def events_at(self, wait_s: float) -> list[tuple[int, int]]:
        """The same to some ten microseconds, for one more system call."""
        found = self._epoll.poll(0)
        if found or wait_s <= 0:
            return found
        select.select([self._epoll], [], [], wait_s)
        return self._epoll.poll(0)

    def answered(self, events: list[tuple[int, int]], tally: Tally) -> list[Line]:
        """Goes on with the lines of `events`; returns those whose call is over, one way or the other.

        Raises:
            GivenUp: the server is of no use any more.
        """
        free = []
        for fd, _ in events:
            line = self._by_fd[fd]
            try:
                if fd in self._sending:
                    self._go_on_sending(fd, line)
                    continue
                if not line.receive():
                    continue
                now = time.perf_counter_ns()
                tally.answered(line, now)
            except Refused as error:
                tally.failed(error.kind, str(error), broken=False)
                now = time.perf_counter_ns()
            except _FAILURES as error:
                line, now = self._replaced(fd, error, tally), time.perf_counter_ns()
            self.busy -= 1
            line.busy = False
            line.free_ns = now
            free.append(line)
        return free

    def _go_on_sending(self, fd: int, line: Line) -> None:
        if line.send():
            self._sending.discard(fd)
            self._epoll.modify(fd, select.EPOLLIN)

    def _replaced(self, fd: int, error: Exception, tally: Tally) -> Line:
        """A new connection instead of a broken one; a connection that broke while it was idle counts for nothing."""
        line = self._drop(fd)
        if line.busy:
            tally.failed(type(error).__name__, f"{type(error).__name__}: {error}", broken=True)
        else:
            self.busy += 1  # what follows takes it for the end of a call
            self.idle.remove(line)
        while True:
            try:
                return self._connect()
            except OSError as refusal:
                tally.failed(type(refusal).__name__, f"{type(refusal).__name__}: {refusal}", broken=True)

    def _drop(self, fd: int) -> Line:
        line = self._by_fd.pop(fd)
        self._sending.discard(fd)
        line.close()
        return line

    def abandon(self, tally: Tally) -> None:
        """Gives the calls up that have no answer: counted with the time they have waited; their lines are new then."""
        now = time.perf_counter_ns()
        for fd, line in list(self._by_fd.items()):
            if line.busy:
                tally.unanswered += 1
                tally.latencies.append(now - line.intended_ns)
                self._drop(fd)
                self.busy -= 1
                self.idle.append(self._connect())

    def close(self) -> None:
        """Closes them all."""
        for fd in list(self._by_fd):
            self._drop(fd)
        self.idle.clear()
        self._epoll.close()

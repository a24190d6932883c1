"""One slot of a worker: a thread that takes a batch, answers each of its requests, and takes the next.

    front --Batch--> frames --Exchange.begin--> calls --one run for what fits together--> answers --> front

What a processor can't run together with others is answered call by call.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from io import BytesIO
from typing import Any

from thriftserve.rpc import BadMessage, CachedCall, Exchange, PendingCall, make_exchange
from thriftserve.servers.batching.arena import SharedFrames
from thriftserve.servers.batching.ipc import (
    CLOSE,
    READ_BYTES,
    BatchItem,
    BatchReader,
    ReplyKind,
    SlotHint,
    pack_replies,
)
from thriftserve.servers.busy_poll import BusyPoll
from thriftserve.servers.context import ServerContext
from thriftserve_client.wire.framing import Frame
from thriftserve_client.wire.message_socket import MAX_SEGMENTS, drop_sent

# How much a worker wants at once, for services whose handlers tell nothing of it.

AIM_S = 0.001
MOST = 64
#: A batch this short may wait in a worker's hand for the one before it, though another worker were free sooner.
SHORT_S = 0.003
_WEIGHT = 0.2


class PullSize:
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


log = logging.getLogger(__name__)

_JOIN_BYTES = 64 * 1024
#: A call that was begun.
Call = PendingCall | CachedCall
#: An answer: index in the batch, bytes, segments.
Answer = tuple[int, int, list[bytes]]


class SlotLoop:
    """Serves one slot's socket to one front.

    Args:
        sock: connected; the runner owns it.
        arena: where large frames lie.
        host: the service.
        pace: shared by the worker's slots.
        slot: the slot's number in its worker.
        parked: True where it takes nothing until `unpark`.
    """

    def __init__(
        self, sock: socket.socket, arena: SharedFrames, host: ServerContext, pace: PullSize, *, slot: int, parked: bool
    ) -> None:
        self._sock = sock
        self._arena = arena
        self._host = host
        self._pace = pace
        self._processor = host.processor
        self._counters = host.context.counters
        self._together = hasattr(host.processor, "together")
        self._header = host.settings.protocol == "header"
        self._exchange = self._make_exchange()
        self._spin = BusyPoll.among_several(host.settings.spin_us)
        self._sending = threading.Lock()
        self.slot = slot
        self.parked = parked

    def _make_exchange(self) -> Exchange:
        settings = self._host.settings
        return make_exchange(self._processor, settings.protocol, settings.max_message_bytes)

    def serve(self, done: Any) -> None:
        """Answers batch after batch until the front closes the socket.

        Args:
            done: called after each batch with this runner and the seconds it spent in runs.
        """
        reader = BatchReader()
        while data := self._read():
            for batch in reader.feed(data):
                self._answer(batch, done)

    def _read(self) -> bytes:
        data = self._spin.poll(self._look)
        if data is None:
            data = self._sock.recv(READ_BYTES)
            self._spin.woke_up()
        return data

    def _look(self) -> bytes | None:
        try:
            return self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def advice(self) -> SlotHint:
        """What it wants next."""
        if self.parked:
            return SlotHint(take=0)
        if not self._together:
            return SlotHint(self._pace.take, self._pace.depth)
        given = self._processor.advice()
        return SlotHint(given.take, self._pace.depth, int(max(0.0, given.fixed_us)), given.wait_us)

    def unpark(self) -> None:
        """Takes batches from now on."""
        self.parked = False
        self.send(ReplyKind.LAST, [])

    def leave(self) -> None:
        """Takes no more batches; the front closes the socket when this one is answered."""
        self.send(ReplyKind.LEAVE, [])

    def send(self, kind: ReplyKind, answers: list[Answer]) -> None:
        """Tells the front; a front that is gone is noticed by `serve`."""
        with self._sending, contextlib.suppress(OSError):
            parts = pack_replies(kind, self.advice(), answers)  # what is sent last is what it wants now
            if sum(map(len, parts)) <= _JOIN_BYTES:
                self._sock.sendall(b"".join(parts))
                return
            views = [memoryview(part) for part in parts]
            while views:
                views = drop_sent(views, self._sock.sendmsg(views[:MAX_SEGMENTS]))

    # A batch

    def _answer(self, batch: list[BatchItem], done: Any) -> None:
        began = time.monotonic()
        self._counters.begin_requests(len(batch))
        try:
            answers, run_s = self._answers(batch)
        finally:
            self._counters.end_requests(len(batch))
        self._pace.took(time.monotonic() - began, len(batch))
        done(self, run_s)
        self.send(ReplyKind.LAST, answers)

    def _answers(self, batch: list[BatchItem]) -> tuple[list[Answer], float]:
        answers: list[Answer] = []
        waiting: list[tuple[int, Call, Any]] = []
        for index, item in enumerate(batch):
            if not self._together:
                answers.append(self._answer_one(index, self._frame(item), item.arrived))
                continue
            exchange = self._exchange
            if self._header:  # each message has a dialect of its own, which its answer is written in
                exchange = self._make_exchange()
            message = item.message
            call: Call | list[bytes]
            try:
                if isinstance(message, tuple):
                    call = exchange.begin_shared(self._arena.view(*message), item.arrived)
                else:
                    call = exchange.begin_small(message, item.arrived)
            except BadMessage as error:
                answers.append(_bad(index, error))
                continue
            if isinstance(call, list):
                answers.append((index, exchange.size if call else 0, call))
            else:  # at once: a call's first step reads when it arrived
                _step(index, call, None, waiting, answers)
        return answers, self._run(waiting, answers) if waiting else 0.0

    def _answer_one(self, index: int, frame: Frame, arrived: float) -> Answer:
        try:
            parts = self._exchange.answer(frame, arrived)
        except BadMessage as error:
            return _bad(index, error)
        return index, self._exchange.size if parts else 0, parts

    def _frame(self, item: BatchItem) -> Frame:
        message = item.message
        if isinstance(message, tuple):
            message = self._arena.read(*message)
        return Frame(BytesIO(message), len(message))

    def _run(self, waiting: list[tuple[int, Call, Any]], answers: list[Answer]) -> float:
        """Drives calls from run to run until each has its answer; the seconds spent in runs."""
        run_s = 0.0
        while waiting:
            started = time.monotonic()
            results = self._results([job for _, _, job in waiting])
            run_s += time.monotonic() - started
            on, waiting = waiting, []
            for (index, call, _), result in zip(on, results, strict=True):
                _step(index, call, result, waiting, answers)
        return run_s

    def _results(self, jobs: list[Any]) -> list[Any]:
        """What the processor makes of jobs, an answer or an error each."""
        try:
            return list(self._processor.run(jobs))
        except BaseException as error:  # a model may raise anything, SystemExit included
            return [error] if len(jobs) == 1 else [self._results([job])[0] for job in jobs]


def _step(index: int, call: Call, result: Any, waiting: list[tuple[int, Call, Any]], answers: list[Answer]) -> None:
    """Takes a call to its next run, or to its answer."""
    job = call.step(result)
    if job is not None:
        waiting.append((index, call, job))
    else:
        answers.append((index, call.size, call.parts))


def _bad(index: int, error: BadMessage) -> Answer:
    log.warning("closed: %s", error)
    return index | CLOSE, 0, []

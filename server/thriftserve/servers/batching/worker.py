"""TBatchingServer's worker: models, and a few slots that fronts send batches to.

    prepare(): models loaded      run(): each slot connects to each front --> a SlotLoop in a thread of its own

Slots beyond the first are parked while runs are short: threads that only hold the interpreter's lock in turns win
nothing, and share what could be one batch. A worker that is replaced leaves its fronts first, so that they send it
nothing more; when the whole server drains, the fronts end first, and the slots with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

from thriftserve.rpc import (
    BadMessage,
    BatchHint,
    BatchProcessor,
    CachedCall,
    Exchange,
    PendingCall,
    TemplateCache,
    make_exchange,
)
from thriftserve.servers.batching.ipc import (
    CLOSE,
    READ_BYTES,
    BatchItem,
    Hello,
    Rendezvous,
    ReplyKind,
    SharedFrames,
    StreamReader,
    batch_reader,
    pack_replies,
)
from thriftserve.servers.batching.request_queue import Ewma
from thriftserve.servers.busy_poll import BusyPoll
from thriftserve.servers.context import ServerContext
from thriftserve_client.wire.framing import Frame
from thriftserve_client.wire.message_socket import MAX_SEGMENTS, drop_sent

log = logging.getLogger(__name__)

#: For a service without hints: seconds of work that a batch should be, and the most calls in one.
_PULL_S, _MAX_PULL = 0.001, 64
#: A batch this short may wait for the one before it, though another worker became free sooner: docs/explanation/
#: decisions.md, "One batch ahead".
_SHORT_S = 0.003
_WEIGHT = 0.2
_JOIN_BYTES = 64 * 1024

Call = PendingCall | CachedCall
#: A reply: index in the batch, bytes, segments.
Reply = tuple[int, int, list[bytes]]
#: Calls that wait for a run: index in the batch, call, task.
Waiting = list[tuple[int, Call, Any]]


class PullSize:
    """Measures how long calls and batches take, and so how much a worker wants at once. Its slots share it."""

    def __init__(self) -> None:
        self._call_s = Ewma(_WEIGHT)
        self._batch_s = Ewma(_WEIGHT, _SHORT_S)

    def add(self, seconds: float, calls: int) -> None:
        """Note that a batch of so many calls took so long."""
        self._batch_s.add(seconds)
        self._call_s.add(seconds / calls)

    @property
    def depth(self) -> int:
        """Batches to have at once: two if they are short, so that the worker need not wait for the next."""
        return 2 if self._batch_s.value < _SHORT_S else 1

    @property
    def requests(self) -> int:
        """Calls to take at once.

        >>> pull_size = PullSize()
        >>> pull_size.requests
        1
        >>> pull_size.add(0.0002, 2)
        >>> pull_size.requests
        10
        """
        if self._call_s.empty:
            return 1
        return max(1, min(_MAX_PULL, int(_PULL_S / max(self._call_s.value, 1e-9))))


class SlotLoop:
    """Serves one slot's socket to one front, in a thread of its own.

    Args:
        sock: connected; the caller owns it.
        arena: has the large frames.
        server: the service.
        batch: the processor, if its calls can be begun together; None: they are answered one by one.
        pull_size: shared by the worker's slots.
        slot: the slot's number in its worker.
        parked: whether it gets no batches until `unpark`.
    """

    def __init__(
        self,
        sock: socket.socket,
        arena: SharedFrames,
        server: ServerContext,
        batch: BatchProcessor | None,
        pull_size: PullSize,
        *,
        slot: int,
        parked: bool,
    ) -> None:
        self._sock = sock
        self._arena = arena
        self._server = server
        self._pull_size = pull_size
        self._counters = server.context.counters
        self._batcher = batch.batcher if batch is not None else None
        self._exchange = self._make_exchange()
        settings = server.settings
        self._begin: Callable[[bytes | memoryview, float], PendingCall | list[bytes]] = self._exchange.begin
        if settings.protocol == "header":
            self._begin = self._begin_in_own_dialect
        self._begin_small: Callable[[bytes, float], Call | list[bytes]] = self._begin
        #: Recognizes calls that are like an earlier one; None: each is decoded.
        self.template_cache: TemplateCache | None = None
        if batch is not None and settings.template_cache and settings.protocol == "binary":
            self.template_cache = TemplateCache(self._exchange, batch)
            self._begin_small = self.template_cache.begin
        self._busy_poll = BusyPoll.among_several(settings.spin_us)
        self._sending = threading.Lock()
        self.slot = slot
        self.parked = parked

    def _make_exchange(self) -> Exchange:
        settings = self._server.settings
        return make_exchange(self._server.processor, settings.protocol, settings.max_message_bytes)

    def _begin_in_own_dialect(self, message: bytes | memoryview, arrived: float) -> PendingCall | list[bytes]:
        """Begin a call whose reply is written in the dialect of its message, whatever comes in between."""
        return self._make_exchange().begin(message, arrived)

    def serve(self, on_batch_done: Callable[[SlotLoop, float], None]) -> None:
        """Answer batch after batch until the front closes the socket.

        Args:
            on_batch_done: called after each batch with this loop and the seconds it spent in runs.
        """
        reader = batch_reader()
        while (batches := self._receive(reader)) is not None:
            for batch in batches:
                self._answer(batch, on_batch_done)

    def _receive(self, reader: StreamReader[list[BatchItem]]) -> list[list[BatchItem]] | None:
        """Return the batches that are whole now; None at the end of the stream."""
        wanted = reader.wanted()
        if wanted is not None:
            size = self._sock.recv_into(wanted)
            batch = reader.filled(size) if size else None
            return None if not size else [batch] if batch is not None else []
        data = self._busy_poll.recv(self._sock, READ_BYTES)
        if data is None:
            data = self._sock.recv(READ_BYTES)
            self._busy_poll.woke_up()
        return reader.feed(data) if data else None

    # What the front is told

    def hint(self) -> BatchHint:
        """Return what it wants next."""
        if self.parked:
            return BatchHint(0)
        if self._batcher is None:
            return BatchHint(self._pull_size.requests, depth=self._pull_size.depth)
        requests, fixed_us, row_us, wait_us, _ = self._batcher.hint()
        return BatchHint(requests, fixed_us, row_us, wait_us, self._pull_size.depth)

    def unpark(self) -> None:
        """Take batches from now on."""
        self.parked = False
        self._send(ReplyKind.LAST, [])

    def leave(self) -> None:
        """Take no more batches; the front closes the socket once those it sent are answered."""
        self._send(ReplyKind.LEAVE, [])

    def _send(self, kind: ReplyKind, replies: list[Reply]) -> None:
        """Send a message; `serve` notices a front that is gone."""
        with self._sending, contextlib.suppress(OSError):
            parts = pack_replies(kind, self.hint(), replies)  # the hint that is sent last is the newest
            if sum(map(len, parts)) <= _JOIN_BYTES:
                self._sock.sendall(b"".join(parts))
                return
            views = [memoryview(part) for part in parts]
            while views:
                views = drop_sent(views, self._sock.sendmsg(views[:MAX_SEGMENTS]))

    # A batch

    def _answer(self, batch: list[BatchItem], on_batch_done: Callable[[SlotLoop, float], None]) -> None:
        began = time.monotonic()
        self._counters.begin_requests(len(batch))
        try:
            replies, run_s = self._replies(batch)
        finally:
            self._counters.end_requests(len(batch))
        self._pull_size.add(time.monotonic() - began, len(batch))
        on_batch_done(self, run_s)
        self._send(ReplyKind.LAST, replies)

    def _replies(self, batch: list[BatchItem]) -> tuple[list[Reply], float]:
        """Return the replies to a batch, and the seconds spent in runs."""
        if self._batcher is None:
            return [self._answer_one(index, item) for index, item in enumerate(batch)], 0.0
        replies: list[Reply] = []
        waiting: Waiting = []
        for index, item in enumerate(batch):
            message = item.message
            try:
                call: Call | list[bytes]
                if isinstance(message, tuple):
                    call = self._begin(self._arena.view(*message), item.arrived)
                else:
                    call = self._begin_small(message, item.arrived)
            except BadMessage as error:
                replies.append(_closing(index, error))
                continue
            if isinstance(call, list):
                replies.append((index, sum(map(len, call)), call))
            else:  # at once: a call's first step reads when it arrived
                _step(index, call, None, waiting, replies)
        return replies, self._run(waiting, replies) if waiting else 0.0

    def _answer_one(self, index: int, item: BatchItem) -> Reply:
        message = item.message
        if isinstance(message, tuple):
            message = self._arena.read(*message)
        try:
            parts = self._exchange.answer(Frame(BytesIO(message), len(message)), item.arrived)
        except BadMessage as error:
            return _closing(index, error)
        return index, self._exchange.size if parts else 0, parts

    def _run(self, waiting: Waiting, replies: list[Reply]) -> float:
        """Run the calls, repeatedly if needed, until each has its reply; return the seconds spent in runs."""
        run_s = 0.0
        while waiting:
            began = time.monotonic()
            results = self._results([task for _, _, task in waiting])
            run_s += time.monotonic() - began
            calls, waiting = waiting, []
            for (index, call, _), result in zip(calls, results, strict=True):
                _step(index, call, result, waiting, replies)
        return run_s

    def _results(self, tasks: list[Any]) -> list[Any]:
        """Return a result or an error for each task."""
        assert self._batcher is not None
        try:
            return list(self._batcher.run_all(tasks))
        except BaseException as error:  # a model may raise anything, SystemExit included
            return [error] if len(tasks) == 1 else [self._results([task])[0] for task in tasks]


def _step(index: int, call: Call, result: Any, waiting: Waiting, replies: list[Reply]) -> None:
    """Take a call to its next run, or to its reply."""
    task = call.step(result)
    if task is not None:
        waiting.append((index, call, task))
    else:
        replies.append((index, call.size, call.parts))


def _closing(index: int, error: BadMessage) -> Reply:
    """Return the reply that closes a connection that sent something other than a message."""
    log.warning("closed: %s", error)
    return index | CLOSE, 0, []


#: Further slots are opened when a batch spends so long in its runs, where the interpreter's lock is free; and parked
#: below the other. Figures: docs/explanation/decisions.md, "Two runs in one
#: process".
_UNPARK_S, _PARK_S = 0.0005, 0.0002
_WEIGHT = 0.2
_RETRY_S = 0.05
_TICK_S = 1.0


class TBatchingWorker:
    """A worker process.

    Args:
        server: the service, the settings and the scoreboard of the process.
        rendezvous: where the fronts are.
    """

    def __init__(self, server: ServerContext, rendezvous: Rendezvous) -> None:
        self._server = server
        self._rendezvous = rendezvous
        self._slots = server.settings.slots
        self._fronts = server.settings.fronts
        #: The processor, if its calls can be begun together.
        self._batch: BatchProcessor | None = None
        self._pull_size = PullSize()
        self._loops_changed = threading.Condition()
        self._loops: dict[tuple[int, int], SlotLoop] = {}
        self._run_s = Ewma(_WEIGHT, 0.0)
        self._parked = False

    def prepare(self) -> None:
        """Load what is served."""
        self._rendezvous.close_but(None)
        self._server.load()
        processor = self._server.processor
        if isinstance(processor, BatchProcessor):
            self._batch = processor
            self._slots += 1  # while the others run, one more takes a batch and decodes it
            hint = processor.batcher.hint()  # of its calibration
            self._run_s.reset((hint.fixed_us + hint.row_us) / 1e6)
            self._parked = self._run_s.value < _UNPARK_S
        self._server.mark_ready()

    def run(self) -> None:
        """Serve until drained."""
        threads = [
            threading.Thread(target=self._serve, args=(front, slot), name=f"slot-{front}-{slot}", daemon=True)
            for front in range(self._fronts)
            for slot in range(self._slots)
        ]
        for thread in threads:
            thread.start()
        while not self._server.draining:
            self._server.wakeup.wait(_TICK_S)
        if not self._server.context.board.stopping:
            self._leave()
        with self._loops_changed:  # threads that wait for a front that is gone do not matter
            self._loops_changed.wait_for(lambda: not self._loops)

    def _leave(self) -> None:
        with self._loops_changed:
            loops = list(self._loops.values())
        for loop in loops:
            loop.leave()

    def drain(self) -> None:
        """Finish the batches in hand, then end; safe in a signal handler."""
        self._server.drain()

    # A slot's thread

    def _serve(self, front: int, slot: int) -> None:
        while not self._server.draining:
            try:
                self._connect_and_serve(front, slot)
            except OSError as error:
                log.debug("front %d is gone: %s", front, error)
                time.sleep(_RETRY_S)
            except Exception:  # its front sees a worker that died, and runs its requests elsewhere
                log.exception("slot %d of front %d failed", slot, front)
                time.sleep(_RETRY_S)

    def _connect_and_serve(self, front: int, slot: int) -> None:
        parked = slot > 0 and self._parked
        about = self._batch.about() if self._batch is not None else {}
        hello = Hello(os.getpid(), self._server.context.index, slot, 0 if parked else 1, about)
        sock, arena_fd = self._rendezvous.connect(front, hello)
        try:
            arena = SharedFrames(arena_fd)
        finally:
            os.close(arena_fd)
        loop = SlotLoop(sock, arena, self._server, self._batch, self._pull_size, slot=slot, parked=parked)
        with sock, contextlib.closing(arena):
            with self._loops_changed:
                self._loops[front, slot] = loop
            if self._server.draining and not self._server.context.board.stopping:
                loop.leave()
            try:
                loop.serve(self._on_batch_done)
            finally:
                with self._loops_changed:
                    del self._loops[front, slot]
                    self._loops_changed.notify_all()

    def _on_batch_done(self, loop: SlotLoop, run_s: float) -> None:
        """Open or park the slots beyond the first, by the time that batches spend in runs."""
        if self._batch is None or self._slots == 1:
            return
        self._run_s.add(run_s)
        parked = self._run_s.value < (_UNPARK_S if self._parked else _PARK_S)
        if loop.slot > 0:
            loop.parked = parked
        if self._parked and not parked:
            self._parked = False
            with self._loops_changed:
                others = [other for (_, slot), other in self._loops.items() if slot > 0 and other.parked]
            for other in others:
                other.unpark()
        self._parked = parked

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
import threading
import time

from thriftserve.rpc import BatchProcessor
from thriftserve.servers.batching.arena import SharedFrames
from thriftserve.servers.batching.clock import Ewma
from thriftserve.servers.batching.ipc import Hello, Rendezvous
from thriftserve.servers.batching.slot_loop import PullSize, SlotLoop
from thriftserve.servers.context import ServerContext

log = logging.getLogger(__name__)

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

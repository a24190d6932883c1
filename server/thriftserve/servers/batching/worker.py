"""TBatchingServer's worker: models, and a few slots that fronts hand batches to.

    prepare(): models loaded      run(): each slot connects to each front --> a Runner in a thread of its own

Slots beyond the first are parked while runs are short: threads that only hold the interpreter's lock in turns
win nothing, and share what could be one batch. A worker that is replaced leaves its fronts first, so that they
hand it nothing more; when the whole server drains, the fronts end first, and the slots with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any

from thriftserve.servers.batching.arena import SharedFrames
from thriftserve.servers.batching.ipc import Hello, Rendezvous
from thriftserve.servers.batching.slot_loop import PullSize, SlotLoop
from thriftserve.servers.context import ServerContext

log = logging.getLogger(__name__)

#: Further slots are opened when a batch spends so long in its runs, where the lock is free; and closed below the other.
_UNPARK_S = 0.0005
_PARK_S = 0.0002
_WEIGHT = 0.2
_RETRY_S = 0.05
_TICK_S = 1.0


class TBatchingWorker:
    """A worker process."""

    def __init__(self, host: ServerContext, switchboard: Rendezvous) -> None:
        self._host = host
        self._switchboard = switchboard
        self._slots = host.settings.slots
        self._fronts = host.settings.fronts
        self._pace = PullSize()
        self._lock = threading.Condition()
        self._runners: dict[tuple[int, int], SlotLoop] = {}
        self._run_s = 0.0
        self._parked = False

    def prepare(self) -> None:
        """Loads what is served."""
        self._switchboard.close_but(None)
        self._host.load()
        if hasattr(self._host.processor, "together"):
            self._slots += 1  # while the others run, one more takes a batch and prepares it
            given = self._host.processor.advice()  # of its rehearsal
            self._run_s = (given.fixed_us + given.row_us) / 1e6
            self._parked = self._run_s < _UNPARK_S
        self._host.mark_ready()

    def run(self) -> None:
        """Serves until drained."""
        threads = [
            threading.Thread(target=self._serve, args=(front, slot), name=f"slot-{front}-{slot}", daemon=True)
            for front in range(self._fronts)
            for slot in range(self._slots)
        ]
        for thread in threads:
            thread.start()
        while not self._host.draining:
            self._host.wakeup.wait(_TICK_S)
        if not self._host.context.board.stopping:
            self._leave()
        with self._lock:
            self._lock.wait_for(lambda: not self._runners)  # those that wait for a front that is gone are no matter

    def _leave(self) -> None:
        with self._lock:
            runners = list(self._runners.values())
        for runner in runners:
            runner.leave()

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()

    # A slot's thread

    def _serve(self, front: int, slot: int) -> None:
        while not self._host.draining:
            try:
                self._connect_and_serve(front, slot)
            except OSError as error:
                log.debug("front %d is gone: %s", front, error)
                time.sleep(_RETRY_S)
            except Exception:  # its front takes that for this worker's death, and has its requests run elsewhere
                log.exception("slot %d of front %d failed", slot, front)
                time.sleep(_RETRY_S)

    def _connect_and_serve(self, front: int, slot: int) -> None:
        parked = slot > 0 and self._parked
        about: dict[str, Any] = getattr(self._host.processor, "about", dict)()
        hello = Hello(os.getpid(), self._host.context.index, slot, 0 if parked else 1, about)
        sock, arena_fd = self._switchboard.connect(front, hello)
        try:
            arena = SharedFrames(arena_fd)
        finally:
            os.close(arena_fd)
        runner = SlotLoop(sock, arena, self._host, self._pace, slot=slot, parked=parked)
        with sock, contextlib.closing(arena):
            with self._lock:
                self._runners[front, slot] = runner
            if self._host.draining and not self._host.context.board.stopping:
                runner.leave()
            try:
                runner.serve(self._batch_done)
            finally:
                with self._lock:
                    del self._runners[front, slot]
                    self._lock.notify_all()

    def _batch_done(self, runner: SlotLoop, run_s: float) -> None:
        """Opens or parks the slots beyond the first, as the time in runs says."""
        if self._slots == 1 or not hasattr(self._host.processor, "together"):
            return
        self._run_s += _WEIGHT * (run_s - self._run_s)
        parked = self._run_s < (_UNPARK_S if self._parked else _PARK_S)
        if runner.slot > 0:
            runner.parked = parked
        if self._parked and not parked:
            self._parked = False
            with self._lock:
                others = [each for (_, slot), each in self._runners.items() if slot > 0 and each.parked]
            for each in others:
                each.unpark()
        self._parked = parked

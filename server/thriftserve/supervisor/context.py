"""What a worker process is told, and what it may tell back.

Arbiter --WorkerContext--> processor factory (in the process that serves) --> TProcessor
"""

from __future__ import annotations

import logging

from thriftserve.status import ServerSnapshot, WorkerPhase, WorkerRole, summarize
from thriftserve.supervisor.child import Report
from thriftserve.supervisor.counters import Counters
from thriftserve.supervisor.scoreboard import Scoreboard, histograms

log = logging.getLogger(__name__)


class WorkerContext:
    """A worker's place among the others.

    Attributes:
        index: its place, from 0; a replacement has the index of the one it replaces.
        workers: how many such places there are.
        server_type: the name on `--server-type`.
        server_pid: the process to signal.
        counters: its own numbers.
        report: what it may tell the process that supervises it.
    """

    def __init__(self, board: Scoreboard, slot: int, index: int, workers: int, report: Report | None = None) -> None:
        self.index = index
        self.workers = workers
        self.server_type = board.server_type
        self.server_pid = board.pid
        self.board = board
        self.slot = slot
        self.counters = Counters(board, slot)
        self.report = report or Report()

    def set_device(self, device: str) -> None:
        """Says which device this worker's sessions run on: "cpu", "gpu:0", …."""
        self.counters.set_device(device)

    def set_phase(self, phase: WorkerPhase) -> None:
        """Says what this worker is doing."""
        self.counters.set_phase(phase)

    def set_role(self, role: WorkerRole) -> None:
        """Says what this process does, where it is no worker."""
        self.counters.set_role(role)

    def set_note(self, note: str) -> None:
        """Says what else people should know of this process; at most 64 bytes."""
        self.counters.set_note(note)

    def server_snapshot(self) -> ServerSnapshot:
        """The whole server, as it stands."""
        return self.board.snapshot()

    def log_figures(self) -> None:
        """Logs one line about the requests that ran here, those of children that have ended included, if any did."""
        figures = histograms([self.board.slot(self.slot)])
        if count := figures[0].count:
            log.info("ran %d requests: %s", count, summarize(figures))

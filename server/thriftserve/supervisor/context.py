"""What a worker process knows about itself and its server, and what it may report.

Arbiter --WorkerContext--> processor factory (in the process that serves) --> TProcessor
"""

from __future__ import annotations

import logging

from thriftserve.status import ServerSnapshot, WorkerPhase, WorkerRole, summarize
from thriftserve.supervisor.child import Report
from thriftserve.supervisor.scoreboard import Counters, Scoreboard, sum_histograms

log = logging.getLogger(__name__)


class WorkerContext:
    """A worker process among those of its server.

    Attributes:
        index: its number in its group, from 0. A replacement has the index of the process that it replaces.
        workers: how many workers the group has.
        server_type: the name on `--server-type`.
        server_pid: the supervisor, which takes signals for the whole server.
        board: the scoreboard of the server.
        row: this process's row on it.
        counters: the numbers in that row.
        report: what it can tell its supervisor.
    """

    def __init__(self, board: Scoreboard, row: int, index: int, workers: int, report: Report | None = None) -> None:
        self.index = index
        self.workers = workers
        self.server_type = board.server_type
        self.server_pid = board.pid
        self.board = board
        self.row = row
        self.counters = Counters(board, row)
        self.report = report or Report()

    def set_device(self, device: str) -> None:
        """Set the device that this worker's sessions run on, for the status: "cpu", "gpu:0", …."""
        self.counters.set_device(device)

    def set_phase(self, phase: WorkerPhase) -> None:
        """Set the phase of this process, for the status."""
        self.counters.set_phase(phase)

    def set_role(self, role: WorkerRole) -> None:
        """Set what this process does, for the status, if it is not a worker."""
        self.counters.set_role(role)

    def set_note(self, note: str) -> None:
        """Set a remark about this process, for the status; at most 64 bytes."""
        self.counters.set_note(note)

    def server_snapshot(self) -> ServerSnapshot:
        """Return the state of the whole server now."""
        return self.board.snapshot()

    def log_summary(self) -> None:
        """Log one line about the requests that ran in this process and its ended children, if any did."""
        histograms = sum_histograms([self.board.row(self.row)])
        if count := histograms[0].count:
            log.info("ran %d requests: %s", count, summarize(histograms))

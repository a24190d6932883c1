"""What a worker process is told, and what it may tell back.

Arbiter --WorkerContext--> processor factory (in the process that serves) --> TProcessor
"""

from __future__ import annotations

from thriftserve.status import ServerSnapshot, WorkerPhase
from thriftserve.workers.scoreboard import Counters, Scoreboard


class WorkerContext:
    """A worker's place among the others.

    Attributes:
        index: its place, from 0; a replacement has the index of the one it replaces.
        workers: how many such places there are.
        server_type: the name on `--server-type`.
        server_pid: the process to signal.
        counters: its own numbers.
    """

    def __init__(self, board: Scoreboard, slot: int, index: int, workers: int) -> None:
        self.index = index
        self.workers = workers
        self.server_type = board.server_type
        self.server_pid = board.pid
        self.board = board
        self.slot = slot
        self.counters = Counters(board, slot)

    def set_device(self, device: str) -> None:
        """Says which device this worker's sessions run on: "cpu", "gpu:0", …."""
        self.counters.set_device(device)

    def set_phase(self, phase: WorkerPhase) -> None:
        """Says what this worker is doing."""
        self.counters.set_phase(phase)

    def server_snapshot(self) -> ServerSnapshot:
        """The whole server, as it stands."""
        return self.board.snapshot()

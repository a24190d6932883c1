"""What a process is told to be a worker, whichever process forks it.

arbiter: Seat --memory of its fork | message to a nursery--> the worker's process: work() --> the group's loop
"""

from __future__ import annotations

import os
import struct
from dataclasses import astuple, dataclass

from thriftserve.workers import child
from thriftserve.workers.context import WorkerContext
from thriftserve.workers.group import WorkerGroup
from thriftserve.workers.scoreboard import Scoreboard

_LAYOUT = struct.Struct("=3q")
#: Length of a packed seat.
SEAT_BYTES = _LAYOUT.size


@dataclass(frozen=True)
class Seat:
    """A place to be filled.

    Attributes:
        index: the place, among its group's.
        restarts: how often it was filled anew.
        slot: where on the scoreboard its numbers go.
    """

    index: int
    restarts: int
    slot: int

    def pack(self) -> bytes:
        """As a message."""
        return _LAYOUT.pack(*astuple(self))

    @classmethod
    def unpack(cls, message: bytes) -> Seat:
        """From a message."""
        return cls(*_LAYOUT.unpack(message))


def work(group: WorkerGroup, seat: Seat, board: Scoreboard, report: child.Report) -> int:
    """Runs a worker from its loop's making to its end, in its own process.

    Returns:
        The exit code.
    """
    board.enter(seat.slot, os.getpid(), seat.index, seat.restarts, parent=board.pid)
    context = WorkerContext(board, seat.slot, seat.index, group.count, report)
    code = child.serve(group.make_loop(context), report, group.listen)
    context.log_figures()
    return code

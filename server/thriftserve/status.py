"""What a server knows of itself at one moment, in neutral terms.

scoreboard (shared memory) + psutil  -->  ServerSnapshot  -->  handler: getServerStatus
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ServerPhase(IntEnum):
    """The state of a server; `ServerState` of the IDL has the same numbers."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    DEGRADED = 4


class WorkerPhase(IntEnum):
    """The state of a worker; `WorkerState` of the IDL has the same numbers."""

    STARTING = 1
    IDLE = 2
    BUSY = 3
    DRAINING = 4


@dataclass(frozen=True)
class WorkerSnapshot:
    """One worker process. Memory in bytes, times in seconds."""

    index: int
    pid: int
    phase: WorkerPhase
    device: str
    rss_bytes: int
    cpu_s: float
    uptime_s: float
    requests: int
    errors: int
    in_flight: int
    connections: int
    restarts: int


@dataclass(frozen=True)
class ServerSnapshot:
    """The server and its workers. Times in seconds."""

    phase: ServerPhase
    server_type: str
    pid: int
    uptime_s: float
    workers: tuple[WorkerSnapshot, ...]
    past_requests: int
    past_errors: int
    refused: int

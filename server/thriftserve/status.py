"""What a server knows of itself at one moment, in neutral terms.

scoreboard (shared memory) + psutil  -->  ServerSnapshot  -->  handler: getServerStatus
Timing of each request  -->  buckets of MEASURES  -->  Histogram  -->  getServerStatus | a line in the log
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from thriftserve_client.histogram import Histogram

#: Powers of two, because `int.bit_length` finds the bucket of a value at once: 8 us to 134 s, 1 to 4096 rows.
TIME_BOUNDS_US = tuple(2**power for power in range(3, 28))
BATCH_SIZE_BOUNDS = tuple(2**power for power in range(13))


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


class WorkerRole(IntEnum):
    """What a process of the server does."""

    WORKER = 0
    #: Takes connections and queues requests; runs none.
    FRONT = 1
    #: Decides what is served, and answers operators.
    KEEPER = 2
    #: Answers HTTP.
    GATEWAY = 3


@dataclass(frozen=True)
class Measure:
    """What a histogram is kept of: a figure of each request's Timing, its unit, the upper bounds of its buckets."""

    name: str
    unit: str
    bounds: tuple[int, ...]


#: In the order of `Counters.observe`.
MEASURES = (
    Measure("queue_time", "us", TIME_BOUNDS_US),
    Measure("compute_time", "us", TIME_BOUNDS_US),
    Measure("batch_size", "rows", BATCH_SIZE_BOUNDS),
)


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
    role: WorkerRole = WorkerRole.WORKER
    note: str = ""


@dataclass(frozen=True)
class ServerSnapshot:
    """The server and its workers. Times in seconds.

    `queued` and `queued_bytes` are what waits for a worker now; None where no process queues requests.
    """

    phase: ServerPhase
    server_type: str
    pid: int
    uptime_s: float
    workers: tuple[WorkerSnapshot, ...]
    past_requests: int
    past_errors: int
    refused: int
    histograms: tuple[Histogram, ...] = ()
    queued: int | None = None
    queued_bytes: int | None = None


def in_words(histograms: Iterable[Histogram]) -> str:
    """Histograms as one line: percentiles of times as upper bounds, the mean of anything else."""
    return "; ".join(_in_words(each) for each in histograms)


def _in_words(one: Histogram) -> str:
    name = one.name.replace("_", " ")
    if one.unit != "us":
        return f"mean {name} {one.mean:.1f}"
    shares = ", ".join(f"p{percent} {_within(one, percent / 100)}" for percent in (50, 90, 99))
    return f"{name} {shares} us"


def _within(one: Histogram, share: float) -> str:
    bound = one.bound_of(share)
    return f"> {one.bounds[-1]}" if bound is None else f"<= {bound}"

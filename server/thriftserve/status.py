"""A snapshot of the server at one moment, in neutral terms.

scoreboard (shared memory) + psutil  -->  ServerSnapshot  -->  service: getServerStatus
timing of each request  -->  buckets of MEASURES  -->  Histogram  -->  getServerStatus | a line in the log
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from thriftserve_client.histogram import Histogram

#: Powers of two, because `int.bit_length` then finds the bucket of a value: 8 us to 134 s, 1 to 4096 rows.
TIME_BOUNDS_US = tuple(2**power for power in range(3, 28))
BATCH_SIZE_BOUNDS = tuple(2**power for power in range(13))


class ServerPhase(IntEnum):
    """The state of a server. `ServerState` of the IDL has the same numbers."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    DEGRADED = 4


class WorkerPhase(IntEnum):
    """The state of a worker. `WorkerState` of the IDL has the same numbers."""

    STARTING = 1
    IDLE = 2
    BUSY = 3
    DRAINING = 4


class WorkerRole(IntEnum):
    """What a process of the server does. The status shows the lower-case name of the role."""

    WORKER = 0
    #: Holds connections and queues requests; runs none.
    FRONT = 1
    #: The controller. Scripts know it by this name.
    KEEPER = 2
    #: Answers HTTP.
    GATEWAY = 3


@dataclass(frozen=True)
class Measure:
    """A figure of each request that a histogram counts: its name, its unit, the upper bounds of its buckets."""

    name: str
    unit: str
    bounds: tuple[int, ...]


#: In the order of the arguments of `Counters.observe`.
MEASURES = (
    Measure("queue_time", "us", TIME_BOUNDS_US),
    Measure("compute_time", "us", TIME_BOUNDS_US),
    Measure("batch_size", "rows", BATCH_SIZE_BOUNDS),
)


@dataclass(frozen=True)
class WorkerSnapshot:
    """One process of the server. Memory in bytes, times in seconds."""

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
    """The server and its processes. Times in seconds.

    `queued` and `queued_bytes` count the requests that wait for a worker; None if no process queues requests.
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


def summarize(histograms: Iterable[Histogram]) -> str:
    """Return histograms as one line: percentiles of times (as upper bounds), the mean of anything else."""
    return "; ".join(_summary(histogram) for histogram in histograms)


def _summary(histogram: Histogram) -> str:
    name = histogram.name.replace("_", " ")
    if histogram.unit != "us":
        return f"mean {name} {histogram.mean:.1f}"
    percentiles = ", ".join(f"p{percent} {_upper_bound(histogram, percent / 100)}" for percent in (50, 90, 99))
    return f"{name} {percentiles} us"


def _upper_bound(histogram: Histogram, share: float) -> str:
    bound = histogram.bound_of(share)
    return f"> {histogram.bounds[-1]}" if bound is None else f"<= {bound}"

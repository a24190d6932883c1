"""The run file of `experiments`: every call of every pattern on every server, and the published table beside it.

experiments  -->  ExperimentRun  -->  FILE.json  -->  report, compare, the simulator's check

Times are seconds from the moment at which the first client thread of an outcome was released.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from thriftserve_bench.records.calls import APACHE, OURS
from thriftserve_bench.run_file import Run
from thriftserve_bench.servers import APACHE_TYPES, SERVER_TYPES

#: Server types of each side.
TYPES = {OURS: SERVER_TYPES, APACHE: APACHE_TYPES}
#: How a workload spends its service time: see `thriftserve_bench.workloads`.
HOLD_GIL, SPIN, SLEEP = "hold-gil", "spin", "sleep"
#: The workload that is a SavedModel, and takes what it takes.
REAL_MODEL = "model"
#: The outcome of a call that was answered.
OK = "ok"


@dataclass(frozen=True)
class Pattern:
    """How clients call: the left half of a row of the published table."""

    name: str
    threads: int
    calls_per_thread: int
    #: Whether all threads share one connection, one call at a time.
    shared_client: bool = False

    @property
    def calls(self) -> int:
        """Calls of all threads together."""
        return self.threads * self.calls_per_thread


SERIES = Pattern("series", 1, 100)
SHARED = Pattern("shared", 10, 10, shared_client=True)
TEN = Pattern("ten", 10, 10)
HUNDRED = Pattern("hundred", 100, 1)
PATTERNS = {pattern.name: pattern for pattern in (SERIES, SHARED, TEN, HUNDRED)}


@dataclass(frozen=True)
class Published:
    """A row of the published table: 64 cores, about 0.3 s of Python a call, 100 calls."""

    row: str
    pattern: str
    #: The server type; None: any.
    server_type: str | None
    workers: int
    text: str
    #: Seconds, as a range.
    low_s: float
    high_s: float


PUBLISHED = (
    Published("1a", "series", None, 1, "just over 33 s", 33.0, 34.0),
    Published("1b", "shared", None, 1, "just over 33 s", 33.0, 34.0),
    Published("2", "ten", "TProcessPoolServer", 10, "just over 3 s", 3.0, 3.5),
    Published("3", "hundred", "TProcessPoolServer", 10, "just over 3 s, a little more than 2", 3.0, 3.7),
    Published("4", "ten", "TNonblockingServer", 10, "about as long as 1", 31.0, 35.0),
    Published("5", "ten", "TForkingServer", 0, "just over 4 s", 4.0, 4.5),
    Published("6", "hundred", "TForkingServer", 0, "just over 11 s", 11.0, 11.5),
)


@dataclass(frozen=True)
class Call:
    """One call, as its client saw it."""

    thread: int
    start_s: float
    end_s: float
    #: OK, or what went wrong.
    outcome: str
    #: Process that answered; 0: unknown.
    worker_pid: int = 0


@dataclass
class Outcome:
    """One pattern on one server."""

    pattern: str
    server_type: str
    side: str
    workload: str
    service_ms: float
    workers: int
    threads: int
    #: From the first thread's release until the last call ended.
    elapsed_s: float
    calls: list[Call] = field(default_factory=list)
    #: Why it could not be measured; empty: it was.
    failure: str = ""


@dataclass(frozen=True)
class ForkCost:
    """What one fork costs with so much memory resident in the parent."""

    #: What filled the parent: "ballast" (touched pages) or "tensorflow" (imported).
    filled_with: str
    resident_bytes: int
    #: Seconds of fork() as the parent sees it, one entry a repetition.
    fork_s: list[float]
    #: Seconds of fork() and the child's end, reaped; one entry a repetition.
    fork_and_exit_s: list[float]


@dataclass
class ExperimentRun(Run):
    """A run of `experiments`."""

    FORMAT: ClassVar[str] = "thriftserve-bench experiments 1"
    LISTS: ClassVar[tuple[str, ...]] = ("outcomes",)

    outcomes: list[Outcome] = field(default_factory=list)
    fork_costs: list[ForkCost] = field(default_factory=list)
    #: Costs of this machine that the simulator needs, seconds by name:
    #: connect_s: a TCP connection on loopback, connected, accepted, closed.
    #: thread_start_s: a thread, until it runs.
    #: client_start_s: from one client thread to the next where many are released at once.
    #: fork_s: fork() in a small process, as the parent sees it.
    #: oversleep_s: what a workload's wait takes beyond its service time.
    #: Of each server, by its side and type, as in "call_s/ours/TForkingServer":
    #: call_s: a call without service time on an open connection, its client's part included.
    #: first_call_s: from before the connection until the first answer; a forking server forks meanwhile.
    #: call_cpu_s, first_call_cpu_s: CPU of all the server's processes for each of those.
    #: front_cpu_s: the part of call_cpu_s that TBatchingServer's front used.
    #: first_call_parent_cpu_s: the listening process's part of first_call_cpu_s.
    calibration: dict[str, float] = field(default_factory=dict)

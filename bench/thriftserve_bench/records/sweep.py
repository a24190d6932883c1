"""The run file of `sweep`: every window of every point.

sweep  -->  SweepRun  -->  FILE.json  -->  report, capacity, compare

Histograms are texts as `stats.encode_histogram` makes them; an empty text is an empty histogram.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from thriftserve_bench.run_file import Run

CLOSED, OPEN = "closed", "open"
#: A point has settled once so many windows in a row agree; its figures come from the last so many.
IN_A_ROW = 3
#: The model name of the service that sends back what it gets.
ECHO = "echo"


@dataclass(frozen=True)
class Variant:
    """A server that is measured."""

    server_type: str
    #: Worker processes; 0: the type has one, or one a connection.
    workers: int
    #: Handler threads; 0: the type has no pool of them.
    threads: int
    #: NAME=SOURCE, or ECHO.
    model: str = ECHO

    @property
    def title(self) -> str:
        """The server in a few characters."""
        workers = f" {self.workers}w" if self.workers else ""
        threads = f" {self.threads}t" if self.threads else ""
        return f"{self.server_type}{workers}{threads}" + ("" if self.model == ECHO else f" {self.model_name}")

    @property
    def model_name(self) -> str:
        """The name that the model is served under."""
        return self.model.partition("=")[0]


@dataclass(frozen=True)
class Setting:
    """How a server is called at a point of the sweep."""

    variant: Variant
    #: "tiny", "602 KB", "19 MB" or a number of bytes.
    payload: str
    #: CLOSED: each connection calls again once it is answered. OPEN: calls arrive at a rate, whatever the server does.
    mode: str
    #: Callers of a closed loop, calls a second of an open one.
    load: float
    #: Connections; of an open loop the most that it may use.
    connections: int

    @property
    def title(self) -> str:
        """The point in a few words."""
        return f"{self.variant.title} {self.payload} {self.load_text}"

    @property
    def load_text(self) -> str:
        """The load in a few characters."""
        return f"x{self.connections}" if self.mode == CLOSED else f"{self.load:g}/s"


@dataclass(frozen=True)
class SweepWindow:
    """One window's measurements, all load generators together."""

    calls: int
    #: By kind: the name of an ErrorCode, or of an exception.
    failures: dict[str, int]
    #: Reason of the last failure.
    reason: str
    #: Calls without an answer when the window was given up; `latency` has them with the time that they had waited.
    unanswered: int
    #: Of a closed loop from the start to the last answer; of an open one from the first answer to the last, and at
    #: least the time in which calls arrived.
    elapsed_s: float
    #: From the intended send time in an open loop, from the send in a closed one.
    latency: str
    #: From the send itself: what the latency would be without the intended time. Empty for a closed loop.
    from_send: str
    #: How long a call was sent after both its intended time and a free connection were there. Empty for a closed loop.
    lag: str
    #: Calls that found every connection in use at their intended time.
    waited: int
    #: `Timing` of a sample of the answers.
    queue: str
    compute: str
    mean_batch_rows: float
    #: User and system CPU of all the server's processes.
    server_cpu_s: float
    #: Of each load generator: its CPU, and the time in which it was runnable without a core.
    client_cpu_s: list[float]
    client_starved_s: list[float]
    #: Of all the server's processes together, at the window's end.
    rss_bytes: int
    pss_bytes: int
    uss_bytes: int
    #: The machine's load average before the window.
    load_1m: float
    seed: int

    @property
    def calls_per_s(self) -> float:
        """Answers a second."""
        return self.calls / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return sum(self.failures.values())

    @property
    def offered(self) -> int:
        """Calls that were to be made: answered, failed, or without an answer."""
        return self.calls + self.failed + self.unanswered


@dataclass
class Point:
    """A point and its windows, in the order in which they were measured."""

    setting: Setting
    request_bytes: int = 0
    windows: list[SweepWindow] = field(default_factory=list)
    #: Whether the last three windows agree.
    settled: bool = False
    #: Why it could not be measured; empty: it was.
    failure: str = ""


@dataclass
class SweepRun(Run):
    """A run of `sweep`."""

    FORMAT: ClassVar[str] = "thriftserve-bench sweep 1"
    LISTS: ClassVar[tuple[str, ...]] = ("points",)

    points: list[Point] = field(default_factory=list)
    #: Calls a second, in all and for a second of its CPU, of the load generator against a server that does nothing.
    generator: dict[str, float] = field(default_factory=dict)

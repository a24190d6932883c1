"""What a sweep leaves behind: every window of every point, and all that is needed to judge it.

    sweep  -->  SweepRun  --save-->  FILE.json  --load_sweep-->  table, plots, capacity, compare

Histograms are text as `latency.encoded` makes it; an empty text is an empty histogram.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thriftserve_bench import run_file

FORMAT = "thriftserve-bench sweep 1"
CLOSED, OPEN = "closed", "open"
#: The model name of the service without a model: what goes in comes out.
ECHO = "echo"


@dataclass(frozen=True)
class Variant:
    """A server that is measured."""

    server_type: str
    #: Processes; 0: this type has one, or one a connection.
    workers: int
    #: Handler threads; 0: this type has no pool of them.
    threads: int
    #: NAME=SOURCE, a kind of model, or ECHO.
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
    """A point of the sweep: how the server is called."""

    variant: Variant
    #: Name of the payload: "tiny", "602 KB", "19 MB" or a number of bytes.
    payload: str
    #: CLOSED: each connection asks again once it is answered. OPEN: calls arrive at a rate, whatever the server does.
    mode: str
    #: Callers of a closed loop, calls a second of an open one.
    load: float
    #: Connections; of an open loop the most that it may use.
    connections: int

    @property
    def title(self) -> str:
        """The point in a few words."""
        load = f"x{self.connections}" if self.mode == CLOSED else f"{self.load:g}/s"
        return f"{self.variant.title} {self.payload} {load}"


@dataclass(frozen=True)
class SweepWindow:
    """One window's measurements, all generators together."""

    calls: int
    #: By kind: an ErrorCode's name, or the name of an exception.
    failures: dict[str, int]
    #: Of the last failure, in words.
    reason: str
    #: Calls without an answer when the window was given up; they are in `latency` with the time they had waited.
    unanswered: int
    #: Of a closed loop from the start to the last answer; of an open one from the first answer to the last, and at
    #: least the time in which calls arrived.
    elapsed_s: float
    #: From the intended send time in an open loop, from the send in a closed one.
    latency: str
    #: From the send itself: what would have been told without the intended time. Empty for a closed loop.
    from_send: str
    #: How long after both its intended time and a connection were there a call was sent. Empty for a closed loop.
    lag: str
    #: Calls that found every connection in use when they were to be sent.
    waited: int
    #: `Timing` of a sample of the answers.
    queue: str
    compute: str
    mean_batch_rows: float
    #: User and system, all processes of the server.
    server_cpu_s: float
    #: Of each generator: CPU, and time in which it could have run but had no core.
    client_cpu_s: list[float]
    client_starved_s: list[float]
    #: Of all processes of the server together, at the window's end.
    rss_bytes: int
    pss_bytes: int
    uss_bytes: int
    #: The machine's load average before it.
    load_1m: float
    seed: int


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
class SweepRun:
    """A run and what it ran on."""

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    points: list[Point] = field(default_factory=list)
    #: What the load generator itself can do, against a server that does nothing; see `limit.measure_limit`.
    generator: dict[str, float] = field(default_factory=dict)
    #: True where it was stopped before its end.
    cut_short: bool = False
    format: str = FORMAT

    def save(self, path: Path) -> None:
        """Writes it as JSON, one line a point."""
        data = asdict(self)
        points = data.pop("points")
        run_file.write(path, data, points=[run_file.line(one) for one in points])


def load_sweep(path: Path) -> SweepRun:
    """Reads what `SweepRun.save` wrote.

    Raises:
        NotARun: it is something else.
        OSError: it can't be read.
    """
    with run_file.reading(path, FORMAT) as data:
        points = [_point(one) for one in data.pop("points")]
        return SweepRun(**data, points=points)


def _point(data: dict[str, Any]) -> Point:
    setting = data.pop("setting")
    variant = Variant(**setting.pop("variant"))
    windows = [SweepWindow(**one) for one in data.pop("windows")]
    return Point(Setting(variant, **setting), windows=windows, **data)

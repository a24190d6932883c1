"""What a run of `peers` leaves behind: every window as it was measured.

peers  -->  PeersRun  --save-->  FILE.json  --load_peers-->  PeersRun  -->  report
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thriftserve_bench import run_file
from thriftserve_bench.records.calls import Window

FORMAT = "thriftserve-bench peers 1"


@dataclass(frozen=True)
class PeerOrder:
    """What a load generator is to do in one window."""

    #: A name of dialects.DIALECTS, and of questions.JOBS.
    dialect: str
    job: str
    #: File of the job's questions.
    pool: str
    port: int
    #: The server's, for its CPU and memory.
    pid: int
    clients: int
    seconds: float


@dataclass(frozen=True)
class PeerWindow(Window):
    """One window's measurements."""

    #: Answers that each client had.
    per_client: list[int]
    #: Memory of the server's processes as if nothing else ran that maps the same files.
    alone_bytes: int


@dataclass(frozen=True)
class LimitWindow:
    """One window without RPC."""

    calls: int
    elapsed_s: float


@dataclass
class Measured:
    """The windows of one contestant in one cell, in the order of their rounds."""

    job: str
    clients: int
    contestant: str
    windows: list[PeerWindow] = field(default_factory=list)


@dataclass
class Limit:
    """The windows of one arrangement without RPC."""

    job: str
    arrangement: str
    frozen: bool
    windows: list[LimitWindow] = field(default_factory=list)
    #: So many clients had their requests received, and answered by nobody's work, meanwhile; 0: none.
    beside_clients: int = 0


@dataclass
class PeersRun:
    """A run and what it ran on."""

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    #: Contestant -> its family, what it is in words, its processes with a model, share of a core while idle.
    contestants: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Contestant or family -> why it is not there.
    skipped: dict[str, str] = field(default_factory=dict)
    cells: list[Measured] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    #: What --fairness, --idle and --overload found, by contestant.
    probes: dict[str, Any] = field(default_factory=dict)
    cut_short: bool = False
    format: str = FORMAT

    def cell(self, job: str, clients: int, contestant: str) -> Measured:
        """That cell; it is made where it is not there."""
        for one in self.cells:
            if (one.job, one.clients, one.contestant) == (job, clients, contestant):
                return one
        self.cells.append(Measured(job, clients, contestant))
        return self.cells[-1]

    def save(self, path: Path) -> None:
        """Writes it as JSON, one line a cell and a limit."""
        data = asdict(self)
        parts = {name: data.pop(name) for name in ("cells", "limits")}
        run_file.write(path, data, **{name: [run_file.line(row) for row in rows] for name, rows in parts.items()})


def load_peers(path: Path) -> PeersRun:
    """Reads what `PeersRun.save` wrote.

    Raises:
        NotARun: it is something else.
        OSError: it can't be read.
    """
    with run_file.reading(path, FORMAT) as data:
        for row in data["cells"]:
            for one in row["windows"]:
                one["latencies_us"] = [(micros, count) for micros, count in one["latencies_us"]]
            row["windows"] = [PeerWindow(**one) for one in row["windows"]]
        for row in data["limits"]:
            row["windows"] = [LimitWindow(**one) for one in row["windows"]]
        cells = [Measured(**row) for row in data.pop("cells")]
        limits = [Limit(**row) for row in data.pop("limits")]
        return PeersRun(**data, cells=cells, limits=limits)

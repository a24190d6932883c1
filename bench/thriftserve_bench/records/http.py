"""What a run of `http` leaves behind: every window as it was measured.

http  -->  HttpRun  --save-->  FILE.json  --load_http-->  HttpRun  -->  report
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thriftserve_bench import run_file

FORMAT = "thriftserve-bench http 1"


@dataclass(frozen=True)
class AbWindow:
    """One run of ab against one stack."""

    requests: int
    failed: int
    elapsed_s: float
    #: Latency that 0, 1, …, 99 of 100 requests did not exceed.
    percentiles_ms: list[float]
    #: User and system, of all the stack's processes, and of ab.
    server_cpu_s: float
    client_cpu_s: float
    #: Of all the stack's processes: proportional, and as if nothing else ran that maps the same files.
    pss_bytes: int
    alone_bytes: int
    #: The machine's load average before it.
    load_1m: float


@dataclass
class Cell:
    """The windows of one stack at one concurrency, in the order of their rounds."""

    stack: str
    concurrency: int
    #: Whether connections are kept open between requests.
    kept: bool
    windows: list[AbWindow] = field(default_factory=list)


@dataclass(frozen=True)
class BodyWindow:
    """Requests with one kind of body, one after the other, or as much work of the standard library's json."""

    requests: int
    #: User and system of the gateway's process alone, all its threads; of the standard library's: of the thread.
    cpu_s: float


@dataclass
class Body:
    """A kind of body."""

    name: str
    request_bytes: int
    answer_bytes: int
    windows: list[BodyWindow] = field(default_factory=list)


@dataclass
class HttpRun:
    """A run and what it ran on."""

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    #: Stack -> what it is made of, in words.
    stacks: dict[str, str] = field(default_factory=dict)
    #: Part of the run -> why it is not there.
    skipped: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    cut_short: bool = False
    format: str = FORMAT

    def cell(self, stack: str, concurrency: int, kept: bool) -> Cell:
        """That cell; it is made where it is not there."""
        for one in self.cells:
            if (one.stack, one.concurrency, one.kept) == (stack, concurrency, kept):
                return one
        self.cells.append(Cell(stack, concurrency, kept))
        return self.cells[-1]

    def body(self, name: str, request_bytes: int, answer_bytes: int) -> Body:
        """That kind of body; it is made where it is not there."""
        for one in self.bodies:
            if one.name == name:
                return one
        self.bodies.append(Body(name, request_bytes, answer_bytes))
        return self.bodies[-1]

    def save(self, path: Path) -> None:
        """Writes it as JSON, one line a cell and a body."""
        data = asdict(self)
        parts = {name: data.pop(name) for name in ("cells", "bodies")}
        run_file.write(path, data, **{name: [run_file.line(row) for row in rows] for name, rows in parts.items()})


def load_http(path: Path) -> HttpRun:
    """Reads what `HttpRun.save` wrote.

    Raises:
        NotARun: it is something else.
        OSError: it can't be read.
    """
    with run_file.reading(path, FORMAT) as data:
        cells = [Cell(**{**one, "windows": [AbWindow(**each) for each in one["windows"]]}) for one in data.pop("cells")]
        bodies = [
            Body(**{**one, "windows": [BodyWindow(**each) for each in one["windows"]]}) for one in data.pop("bodies")
        ]
        return HttpRun(**data, cells=cells, bodies=bodies)

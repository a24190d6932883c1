"""What a run leaves behind: every window as it was measured, with all that is needed to judge it.

    calls  -->  Run  --save-->  FILE.json  --load-->  Run  -->  report: table, plots, without a further run

Latencies are counted, not listed: [microseconds to three digits, how many].
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thriftserve_bench import run_file

FORMAT = "thriftserve-bench calls 1"
OURS, APACHE = "ours", "apache"
SIDES = (OURS, APACHE)


@dataclass(frozen=True)
class Order:
    """What the load generator is to do in one window."""

    port: int
    #: The server's, for its CPU and memory.
    pid: int
    payload: str
    connections: int
    #: The window ends after this time, but not before `min_calls`.
    seconds: float
    min_calls: int
    #: Looks for replies again and again instead of sleeping until one comes: it has a core to itself.
    awake: bool = False


@dataclass(frozen=True)
class Window:
    """One window's measurements."""

    calls: int
    failures: int
    #: Of the last failure; empty: there was none.
    reason: str
    elapsed_s: float
    latencies_us: list[tuple[int, int]]
    #: User and system, of all the server's processes.
    server_cpu_s: float
    client_cpu_s: float
    rss_bytes: int
    pss_bytes: int
    #: The machine's load average before it.
    load_1m: float


@dataclass(frozen=True)
class Cell:
    """What is compared: one server type, one payload, so many connections."""

    server_type: str
    payload: str
    connections: int


@dataclass
class Measured:
    """All windows of a cell, in the order of their rounds."""

    cell: Cell
    ours: list[Window] = field(default_factory=list)
    apache: list[Window] = field(default_factory=list)

    def windows(self, side: str) -> list[Window]:
        """Those of one side."""
        return self.ours if side == OURS else self.apache


@dataclass
class Run:
    """A run and what it ran on."""

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    cells: list[Measured] = field(default_factory=list)
    #: True where it was stopped before its end.
    cut_short: bool = False
    format: str = FORMAT

    def save(self, path: Path) -> None:
        """Writes it as JSON, one line a window."""
        data = asdict(self)
        cells = data.pop("cells")
        run_file.write(path, data, cells=[_cell_text(cell) for cell in cells])


def _cell_text(cell: dict[str, Any]) -> str:
    sides = ",\n".join(
        f'  "{side}": [\n' + ",\n".join("   " + json.dumps(one, separators=(",", ":")) for one in cell[side]) + "]"
        for side in SIDES
    )
    return f' {{"cell": {json.dumps(cell["cell"])},\n{sides}}}'


def load_run(path: Path) -> Run:
    """Reads what `Run.save` wrote.

    Raises:
        NotARun: it is something else.
        OSError: it can't be read.
    """
    with run_file.reading(path, FORMAT) as data:
        cells = [
            Measured(Cell(**one["cell"]), *([Window(**each) for each in one[side]] for side in SIDES))
            for one in data.pop("cells")
        ]
        return Run(**data, cells=cells)

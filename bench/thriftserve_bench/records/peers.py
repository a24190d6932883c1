"""The run file of `peers`: every window of every system, and of the work without RPC.

peers  -->  PeersRun  -->  FILE.json  -->  report

The keys `contestants`, `limits` and `beside_clients` of the file are older than the names here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from thriftserve_bench.records.calls import Window
from thriftserve_bench.run_file import Run

#: The family of our own systems.
OUR_FAMILY = "thriftserve"


@dataclass(frozen=True)
class PeerWindow(Window):
    """One window's measurements."""

    #: Answers that each client had.
    per_client: list[int]
    #: Memory of the server's processes as if nothing else mapped the same files.
    alone_bytes: int


@dataclass(frozen=True)
class CeilingWindow:
    """One window of the work without RPC."""

    calls: int
    elapsed_s: float

    @property
    def calls_per_s(self) -> float:
        """Requests' work a second."""
        return self.calls / self.elapsed_s if self.elapsed_s else 0.0


@dataclass
class SystemCell:
    """The windows of one system in one cell, in the order of their rounds."""

    job: str
    clients: int
    system: str = field(metadata={"key": "contestant"})
    windows: list[PeerWindow] = field(default_factory=list)


@dataclass
class Ceiling:
    """The windows of one arrangement of processes, threads and batches without RPC."""

    job: str
    arrangement: str
    frozen: bool
    windows: list[CeilingWindow] = field(default_factory=list)
    #: Clients whose requests a null server received and answered meanwhile; 0: none.
    with_clients: int = field(default=0, metadata={"key": "beside_clients"})


@dataclass
class PeersRun(Run):
    """A run of `peers`."""

    FORMAT: ClassVar[str] = "thriftserve-bench peers 1"
    LISTS: ClassVar[tuple[str, ...]] = ("cells", "limits")

    #: By system: its family, flags, processes with a model, share of a core that it uses while idle.
    systems: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"key": "contestants"})
    #: Why a system or a family was left out.
    skipped: dict[str, str] = field(default_factory=dict)
    cells: list[SystemCell] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list, metadata={"key": "limits"})
    #: What --fairness, --idle and --overload measured, by system.
    probes: dict[str, Any] = field(default_factory=dict)

    def cell(self, job: str, clients: int, system: str) -> SystemCell:
        """Return the cell, which is added if it is new."""
        for cell in self.cells:
            if (cell.job, cell.clients, cell.system) == (job, clients, system):
                return cell
        self.cells.append(SystemCell(job, clients, system))
        return self.cells[-1]

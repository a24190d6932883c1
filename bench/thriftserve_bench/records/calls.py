"""The run file of `calls`: every window of every server type, ours and Apache's.

calls  -->  CallsRun  -->  FILE.json  -->  report, compare

Latencies are counted, not listed: [microseconds to three digits, calls].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from thriftserve_bench.run_file import Run

OURS, APACHE = "ours", "apache"
SIDES = (OURS, APACHE)


@dataclass(frozen=True)
class Window:
    """One window's measurements."""

    calls: int
    failures: int
    #: Reason of the last failure; empty: no call failed.
    reason: str
    elapsed_s: float
    latencies_us: list[tuple[int, int]]
    #: User and system CPU of all the server's processes, and of the load generator.
    server_cpu_s: float
    client_cpu_s: float
    rss_bytes: int
    pss_bytes: int
    #: The machine's load average before the window.
    load_1m: float

    @property
    def calls_per_s(self) -> float:
        """Answered calls a second."""
        return self.calls / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(frozen=True)
class Cell:
    """What is compared: a server type, a payload, a number of connections."""

    server_type: str
    payload: str
    connections: int


@dataclass
class MeasuredCell:
    """The windows of both sides of a cell, in the order of their rounds."""

    cell: Cell
    ours: list[Window] = field(default_factory=list)
    apache: list[Window] = field(default_factory=list)

    def windows(self, side: str) -> list[Window]:
        """Return the windows of one side."""
        return self.ours if side == OURS else self.apache


@dataclass
class CallsRun(Run):
    """A run of `calls`."""

    FORMAT: ClassVar[str] = "thriftserve-bench calls 1"
    LISTS: ClassVar[tuple[str, ...]] = ("cells",)

    cells: list[MeasuredCell] = field(default_factory=list)

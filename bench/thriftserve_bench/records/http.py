"""The run file of `http`: every window of both stacks, and of each form of an image.

http  -->  HttpRun  -->  FILE.json  -->  report
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from thriftserve_bench.run_file import Run

OURS, PUBLISHED = "ours", "published"
STACKS = (OURS, PUBLISHED)
#: Forms of an image that targets are about.
LISTS_FORM = "JSON lists"
STANDARD_JSON = "the standard library's json"


@dataclass(frozen=True)
class AbWindow:
    """One run of ab against one stack."""

    requests: int
    failed: int
    elapsed_s: float
    #: Latency that 0, 1, …, 99 of 100 requests did not exceed.
    percentiles_ms: list[float]
    #: User and system CPU of all the stack's processes, and of ab.
    server_cpu_s: float
    client_cpu_s: float
    #: Memory of all the stack's processes: proportional, and as if nothing else mapped the same files.
    pss_bytes: int
    alone_bytes: int
    #: The machine's load average before the window.
    load_1m: float


@dataclass
class StackCell:
    """The windows of one stack at one concurrency, in the order of their rounds."""

    stack: str
    concurrency: int
    #: Whether connections stay open between requests.
    keep_alive: bool = field(metadata={"key": "kept"})
    windows: list[AbWindow] = field(default_factory=list)


@dataclass(frozen=True)
class BodyWindow:
    """Requests with one form of body, one after the other, or as much work of the standard library's json."""

    requests: int
    #: User and system CPU of the gateway's process alone; of the standard library's json: of the thread.
    cpu_s: float


@dataclass
class Body:
    """A form of body and its windows."""

    name: str
    request_bytes: int
    answer_bytes: int
    windows: list[BodyWindow] = field(default_factory=list)


@dataclass
class HttpRun(Run):
    """A run of `http`."""

    FORMAT: ClassVar[str] = "thriftserve-bench http 1"
    LISTS: ClassVar[tuple[str, ...]] = ("cells", "bodies")

    #: What each stack consists of, in words.
    stacks: dict[str, str] = field(default_factory=dict)
    #: Why a part of the run was left out.
    skipped: dict[str, str] = field(default_factory=dict)
    cells: list[StackCell] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)

    def cell(self, stack: str, concurrency: int, keep_alive: bool) -> StackCell:
        """Return the cell, which is added if it is new."""
        for cell in self.cells:
            if (cell.stack, cell.concurrency, cell.keep_alive) == (stack, concurrency, keep_alive):
                return cell
        self.cells.append(StackCell(stack, concurrency, keep_alive))
        return self.cells[-1]

    def body(self, name: str, request_bytes: int, answer_bytes: int) -> Body:
        """Return the form of body, which is added if it is new."""
        for body in self.bodies:
            if body.name == name:
                return body
        self.bodies.append(Body(name, request_bytes, answer_bytes))
        return self.bodies[-1]

"""The run file of `swaps`: load with and without swaps, and memory after many.

swaps  -->  SwapsRun  -->  FILE.json  -->  report

Latencies are counted, not listed: [microseconds to three digits, calls]. Times of day are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from thriftserve_bench.run_file import Run

#: Names of phases.
WITHOUT, WITH = "without swaps", "with swaps"


@dataclass(frozen=True)
class Swap:
    """A completed swap."""

    version: int
    #: When its directory appeared, when every worker answered with it, when its predecessor had ended.
    landed_at: float
    available_at: float
    old_ended_at: float


@dataclass(frozen=True)
class Slice:
    """A quarter of a second of a phase: it shows where a spike is."""

    at: float
    calls: int
    p99_us: int
    max_us: int


@dataclass
class Phase:
    """A stretch of the load, without swaps or with them. A call belongs to the phase in which it began."""

    name: str
    from_s: float
    to_s: float
    #: User and system CPU of all the server's processes.
    server_cpu_s: float
    load_1m: float
    #: Versions that appeared, and the swaps that followed; a version that a newer one overtakes makes no swap.
    landed: int = 0
    swaps: list[Swap] = field(default_factory=list)
    calls: int = 0
    failures: int = 0
    latencies_us: list[tuple[int, int]] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)


@dataclass
class Load:
    """One server type under load."""

    server_type: str
    clients: int
    phases: list[Phase] = field(default_factory=list)
    #: Failed calls by reason; of all phases, and of the moments between them.
    failures: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    #: Answers whose values are not those of the version that they name.
    wrong: int = 0
    #: Answers from a version that was not loaded yet, or had been given up when the request was made.
    unavailable: int = 0
    #: Answers of a new version while other workers still answered with the old one.
    early: int = 0
    #: Answers of an old version to requests made while the news that it was given up was on its way.
    crossed: int = 0
    #: The first wrong or unavailable answers, in words.
    examples: list[str] = field(default_factory=list)
    #: Why it was not measured to its end; empty: it was.
    failure: str = ""


@dataclass(frozen=True)
class MemorySample:
    """Memory of a server's whole process tree, bytes."""

    swaps: int
    #: As if nothing else mapped the same files: other programs don't change it.
    alone: int
    pss: int
    rss: int
    processes: int
    #: Whether it had stopped changing.
    settled: bool


@dataclass
class SwapMemory:
    """One server type's memory after so many swaps."""

    server_type: str
    samples: list[MemorySample] = field(default_factory=list)
    #: Answers after a swap that were not the new version's.
    wrong: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    failure: str = ""


@dataclass
class SwapsRun(Run):
    """A run of `swaps`."""

    FORMAT: ClassVar[str] = "thriftserve-bench swaps 1"
    LISTS: ClassVar[tuple[str, ...]] = ("loads", "memory")

    loads: list[Load] = field(default_factory=list)
    memory: list[SwapMemory] = field(default_factory=list)

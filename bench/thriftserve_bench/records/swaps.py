"""What a run of `swaps` leaves behind.

swaps  -->  SwapsRun  --save-->  FILE.json  --load_swaps-->  SwapsRun  -->  table

Latencies are counted, not listed: [microseconds to three digits, how many]. Times of day are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thriftserve_bench import run_file

FORMAT = "thriftserve-bench swaps 1"
#: Names of phases.
WITHOUT, WITH = "without swaps", "with swaps"


@dataclass(frozen=True)
class Swap:
    """One swap that was completed."""

    version: int
    #: When its directory appeared, when every worker answered with it, when its predecessor had ended.
    landed_at: float
    available_at: float
    old_ended_at: float


@dataclass(frozen=True)
class Slice:
    """A part of a phase, `SLICE_S` long: where a spike is, it shows."""

    at: float
    calls: int
    p99_us: int
    max_us: int


@dataclass
class Phase:
    """A stretch of the load, without swaps or with them. A call belongs to the phase in which it was begun."""

    name: str
    from_s: float
    to_s: float
    #: User and system, all processes of the server.
    server_cpu_s: float
    load_1m: float
    #: Versions that appeared, and the swaps that came of them; one that is passed over for a newer one makes none.
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
    #: Reason -> how many; of all phases, and of the moments between them.
    failures: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    #: Answers whose values are not those of the version that they name.
    wrong: int = 0
    #: Answers from a version that was not loaded yet, or had been given up when the request was made.
    unavailable: int = 0
    #: Those of a new version that came while other workers still answered with the old one.
    early: int = 0
    #: Those of an old version to requests that were made while the news was on its way that it is given up.
    crossed: int = 0
    #: Which were wrong or unavailable, in words: the first ones.
    examples: list[str] = field(default_factory=list)
    #: Why it was not measured to its end; empty: it was.
    failure: str = ""


@dataclass(frozen=True)
class MemorySample:
    """Memory of a server's whole process tree, bytes."""

    swaps: int
    #: As if nothing else ran that maps the same files: what other programs do does not show in it.
    alone: int
    pss: int
    rss: int
    processes: int
    #: Whether it had stopped changing.
    settled: bool


@dataclass
class Memory:
    """One server type's memory after so many swaps."""

    server_type: str
    samples: list[MemorySample] = field(default_factory=list)
    #: Answers that were not the new version's right after a swap.
    wrong: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    failure: str = ""


@dataclass
class SwapsRun:
    """A run and what it ran on."""

    began: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    loads: list[Load] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    #: True where it was stopped before its end.
    cut_short: bool = False
    format: str = FORMAT

    def save(self, path: Path) -> None:
        """Writes it as JSON, one line a server type."""
        data = asdict(self)
        parts = {name: data.pop(name) for name in ("loads", "memory")}
        run_file.write(path, data, **{name: [run_file.line(row) for row in rows] for name, rows in parts.items()})


def load_swaps(path: Path) -> SwapsRun:
    """Reads what `SwapsRun.save` wrote.

    Raises:
        NotARun: it is something else.
        OSError: it can't be read.
    """
    with run_file.reading(path, FORMAT) as data:
        loads = [_load(one) for one in data.pop("loads")]
        memory = [
            Memory(**{**one, "samples": [MemorySample(**each) for each in one["samples"]]})
            for one in data.pop("memory")
        ]
        return SwapsRun(**data, loads=loads, memory=memory)


def _load(data: dict[str, Any]) -> Load:
    return Load(**{**data, "phases": [_phase(one) for one in data["phases"]]})


def _phase(data: dict[str, Any]) -> Phase:
    return Phase(
        **{
            **data,
            "swaps": [Swap(**one) for one in data["swaps"]],
            "slices": [Slice(**one) for one in data["slices"]],
            "latencies_us": [(micros, count) for micros, count in data["latencies_us"]],
        }
    )

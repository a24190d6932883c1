"""From windows to figures: the best peer of each cell, ours beside it, and whether the targets are met.

PeersRun  -->  Row for each contestant of a cell  -->  Comparison: best peer, ours, limit, misses
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from thriftserve_bench.benchmarks.peers.systems import OURS
from thriftserve_bench.records.peers import Limit, Measured, PeersRun, PeerWindow
from thriftserve_bench.report.figures import Figures, figures

#: Ours is to do so many times the best peer's rate: of `tiny` by clients, of the nets in every cell.
TINY_RATIO = {1: 2.0, 8: 1.25, 64: 1.25}
NET_RATIO = 1.2
#: Server CPU of a tiny request at 64 clients, microseconds.
TINY_CPU_US = 40.0
#: Part of what the machine does without any RPC; p99 by p50 at 32 clients; memory by the best two-worker peer's.
LIMIT_PART, TAIL_RATIO, MEMORY_PART = 0.97, 1.3, 0.6
#: A client without an answer is starved where the others had so many on average.
_ANSWERS_EACH = 4


@dataclass(frozen=True)
class Row:
    """One contestant in one cell; rates, CPU: medians of the windows; latencies: of all calls."""

    contestant: str
    family: str
    workers: int
    figures: Figures
    #: As if nothing else ran, MiB.
    memory_mib: float
    #: Clients without an answer in a window, the most; and answers of the slowest by those of the fastest, the least.
    starved: int
    evenness: float

    @property
    def sound(self) -> bool:
        """Whether every client was answered, and rightly."""
        return not self.figures.failures and not self.starved


@dataclass(frozen=True)
class Comparison:
    """One cell: its best peer, one server type of ours, requests/s without RPC."""

    job: str
    clients: int
    peer: Row | None
    two_workers: Row | None
    ours: Row
    limit: float | None
    #: The same beside clients whose requests are received and cost nothing else.
    beside: float | None = None

    @property
    def ratio(self) -> float | None:
        """Requests/s, ours by the best peer's."""
        return self.ours.figures.calls_per_s / self.peer.figures.calls_per_s if self.peer else None

    @property
    def of_limit(self) -> float | None:
        """Requests/s, ours by those without RPC."""
        return self.ours.figures.calls_per_s / self.limit if self.limit else None

    @property
    def of_beside(self) -> float | None:
        """Requests/s, ours by the most that a server could do whom these clients ask."""
        return self.ours.figures.calls_per_s / self.beside if self.beside else None

    def misses(self) -> list[str]:
        """Targets that it misses, in words."""
        found = []
        if not self.ours.sound:
            found.append(f"{self.ours.figures.failures} failed calls, {self.ours.starved} starved clients")
        wanted = TINY_RATIO.get(self.clients) if self.job == "tiny" else NET_RATIO
        if wanted and self.ratio is not None and self.ratio < wanted:
            found.append(f"requests/s {self.ratio:.2f} of the best peer's, wanted {wanted} or more")
        return found + (self._tiny_misses() if self.job == "tiny" else self._net_misses())

    def _tiny_misses(self) -> list[str]:
        found, ours = [], self.ours.figures
        if self.peer:
            peer = self.peer.figures
            for name, mine, its in (("p50", ours.p50_us, peer.p50_us), ("p99", ours.p99_us, peer.p99_us)):
                if mine > its:
                    found.append(f"{name} {mine / 1000:.2f} ms, the best peer's is {its / 1000:.2f}")
        if self.clients == 64 and ours.cpu_us >= TINY_CPU_US:
            found.append(f"server CPU {ours.cpu_us:.1f} us a request, wanted less than {TINY_CPU_US:g}")
        return found

    def _net_misses(self) -> list[str]:
        found, ours = [], self.ours.figures
        if self.of_limit is not None and self.of_limit < LIMIT_PART:
            found.append(f"{self.of_limit:.0%} of what the machine does without RPC, wanted {LIMIT_PART:.0%}")
        if self.clients == 32 and ours.p99_us > TAIL_RATIO * ours.p50_us:
            found.append(f"p99 {ours.p99_us / ours.p50_us:.2f} of the median, wanted {TAIL_RATIO} or less")
        if self.two_workers and self.ours.memory_mib >= MEMORY_PART * self.two_workers.memory_mib:
            part = self.ours.memory_mib / self.two_workers.memory_mib
            found.append(f"memory {part:.2f} of {self.two_workers.contestant}'s, wanted less than {MEMORY_PART}")
        return found


def rows(run: PeersRun, job: str, clients: int) -> list[Row]:
    """Everyone who answered in a cell."""
    cells = [one for one in run.cells if (one.job, one.clients) == (job, clients)]
    return [row for row in (_row(run, one) for one in cells) if row is not None]


def _row(run: PeersRun, cell: Measured) -> Row | None:
    found = figures(cell.windows)
    if found is None:
        return None
    told = run.contestants.get(cell.contestant, {})
    good = [one for one in cell.windows if one.calls]
    return Row(
        contestant=cell.contestant,
        family=told.get("family", ""),
        workers=told.get("workers", 0),
        figures=found,
        memory_mib=max(one.alone_bytes for one in good) / 2**20,
        starved=max(_starved(one) for one in good),
        evenness=min(min(one.per_client) / max(1, *one.per_client) for one in good),
    )


def _starved(window: PeerWindow) -> int:
    """Clients without an answer, where the window was long enough for several each."""
    long_enough = window.calls >= _ANSWERS_EACH * len(window.per_client)
    return window.per_client.count(0) if long_enough else 0


def comparisons(run: PeersRun) -> list[Comparison]:
    """Every cell that ours answered in, in the order of the run."""
    keys = list(dict.fromkeys((one.job, one.clients) for one in run.cells))
    found = []
    for job, clients in keys:
        every = rows(run, job, clients)
        peers = [row for row in every if row.family != OURS]
        peer, two_workers = fastest(peers), fastest([row for row in peers if row.workers == 2])
        limit, beside = limit_of(run, job), limit_of(run, job, beside=True)
        mine = [row for row in every if row.family == OURS]
        found += [Comparison(job, clients, peer, two_workers, row, limit, beside) for row in mine]
    return found


def fastest(found: list[Row]) -> Row | None:
    """The highest rate of those that answered everybody; of all where none did; None where there is nobody."""
    among = [row for row in found if row.sound] or found
    return max(among, key=lambda row: row.figures.calls_per_s, default=None)


def limit_rate(limit: Limit) -> float | None:
    """Requests/s of an arrangement: the median of its windows."""
    rates = [one.calls / one.elapsed_s for one in limit.windows if one.elapsed_s]
    return median(rates) if rates else None


def limit_of(run: PeersRun, job: str, *, beside: bool = False) -> float | None:
    """Requests/s of the best frozen arrangement of a job, alone or beside clients; None where none was measured."""
    found = [one for one in run.limits if one.job == job and one.frozen and bool(one.beside_clients) == beside]
    rates = [limit_rate(one) for one in found]
    return max((rate for rate in rates if rate is not None), default=None)

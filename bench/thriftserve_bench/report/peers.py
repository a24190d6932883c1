"""The report of `peers`: the best peer beside ours in each cell, all systems, no RPC, and the targets that are missed.

PeersRun  -->  Row of each system in a cell  -->  Comparison: best peer, ours, ceiling  -->  Markdown
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console

from thriftserve_bench import tables
from thriftserve_bench.records.peers import OUR_FAMILY, Ceiling, PeersRun, PeerWindow, SystemCell
from thriftserve_bench.stats import WindowFigures, window_figures
from thriftserve_bench.tables import NONE, milliseconds, number, percent, ratio

#: Ours is to do so many times the best peer's rate: of `tiny` by clients, of the nets in every cell.
TINY_RATIO = {1: 2.0, 8: 1.25, 64: 1.25}
NET_RATIO = 1.2
#: Server CPU of a tiny request at 64 clients, microseconds.
TINY_CPU_US = 40.0
#: Part of what the machine does without any RPC; p99 by p50 at 32 clients; memory by the best two-worker peer's.
CEILING_PART, TAIL_RATIO, MEMORY_PART = 0.97, 1.3, 0.6
#: A client without an answer is starved where the others had so many on average.
_ANSWERS_EACH = 4

_BEST = (
    "job",
    "clients",
    "best peer",
    "ours",
    "requests/s: peer",
    "ours",
    "ratio",
    "p50 ms: peer",
    "ours",
    "p99 ms: peer",
    "ours",
    "CPU µs/request: peer",
    "ours",
    "memory MiB: peer",
    "ours",
    "of no RPC",
    "of no RPC beside clients",
)
_ALL_SYSTEMS = (
    "job",
    "clients",
    "server",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "CPU µs/request",
    "client's",
    "memory MiB",
    "failed",
    "starved",
    "slowest/fastest client",
)


@dataclass(frozen=True)
class Row:
    """One system in one cell; rates, CPU: medians of the windows; latencies: of all calls."""

    system: str
    family: str
    workers: int
    figures: WindowFigures
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
    """A cell: its best peer, one server type of ours, requests/s without RPC."""

    job: str
    clients: int
    peer: Row | None
    two_workers: Row | None
    ours: Row
    ceiling: float | None
    #: The same beside clients whose requests are received and cost nothing else.
    ceiling_with_clients: float | None = None

    @property
    def ratio(self) -> float | None:
        """Requests/s, ours by the best peer's."""
        return self.ours.figures.calls_per_s / self.peer.figures.calls_per_s if self.peer else None

    @property
    def of_ceiling(self) -> float | None:
        """Requests/s, ours by those without RPC."""
        return self.ours.figures.calls_per_s / self.ceiling if self.ceiling else None

    @property
    def of_ceiling_with_clients(self) -> float | None:
        """Requests/s, ours by the most that a server could do for these clients."""
        return self.ours.figures.calls_per_s / self.ceiling_with_clients if self.ceiling_with_clients else None

    def misses(self) -> list[str]:
        """Return the targets that it misses, in words."""
        missed = []
        if not self.ours.sound:
            missed.append(f"{self.ours.figures.failures} failed calls, {self.ours.starved} starved clients")
        wanted = TINY_RATIO.get(self.clients) if self.job == "tiny" else NET_RATIO
        if wanted and self.ratio is not None and self.ratio < wanted:
            missed.append(f"requests/s {self.ratio:.2f} of the best peer's, wanted {wanted} or more")
        return missed + (self._tiny_misses() if self.job == "tiny" else self._net_misses())

    def _tiny_misses(self) -> list[str]:
        missed, ours = [], self.ours.figures
        if self.peer:
            peer = self.peer.figures
            for name, mine, its in (("p50", ours.p50_us, peer.p50_us), ("p99", ours.p99_us, peer.p99_us)):
                if mine > its:
                    missed.append(f"{name} {mine / 1000:.2f} ms, the best peer's is {its / 1000:.2f}")
        if self.clients == 64 and ours.cpu_us >= TINY_CPU_US:
            missed.append(f"server CPU {ours.cpu_us:.1f} us a request, wanted less than {TINY_CPU_US:g}")
        return missed

    def _net_misses(self) -> list[str]:
        missed, ours = [], self.ours.figures
        if self.of_ceiling is not None and self.of_ceiling < CEILING_PART:
            missed.append(f"{self.of_ceiling:.0%} of what the machine does without RPC, wanted {CEILING_PART:.0%}")
        if self.clients == 32 and ours.p99_us > TAIL_RATIO * ours.p50_us:
            missed.append(f"p99 {ours.p99_us / ours.p50_us:.2f} of the median, wanted {TAIL_RATIO} or less")
        if self.two_workers and self.ours.memory_mib >= MEMORY_PART * self.two_workers.memory_mib:
            part = self.ours.memory_mib / self.two_workers.memory_mib
            missed.append(f"memory {part:.2f} of {self.two_workers.system}'s, wanted less than {MEMORY_PART}")
        return missed


def rows(run: PeersRun, job: str, clients: int) -> list[Row]:
    """Return every system that answered in a cell."""
    cells = [cell for cell in run.cells if (cell.job, cell.clients) == (job, clients)]
    return [row for row in (_row(run, cell) for cell in cells) if row is not None]


def _row(run: PeersRun, cell: SystemCell) -> Row | None:
    figures = window_figures(cell.windows)
    if figures is None:
        return None
    facts = run.systems.get(cell.system, {})
    answered = [window for window in cell.windows if window.calls]
    return Row(
        system=cell.system,
        family=facts.get("family", ""),
        workers=facts.get("workers", 0),
        figures=figures,
        memory_mib=max(window.alone_bytes for window in answered) / 2**20,
        starved=max(_starved(window) for window in answered),
        evenness=min(min(window.per_client) / max(1, *window.per_client) for window in answered),
    )


def _starved(window: PeerWindow) -> int:
    """Return the number of clients without an answer, if the window was long enough for several each."""
    long_enough = window.calls >= _ANSWERS_EACH * len(window.per_client)
    return window.per_client.count(0) if long_enough else 0


def comparisons(run: PeersRun) -> list[Comparison]:
    """Return every cell that ours answered in, in the order of the run."""
    compared = []
    for job, clients in dict.fromkeys((cell.job, cell.clients) for cell in run.cells):
        cell_rows = rows(run, job, clients)
        peers = [row for row in cell_rows if row.family != OUR_FAMILY]
        peer, two_workers = fastest(peers), fastest([row for row in peers if row.workers == 2])
        ceilings = ceiling_of(run, job), ceiling_of(run, job, with_clients=True)
        ours = [row for row in cell_rows if row.family == OUR_FAMILY]
        compared += [Comparison(job, clients, peer, two_workers, row, *ceilings) for row in ours]
    return compared


def fastest(candidates: list[Row]) -> Row | None:
    """Return the highest rate among those that answered every client, or of all if none did; None if there is none."""
    among = [row for row in candidates if row.sound] or candidates
    return max(among, key=lambda row: row.figures.calls_per_s, default=None)


def ceiling_rate(ceiling: Ceiling) -> float | None:
    """Return requests/s of an arrangement: the median of its windows."""
    rates = [window.calls_per_s for window in ceiling.windows if window.elapsed_s]
    return median(rates) if rates else None


def ceiling_of(run: PeersRun, job: str, *, with_clients: bool = False) -> float | None:
    """Return requests/s of the best frozen arrangement of a job, alone or beside clients; None if none was measured."""
    ceilings = [
        ceiling
        for ceiling in run.ceilings
        if ceiling.job == job and ceiling.frozen and bool(ceiling.with_clients) == with_clients
    ]
    rates = [ceiling_rate(ceiling) for ceiling in ceilings]
    return max((rate for rate in rates if rate is not None), default=None)


def markdown(run: PeersRun) -> str:
    """Return the report as Markdown."""
    compared = comparisons(run)
    parts = [
        "# Peers: the same jobs on other servers",
        tables.bullets(_preface(run)),
        tables.markdown_rows(_BEST, map(_best, compared), left=(0, 2, 3)),
        verdict(compared),
        "## Everyone",
        tables.markdown_rows(_ALL_SYSTEMS, _all_systems(run), left=(0, 2)),
    ]
    if run.ceilings:
        ceilings = [(each.job, each.arrangement, number(ceiling_rate(each))) for each in run.ceilings]
        headings = ("job", "arrangement", "requests/s")
        parts += ["## No RPC", tables.markdown_rows(headings, ceilings, left=(0, 1))]
    if any(run.probes.values()):
        parts += ["## Ours alone", tables.bullets(_probe_lines(run))]
    if run.skipped:
        parts += ["## Not there", tables.bullets(f"{name}: {reason}" for name, reason in run.skipped.items())]
    return "\n\n".join(parts) + "\n"


def show(run: PeersRun, console: Console) -> None:
    """Print the Markdown: it is to be pasted."""
    console.print(markdown(run), highlight=False, markup=False, soft_wrap=True, end="")


def verdict(compared: Sequence[Comparison]) -> str:
    """Say which cells miss a target, and by how much."""
    missed = [(cell, miss) for cell in compared for miss in cell.misses()]
    if not compared:
        return "Ours was not measured."
    if not missed:
        alone = sum(cell.peer is None for cell in compared)
        remark = f" In {alone} of them there was no peer to compare with." if alone else ""
        return f"Every target that could be checked is met in all {len(compared)} cells.{remark}"
    cells = len({(cell.job, cell.clients, cell.ours.system) for cell, _ in missed})
    lines = [f"{cell.ours.system}, {cell.job}, {tables.count(cell.clients, 'client')}: {miss}" for cell, miss in missed]
    return f"Targets missed in {cells} of {len(compared)} cells:\n\n{tables.bullets(lines)}"


def _preface(run: PeersRun) -> list[str]:
    settings = run.settings
    lines = tables.provenance(run, [window.load_1m for cell in run.cells for window in cell.windows])
    lines += [
        f"rounds of {settings['seconds']:g} s: {settings['rounds']}, all systems in turns; each client calls again as "
        "soon as it has its answer; every answer is checked",
        "rates and CPU: medians of the rounds; latencies: all calls; CPU: user + system of all the server's processes; "
        "memory: of all its processes, as if nothing else ran",
    ]
    if settings.get("our_flags"):
        lines.append(f"ours with {settings['our_flags']}")
    busy = {name: facts["idle_cores"] for name, facts in run.systems.items() if facts.get("idle_cores", 0) >= 0.05}
    if busy:
        lines.append("busy while idle: " + ", ".join(f"{name} {cores:.2f} cores" for name, cores in busy.items()))
    return lines + tables.cut_short(run)


def _best(cell: Comparison) -> list[str]:
    def pair(text: Callable[[WindowFigures], str]) -> list[str]:
        return [text(row.figures) if row else NONE for row in (cell.peer, cell.ours)]

    return [
        cell.job,
        str(cell.clients),
        cell.peer.system if cell.peer else NONE,
        cell.ours.system,
        *pair(lambda figures: number(figures.calls_per_s)),
        ratio(cell.ratio),
        *pair(lambda figures: milliseconds(figures.p50_us)),
        *pair(lambda figures: milliseconds(figures.p99_us)),
        *pair(lambda figures: number(figures.cpu_us)),
        *(f"{row.memory_mib:.0f}" if row else NONE for row in (cell.peer, cell.ours)),
        percent(cell.of_ceiling),
        percent(cell.of_ceiling_with_clients),
    ]


def _all_systems(run: PeersRun) -> list[list[str]]:
    cells = dict.fromkeys((cell.job, cell.clients) for cell in run.cells)
    return [[job, str(clients), *_texts(row)] for job, clients in cells for row in rows(run, job, clients)]


def _texts(row: Row) -> list[str]:
    figures = row.figures
    return [
        row.system,
        number(figures.calls_per_s),
        milliseconds(figures.p50_us),
        milliseconds(figures.p99_us),
        number(figures.cpu_us),
        number(figures.client_cpu_us),
        f"{row.memory_mib:.0f}",
        str(figures.failures),
        str(row.starved),
        f"{row.evenness:.2f}",
    ]


def _probe_lines(run: PeersRun) -> list[str]:
    lines = []
    for system, probes in run.probes.items():
        for name, values in probes.items():
            texts = (f"{key} {_value(value)}" for key, value in values.items() if not isinstance(value, list))
            lines.append(f"{system}, {name}: {', '.join(texts)}")
    return lines


def _value(value: float | int | str | None) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)

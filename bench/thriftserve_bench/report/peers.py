"""The tables of a run of `peers`, as Markdown.

PeersRun  -->  best peer beside ours, everyone, no RPC, probes  -->  Markdown
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from thriftserve_bench.records.peers import PeersRun
from thriftserve_bench.report.peers_figures import Comparison, Row, comparisons, limit_rate, rows

_NONE = "–"
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
_EVERYONE = (
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


def markdown(run: PeersRun) -> str:
    """The whole report."""
    compared = comparisons(run)
    parts = [
        "# Peers: the same jobs on other servers",
        "\n".join(f"- {line}" for line in _preface(run)),
        _table(_BEST, [_best(one) for one in compared], left=(0, 2, 3)),
        verdict(compared),
        "## Everyone",
        _table(_EVERYONE, _everyone(run), left=(0, 2)),
    ]
    if run.limits:
        limits = [(one.job, one.arrangement, _number(limit_rate(one))) for one in run.limits]
        parts += ["## No RPC", _table(("job", "arrangement", "requests/s"), limits, left=(0, 1))]
    if any(run.probes.values()):
        parts += ["## Ours alone", "\n".join(_probe_lines(run))]
    if run.skipped:
        parts += ["## Not there", "\n".join(f"- {name}: {reason}" for name, reason in run.skipped.items())]
    return "\n\n".join(parts) + "\n"


def show(run: PeersRun, console: Console) -> None:
    """The same on a terminal: it is to be pasted."""
    console.print(markdown(run), highlight=False, markup=False, soft_wrap=True, end="")


def verdict(compared: Sequence[Comparison]) -> str:
    """Which cells miss a target, and by how much."""
    missed = [(one, miss) for one in compared for miss in one.misses()]
    if not compared:
        return "Ours was not measured."
    if not missed:
        alone = sum(one.peer is None for one in compared)
        told = f" In {alone} of them there was no peer to compare with." if alone else ""
        return f"Every target that could be checked is met in all {len(compared)} cells.{told}"
    cells = len({(one.job, one.clients, one.ours.contestant) for one, _ in missed})
    lines = [f"- {one.ours.contestant}, {one.job}, {_clients(one.clients)}: {miss}" for one, miss in missed]
    return f"Targets missed in {cells} of {len(compared)} cells:\n\n" + "\n".join(lines)


def _preface(run: PeersRun) -> list[str]:
    told, settings = run.machine, run.settings
    loads = [window.load_1m for cell in run.cells for window in cell.windows]
    lines = [
        f"{told['cpu']}, {told['cores']} cores, {told['kernel']}; "
        f"load average {min(loads, default=0):.1f} to {max(loads, default=0):.1f} meanwhile",
        ", ".join(f"{name} {version}" for name, version in run.versions.items())
        + f"; commit {run.commit}; {run.began}",
        f"rounds of {settings['seconds']:g} s: {settings['rounds']}, everyone in turns; each client asks again as soon "
        "as it has its answer; every answer is checked",
        "rates and CPU: medians of the rounds; latencies: all calls; CPU: user + system of all the server's processes; "
        "memory: of all its processes, as if nothing else ran",
    ]
    if settings.get("our_flags"):
        lines.append(f"ours with {settings['our_flags']}")
    busy = {name: one["idle_cores"] for name, one in run.contestants.items() if one.get("idle_cores", 0) >= 0.05}
    if busy:
        lines.append("busy while idle: " + ", ".join(f"{name} {cores:.2f} cores" for name, cores in busy.items()))
    if run.cut_short:
        lines.append("cut short: the run was stopped before its end")
    return lines


def _best(one: Comparison) -> list[str]:
    cells = [one.job, str(one.clients), one.peer.contestant if one.peer else _NONE, one.ours.contestant]
    cells += [*_pair(one, "calls_per_s"), _NONE if one.ratio is None else f"{one.ratio:.2f}"]
    for name in ("p50_us", "p99_us"):
        cells += [_ms(getattr(row.figures, name)) if row else _NONE for row in (one.peer, one.ours)]
    cells += _pair(one, "cpu_us")
    cells += [f"{row.memory_mib:.0f}" if row else _NONE for row in (one.peer, one.ours)]
    return cells + [_NONE if part is None else f"{part:.0%}" for part in (one.of_limit, one.of_beside)]


def _pair(one: Comparison, name: str) -> list[str]:
    return [_number(getattr(row.figures, name)) if row else _NONE for row in (one.peer, one.ours)]


def _everyone(run: PeersRun) -> list[list[str]]:
    keys = dict.fromkeys((one.job, one.clients) for one in run.cells)
    return [[job, str(clients), *_row(row)] for job, clients in keys for row in rows(run, job, clients)]


def _row(row: Row) -> list[str]:
    found = row.figures
    return [
        row.contestant,
        _number(found.calls_per_s),
        _ms(found.p50_us),
        _ms(found.p99_us),
        _number(found.cpu_us),
        _number(found.client_cpu_us),
        f"{row.memory_mib:.0f}",
        str(found.failures),
        str(row.starved),
        f"{row.evenness:.2f}",
    ]


def _probe_lines(run: PeersRun) -> list[str]:
    lines = []
    for contestant, found in run.probes.items():
        for name, values in found.items():
            told = ", ".join(f"{key} {_value(value)}" for key, value in values.items() if not isinstance(value, list))
            lines.append(f"- {contestant}, {name}: {told}")
    return lines


def _value(value: float | int | str | None) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    rule = ["---" if at in left else "---:" for at in range(len(headings))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *body))


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ms(micros: float) -> str:
    return f"{micros / 1000:.3f}" if micros < 10_000 else f"{micros / 1000:.1f}"

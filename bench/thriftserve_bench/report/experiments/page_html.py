"""The parts of the page that are there before any script runs.

rows, verdicts, warnings, machine  -->  HTML, everything escaped

A figure is a button that names the cell it was computed from and carries its full value; the page's script shows
the calls behind it, and recomputes it from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from thriftserve_bench.records.calls import APACHE, OURS
from thriftserve_bench.records.experiments import ExperimentRun
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.table import Cell, Row
from thriftserve_bench.report.experiments.targets import Verdict
from thriftserve_bench.simulator import advice

_HEADINGS = (
    ("row", "Number in the published table; in brackets: the same clients on a type that nobody published"),
    ("clients", ""),
    ("server", ""),
    ("published", "64 cores, about 0.33 s of Python a call"),
    ("ideal", "If connecting, forking and switching cost nothing"),
    ("ours", "Until the last call ended"),
    ("Apache", "Apache Thrift's own class of that name"),
    ("ours : ideal", ""),
    ("simulated", "The simulator's answer for this machine: ours / Apache"),
    ("on 64 cores", "The simulator's answer for the published machine"),
)
_NONE = '<span class="none">–</span>'
_WORKLOADS = {
    "hold-gil": "a wait that holds the interpreter lock and no core: the stand-in for one core per worker",
    "spin": "real computing in Python: lock and core",
    "sleep": "a wait that lets the lock go, as for a GPU",
    "model": "a real SavedModel",
}


def table(found: Sequence[Row], name: str) -> str:
    """Rows as a table."""
    head = "".join(f'<th title="{escape(title)}">{escape(text)}</th>' for text, title in _HEADINGS)
    body = "\n".join(_row(row) for row in found)
    return (
        f'<div class="wide"><table class="{name}"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _row(row: Row) -> str:
    shown = (
        f"<td>{escape(row.name)}</td>",
        f'<td class="clients">{escape(digest.clients(row))}</td>',
        f'<td class="type">{escape(row.server_type)}</td>',
        f'<td class="published">{escape(row.published.text) if row.published else _NONE}</td>',
        _figure(row.ours or row.apache, "ideal", row.ideal_s, digest.seconds(row.ideal_s)),
        _measured(row.ours),
        _measured(row.apache),
        _figure(row.ours, "ratio", row.ratio(OURS), digest.times(row.ratio(OURS))),
        _simulated(row),
        f"<td>{digest.seconds(row.predicted_published_s) if row.published else _NONE}</td>",
    )
    name = f'data-row="{escape(row.id)}" data-workload="{escape(row.workload)}"'
    why = f'<td></td><td colspan="{len(_HEADINGS) - 1}">{escape(row.explanation)}</td>'
    return f'<tr {name}>{"".join(shown)}</tr>\n<tr class="why" {name}>{why}</tr>'


def _measured(cell: Cell | None) -> str:
    if cell is None:
        return f'<td class="num">{_NONE}</td>'
    return _figure(cell, "elapsed", cell.elapsed_s, digest.cell_text(cell))


def _figure(cell: Cell | None, kind: str, value: float | None, text: str) -> str:
    return f'<td class="num">{figure(cell, kind, value, text)}</td>'


def figure(cell: Cell | None, kind: str, value: float | None, text: str) -> str:
    """A number that leads to the calls it was computed from."""
    if cell is None:
        return _NONE
    if value is None:
        return f'<button class="trace bad" data-cell="{escape(cell.id)}">{escape(text)}</button>'
    bad = " bad" if cell.failed else ""
    return (
        f'<button class="trace{bad}" data-cell="{escape(cell.id)}" data-kind="{kind}" data-value="{value!r}">'
        f"{escape(text)}</button>"
    )


def _simulated(row: Row) -> str:
    sides = [
        figure(cell, "predicted", row.predicted_s(side), digest.seconds(row.predicted_s(side)))
        for side in (OURS, APACHE)
        if (cell := row.cell(side)) and row.predicted_s(side) is not None
    ]
    return f'<td class="num">{" / ".join(sides) or _NONE}</td>'


def verdicts(found: Sequence[Verdict]) -> str:
    """The targets as a list of marks."""
    items = "".join(map(_verdict, found))
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def _verdict(one: Verdict) -> str:
    """A target is no verdict on a run with another service time: there the overheads weigh more."""
    result = "met" if one.met else "missed"
    if not one.binding:
        result = f"does not bind at {one.row.service_s * 1000:g} ms"
    elapsed = figure(one.row.ours, "elapsed", one.elapsed_s, digest.seconds(one.elapsed_s))
    return (
        f'<li class="{("met" if one.met else "missed") if one.binding else "loose"}"><b>{escape(one.target.row)}</b> '
        f"{escape(one.target.server_type)}: {elapsed}, "
        f"{figure(one.row.ours, 'ratio', one.ratio, digest.times(one.ratio))} ideal "
        f"<span>wanted at 300 ms: {escape(one.target.text)}: {escape(result)}</span></li>"
    )


def warnings(lines: Sequence[str]) -> str:
    """What a reader must know first; empty where there is nothing."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="warnings" role="alert">{items}</ul>' if items else ""


def workloads(run: ExperimentRun) -> str:
    """The choice of workload, for every chart below."""
    names = list(dict.fromkeys(one.workload for one in run.outcomes))
    return choice("workload", {name: name for name in names}, titles=_WORKLOADS)


def workload_notes(run: ExperimentRun) -> str:
    """What each workload stands for."""
    names = dict.fromkeys((one.workload, one.service_ms) for one in run.outcomes)
    return (
        "; ".join(f"<b>{escape(name)}</b> ({ms:g} ms): {escape(_WORKLOADS.get(name, ''))}" for name, ms in names) + "."
    )


def questions(run: ExperimentRun) -> str:
    """The choices of a reader's case."""
    cores = run.machine.get("cores", 2)
    nearest = min(advice.CORES, key=lambda each: abs(each - cores))
    asked = (
        ("work", "A call …", advice.WORKS, "hold-gil"),
        ("service_ms", "… for", {ms: f"{ms} ms" for ms in advice.SERVICES_MS}, 300),
        ("clients", "Callers", advice.CLIENTS, "ten"),
        ("cores", "Cores", {each: each for each in advice.CORES}, nearest),
        ("processes", "Processes, at most", {each: each for each in advice.PROCESSES}, 10),
        ("parent", "The server's parent process", advice.PARENTS, "tensorflow"),
    )
    return "".join(
        f"<fieldset><legend>{escape(legend)}</legend>{choice(name, options, chosen)}</fieldset>"
        for name, legend, options, chosen in asked
    )


def choice(name: str, options: Mapping[Any, Any], chosen: Any = None, titles: Mapping[str, str] | None = None) -> str:
    """Radio buttons in a row."""
    chosen = next(iter(options), None) if chosen is None else chosen
    made = (
        f'<label title="{escape((titles or {}).get(str(value), ""))}"><input type="radio" name="{name}" '
        f'value="{escape(str(value))}"{" checked" if value == chosen else ""}><span>{escape(str(text))}</span></label>'
        for value, text in options.items()
    )
    return f'<span class="choice">{"".join(made)}</span>'


def facts(run: ExperimentRun) -> str:
    """Machine, versions, commit, settings, as a list of names and values."""
    pairs = [
        ("began", run.began),
        ("commit", run.commit),
        *(("machine: " + name, value) for name, value in run.machine.items()),
        *(("version: " + name, value) for name, value in run.versions.items()),
        *(("setting: " + name, value) for name, value in run.settings.items()),
        *(("calibration: " + name, f"{value * 1000:.4f} ms") for name, value in sorted(run.calibration.items())),
    ]
    return _pairs(pairs)


def _pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs) + "</dl>"

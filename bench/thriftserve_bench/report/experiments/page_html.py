"""The parts of the page: its HTML before any script runs, and the data for the scripts.

rows, verdicts, warnings, machine  -->  HTML, everything escaped

A figure is a button that names the cell it was computed from and carries its full value; the page's script shows
the calls behind it, and recomputes it from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, fields
from html import escape
from typing import Any

from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import PATTERNS, Call, ExperimentRun
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.table import Cell, Row, Verdict, cells
from thriftserve_bench.simulator import advice
from thriftserve_bench.simulator.ideal import calls_at_once
from thriftserve_bench.simulator.predict import PUBLISHED_SERVICE_S, published_fork_s

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


def table(table_rows: Sequence[Row], name: str) -> str:
    """Return rows as an HTML table."""
    head = "".join(f'<th title="{escape(title)}">{escape(text)}</th>' for text, title in _HEADINGS)
    body = "\n".join(_row(row) for row in table_rows)
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
    """Return a number as a button that opens the calls behind it."""
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


def verdicts(judged: Sequence[Verdict]) -> str:
    """Return the targets as a list of marks."""
    items = "".join(map(_verdict, judged))
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def _verdict(judged: Verdict) -> str:
    """Return a verdict; a target does not bind a run with another service time, whose overheads weigh more."""
    result = "met" if judged.met else "missed"
    if not judged.binding:
        result = f"does not bind at {judged.row.service_s * 1000:g} ms"
    elapsed = figure(judged.row.ours, "elapsed", judged.elapsed_s, digest.seconds(judged.elapsed_s))
    kind = ("met" if judged.met else "missed") if judged.binding else "loose"
    return (
        f'<li class="{kind}"><b>{escape(judged.target.row)}</b> '
        f"{escape(judged.target.server_type)}: {elapsed}, "
        f"{figure(judged.row.ours, 'ratio', judged.ratio, digest.times(judged.ratio))} ideal "
        f"<span>wanted at 300 ms: {escape(judged.target.text)}: {escape(result)}</span></li>"
    )


def warnings(lines: Sequence[str]) -> str:
    """Return warnings as a list; empty if there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="warnings" role="alert">{items}</ul>' if items else ""


def workloads(run: ExperimentRun) -> str:
    """Return the choice of workload, for every chart below."""
    names = list(dict.fromkeys(outcome.workload for outcome in run.outcomes))
    return choice("workload", {name: name for name in names}, titles=_WORKLOADS)


def workload_notes(run: ExperimentRun) -> str:
    """Return what each workload stands for."""
    names = dict.fromkeys((outcome.workload, outcome.service_ms) for outcome in run.outcomes)
    return (
        "; ".join(f"<b>{escape(name)}</b> ({ms:g} ms): {escape(_WORKLOADS.get(name, ''))}" for name, ms in names) + "."
    )


def questions(run: ExperimentRun) -> str:
    """Return the choices of a case."""
    cores = run.machine.get("cores", 2)
    nearest = min(advice.CORES, key=lambda each: abs(each - cores))
    choices = (
        ("work", "A call …", advice.WORKS, "hold-gil"),
        ("service_ms", "… for", {ms: f"{ms} ms" for ms in advice.SERVICES_MS}, 300),
        ("clients", "Callers", advice.CLIENTS, "ten"),
        ("cores", "Cores", {each: each for each in advice.CORES}, nearest),
        ("processes", "Processes, at most", {each: each for each in advice.PROCESSES}, 10),
        ("parent", "The server's parent process", advice.PARENTS, "tensorflow"),
    )
    return "".join(
        f"<fieldset><legend>{escape(legend)}</legend>{choice(name, options, chosen)}</fieldset>"
        for name, legend, options, chosen in choices
    )


def choice(name: str, options: Mapping[Any, Any], chosen: Any = None, titles: Mapping[str, str] | None = None) -> str:
    """Return radio buttons in a row."""
    chosen = next(iter(options), None) if chosen is None else chosen
    labels = (
        f'<label title="{escape((titles or {}).get(str(value), ""))}"><input type="radio" name="{name}" '
        f'value="{escape(str(value))}"{" checked" if value == chosen else ""}><span>{escape(str(text))}</span></label>'
        for value, text in options.items()
    )
    return f'<span class="choice">{"".join(labels)}</span>'


def facts(run: ExperimentRun) -> str:
    """Return machine, versions, commit, settings, as a list of names and values."""
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


def raw_data(run: ExperimentRun) -> dict[str, Any]:
    """Return the recorded run: each call a list in the order of "call_fields", each outcome with its cell's id."""
    # asdict of the calls would be most of the time that the page takes.
    data = {each.name: getattr(run, each.name) for each in fields(run) if each.name not in ("outcomes", "fork_costs")}
    data["call_fields"] = [each.name for each in fields(Call)]
    data["fork_costs"] = [asdict(cost) for cost in run.fork_costs]
    data["outcomes"] = [_outcome_data(cell) for cell in cells(run)]
    return data


def derived_data(run: ExperimentRun, table_rows: Sequence[Row], chosen: Sequence[Row]) -> dict[str, Any]:
    """Return what the page draws.

    Args:
        run: the run.
        table_rows: every row of the table.
        chosen: the rows that stand for the published ones.
    """
    cores = run.machine.get("cores")
    return {
        "rows": [_row_data(row, cores) for row in table_rows],
        "headline": [row.id for row in chosen],
        "patterns": {name: asdict(pattern) | {"calls": pattern.calls} for name, pattern in PATTERNS.items()},
        "published_service_s": PUBLISHED_SERVICE_S,
        "published_fork_s": published_fork_s(),
        "advice": _advice_data(run),
    }


def as_script(data: Any) -> str:
    """Return JSON that may stand inside of a script element: nothing in it can end the element."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _outcome_data(cell: Cell) -> dict[str, Any]:
    outcome = cell.outcome
    data = {each.name: getattr(outcome, each.name) for each in fields(outcome)}
    return {"cell": cell.id} | data | {"calls": [astuple(call) for call in outcome.calls]}


def _row_data(row: Row, cores: int | None) -> dict[str, Any]:
    published = row.published
    return {
        "id": row.id,
        "name": row.name,
        "pattern": row.pattern.name,
        "server_type": row.server_type,
        "workload": row.workload,
        "service_s": row.service_s,
        "ideal_s": row.ideal_s,
        "at_once": calls_at_once(row.pattern, row.server_type, row.workers, row.threads, row.workload, cores),
        "published": [published.low_s, published.high_s, published.text] if published else None,
        "predicted_published_s": row.predicted_published_s,
        "cells": {side: cell.id for side in SIDES if (cell := row.cell(side))},
        "predicted_s": {side: row.predicted_s(side) for side in SIDES},
        "why": row.explanation,
    }


def _advice_data(run: ExperimentRun) -> dict[str, Any]:
    """Return choices and answers; each reason is written once, because many are the same."""
    answers = advice.advise(run)
    reasons = list(dict.fromkeys(answer.why for answer in answers.values()))
    place = {reason: at for at, reason in enumerate(reasons)}
    return {
        "types": advice.TYPES,
        "reasons": reasons,
        #: winner, how to start it, its reason's place, seconds by type
        "answers": {
            key: [
                answer.winner,
                answer.size,
                place[answer.why],
                [_rounded(answer.seconds[name]) for name in advice.TYPES],
            ]
            for key, answer in answers.items()
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")

"""What the page carries with it: the raw run, and what is drawn of it.

ExperimentRun, rows  -->  raw: every call, as it was recorded  +  derived: rows, advice  -->  JSON in the page
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from typing import Any

from thriftserve_bench.records.calls import SIDES
from thriftserve_bench.records.experiments import PATTERNS, Call, ExperimentRun
from thriftserve_bench.report.experiments.table import Cell, Row, cells
from thriftserve_bench.simulator import advice
from thriftserve_bench.simulator.ideal import calls_at_once
from thriftserve_bench.simulator.simulator import PUBLISHED_SERVICE_S, published_fork_s


def raw(run: ExperimentRun) -> dict[str, Any]:
    """The run as it was recorded, each call a list in the order of "call_fields", each outcome with its cell's id."""
    # asdict of the calls would be most of the time that the page takes.
    data = {each.name: getattr(run, each.name) for each in fields(run) if each.name not in ("outcomes", "fork_costs")}
    data["call_fields"] = [each.name for each in fields(Call)]
    data["fork_costs"] = [asdict(cost) for cost in run.fork_costs]
    data["outcomes"] = [_outcome(cell) for cell in cells(run)]
    return data


def derived(run: ExperimentRun, found: Sequence[Row], chosen: Sequence[Row]) -> dict[str, Any]:
    """What the page draws.

    Args:
        run: the run.
        found: every row of the table.
        chosen: the rows that stand for the published ones.
    """
    cores = run.machine.get("cores")
    return {
        "rows": [_row(row, cores) for row in found],
        "headline": [row.id for row in chosen],
        "patterns": {name: asdict(pattern) | {"calls": pattern.calls} for name, pattern in PATTERNS.items()},
        "published_service_s": PUBLISHED_SERVICE_S,
        "published_fork_s": published_fork_s(),
        "advice": _advice(run),
    }


def as_script(data: Any) -> str:
    """JSON that may stand inside of a script element: nothing in it can end the element."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _outcome(cell: Cell) -> dict[str, Any]:
    one = cell.outcome
    data = {each.name: getattr(one, each.name) for each in fields(one)}
    return {"cell": cell.id} | data | {"calls": [astuple(call) for call in one.calls]}


def _row(row: Row, cores: int | None) -> dict[str, Any]:
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


def _advice(run: ExperimentRun) -> dict[str, Any]:
    """Choices and answers; reasons are often the same, so each is written once."""
    told = advice.advise(run)
    reasons = list(dict.fromkeys(one.why for one in told.values()))
    place = {reason: at for at, reason in enumerate(reasons)}
    return {
        "types": advice.TYPES,
        "reasons": reasons,
        #: winner, how to start it, its reason's place, seconds by type
        "answers": {
            key: [one.winner, one.size, place[one.why], [_rounded(one.seconds[name]) for name in advice.TYPES]]
            for key, one in told.items()
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")

"""The page of the experiments: one file that needs nothing else.

ExperimentRun  --write_page-->  DIR/index.html, DIR/results.json, DIR/plots/*.png, DIR/plots/*.svg
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from thriftserve_bench.records.experiments import ExperimentRun
from thriftserve_bench.report.experiments import digest, page_html
from thriftserve_bench.report.experiments.consistency import findings
from thriftserve_bench.report.experiments.explanations import child_line, fork_line
from thriftserve_bench.report.experiments.joined import commands
from thriftserve_bench.report.experiments.plots import write_plots
from thriftserve_bench.report.experiments.table import Row, headline, rows, verdicts
from thriftserve_bench.simulator.predict import PUBLISHED_CORES, PUBLISHED_SERVICE_S, WITHIN, published_fork_s

RESULTS, PAGE, PLOTS = "results.json", "index.html", "plots"


def write_page(run: ExperimentRun, directory: Path) -> Path:
    """Write the page, the raw results and the plots; returns the page's path.

    Raises:
        OSError: the directory can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    run.save(directory / RESULTS)
    table_rows = rows(run)
    plots = write_plots(run, table_rows, directory / PLOTS)
    path = directory / PAGE
    path.write_text(page(run, table_rows, [plot.name for plot in plots]), encoding="utf-8")
    return path


def page(run: ExperimentRun, table_rows: Sequence[Row], plots: Sequence[str] = ()) -> str:
    """Return the page as text.

    Args:
        run: the run.
        table_rows: its table.
        plots: names of files in the folder of plots, to link to.
    """
    chosen = headline(table_rows, digest.main_workload(run))
    judged = verdicts(table_rows)
    return Template(_file("page.html")).substitute(
        style=_file("page.css"),
        charts=_file("charts.js"),
        script=_file("page.js"),
        title=_title(chosen),
        lead=_lead(chosen),
        where=_where(run),
        warnings=page_html.warnings(digest.warnings(run)),
        check=_check(run),
        workloads=page_html.workloads(run),
        questions=page_html.questions(run),
        published_service=f"about {PUBLISHED_SERVICE_S:g} s",
        services=" and ".join(dict.fromkeys(f"{outcome.service_ms:g} ms" for outcome in run.outcomes)),
        verdicts=page_html.verdicts(judged),
        stand_in=escape(digest.STAND_IN),
        headline_table=page_html.table(chosen, "short"),
        fork_text=_fork_text(run),
        model_text=_model_text(table_rows),
        full_table=page_html.table(table_rows, "full"),
        workload_notes=page_html.workload_notes(run),
        command="</code>, <code>".join(map(escape, commands(run))),
        plots=", ".join(f'<a href="{PLOTS}/{escape(name)}">{escape(name)}</a>' for name in plots),
        facts=page_html.facts(run),
        raw=page_html.as_script(page_html.raw_data(run)),
        derived=page_html.as_script(page_html.derived_data(run, table_rows, chosen)),
    )


def _file(name: str) -> str:
    return (resources.files(__package__) / "page_files" / name).read_text(encoding="utf-8")


def _title(chosen: Sequence[Row]) -> str:
    """Return the run's main result in one sentence, if it has both sides of it."""
    pool, threads = (_ours_s(chosen, number) for number in ("2", "4"))
    if pool and threads:
        return f"Threads share one lock, processes don’t: {threads / pool:.1f} times as fast"
    return "Which Thrift server type, and why"


def _lead(chosen: Sequence[Row]) -> str:
    figures = [
        f"{page_html.figure(row.ours, 'elapsed', row.ours.elapsed_s, digest.seconds(row.ours.elapsed_s))} on "
        f"{escape(row.server_type)}"
        for number in ("4", "5", "2")
        for row in chosen
        if row.name == number and row.ours and row.ours.elapsed_s
    ]
    if not figures:
        return "100 calls, from one caller, ten or a hundred, on every server type."
    service = next(row.service_s for row in chosen)
    return f"100 calls of {service * 1000:g} ms from ten clients that stay connected take {', '.join(figures)}."


def _ours_s(chosen: Sequence[Row], number: str) -> float | None:
    return next((row.ours.elapsed_s for row in chosen if row.name == number and row.ours and row.ours.usable), None)


def _where(run: ExperimentRun) -> str:
    return escape(f"{digest.preface(run)[0]} · commit {run.commit} · {run.began}")


def _check(run: ExperimentRun) -> str:
    calls = sum(len(item.calls) for item in run.outcomes)
    wrong = len({item.cell for item in findings(run)})
    if wrong:
        return f"{wrong} of {len(run.outcomes)} outcomes have raw calls that cannot be right; see above."
    return f"{len(run.outcomes)} outcomes, {calls:,} calls: each outcome's calls agree with its time, pattern and work."


def _fork_text(run: ExperimentRun) -> str:
    low, high = published_fork_s()
    measured = " ".join(filter(None, (fork_line(run), child_line(run))))
    return (
        f"<p>{escape(measured)}</p>"
        "<p>fork() copies the parent's page tables: the more memory it has, the longer every child takes to be born, "
        "and the parent accepts nobody meanwhile. Ten connections pay for ten forks, a hundred for a hundred, one "
        "after the other.</p>"
        f"<p>That is what separates the published experiment 5 from 6: both follow from {low * 1000:.0f} to "
        f"{high * 1000:.0f} ms a fork, {10 * low:.1f} s for 10 connections and {100 * low:.1f} s for 100, on top of "
        "the calls themselves.</p>"
    )


def _model_text(table_rows: Sequence[Row]) -> str:
    good, every = digest.agreement(table_rows)
    text = (
        f"<p><b>{good} of {every}</b> cells take as long as the simulator says, within {WITHIN:.0%}.</p>"
        if every
        else ""
    )
    return (
        text + "<p>The simulator knows who accepts connections and in which order, the interpreter's lock, the forks, "
        "cores, workers and threads, and the costs measured on this machine beforehand: of a connection, a call, a "
        "thread, a fork. It has not seen the times that it is held against.</p>"
        f"<p>For the published machine, {PUBLISHED_CORES} cores and {PUBLISHED_SERVICE_S:g} s a call:</p>"
        f'<table class="model"><thead><tr><th>row</th><th>published</th><th>simulated</th></tr></thead><tbody>'
        + "".join(
            f"<tr><td>{escape(row.name)}</td><td>{escape(row.published.text)}</td>"
            f'<td class="num">{digest.seconds(row.predicted_published_s)}</td></tr>'
            for row in _published(table_rows)
            if row.published
        )
        + "</tbody></table>"
    )


def _published(table_rows: Sequence[Row]) -> list[Row]:
    """Return one row for each published number; all of a number have the same prediction."""
    first: dict[str, Row] = {}
    for row in table_rows:
        if row.published:
            first.setdefault(row.name, row)
    return list(first.values())

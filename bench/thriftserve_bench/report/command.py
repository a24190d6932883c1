"""`thriftserve-bench report`: tables, and for experiments and sweeps plots and a page, of an earlier run.

FILE.json  --its "format"-->  table on the terminal | Markdown on stdout | DIR/index.html with plots
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from thriftserve_bench.benchmark import fail
from thriftserve_bench.records.calls import CallsRun
from thriftserve_bench.records.experiments import ExperimentRun
from thriftserve_bench.records.http import HttpRun
from thriftserve_bench.records.peers import PeersRun
from thriftserve_bench.records.swaps import SwapsRun
from thriftserve_bench.records.sweep import SweepRun
from thriftserve_bench.report import calls, http, peers, swaps, sweep
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.joined import joined
from thriftserve_bench.run_file import NotARun, format_of


@dataclass(frozen=True)
class Format:
    """What can be shown of one kind of file."""

    load: Callable[[Path], Any]
    markdown: Callable[[Any], str]
    show: Callable[[Any, Console], None]
    #: Writes a page into a directory and returns its path; None: this kind has none.
    write_page: Callable[[Any, Path], Path] | None = None
    #: Joins several runs; None: only one file of this kind at a time.
    join: Callable[[Sequence[Any]], Any] | None = None


def write_experiments_page(run: ExperimentRun, directory: Path) -> Path:
    """Write the page of the experiments into a directory, and return its path."""
    # Brings matplotlib: only a page pays for its import.
    from thriftserve_bench.report.experiments.page import write_page

    return write_page(run, directory)


FORMATS: Mapping[str, Format] = {
    CallsRun.FORMAT: Format(CallsRun.load, calls.markdown, calls.show),
    ExperimentRun.FORMAT: Format(ExperimentRun.load, digest.markdown, digest.show, write_experiments_page, joined),
    PeersRun.FORMAT: Format(PeersRun.load, peers.markdown, peers.show),
    SwapsRun.FORMAT: Format(SwapsRun.load, swaps.markdown, swaps.show),
    HttpRun.FORMAT: Format(HttpRun.load, http.markdown, http.show),
    SweepRun.FORMAT: Format(SweepRun.load, sweep.markdown, sweep.show, sweep.write_page),
}


def add_to(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "report",
        help="the tables, plots and page of an earlier run",
        description="Shows what a file of results says. Nothing is measured.",
    )
    add = parser.add_argument
    files_help = "raw results of a benchmark; several experiments of one machine are shown as one"
    add("files", nargs="+", type=Path, metavar="FILE", help=files_help)
    add("--markdown", action="store_true", help="as Markdown")
    add("--page", type=Path, metavar="DIR", help="write the page and its plots there: of experiments or a sweep")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Show a file; return 1 if it is of no use."""
    try:
        format_, results = _load(flags.files)
    except (NotARun, OSError) as error:
        fail(error)
        return 1
    if flags.markdown:
        print(format_.markdown(results), end="")
    elif flags.page is None:
        format_.show(results, Console())
    if flags.page is None:
        return 0
    if format_.write_page is None:
        fail("--page is for results of experiments and sweep")
        return 1
    print(f"page: {format_.write_page(results, flags.page)}", file=sys.stderr)
    return 0


def _load(paths: Sequence[Path]) -> tuple[Format, Any]:
    formats = [FORMATS[format_of(path, FORMATS)] for path in paths]
    runs = [format_.load(path) for format_, path in zip(formats, paths, strict=True)]
    if len(runs) == 1:
        return formats[0], runs[0]
    join = formats[0].join
    if join is None or any(format_ is not formats[0] for format_ in formats):
        raise NotARun("several files: all must be results of the experiments")
    return formats[0], join(runs)

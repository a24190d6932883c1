"""`thriftserve-bench report`: tables, and for the experiments plots and a page, of an earlier run; nothing is measured.

FILE.json  --its "format"-->  table on the terminal | Markdown on stdout | DIR/index.html with plots
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from thriftserve_bench.records import calls, experiments, http, peers, swaps, sweep
from thriftserve_bench.report import calls as calls_report
from thriftserve_bench.report import http as http_report
from thriftserve_bench.report import peers as peers_report
from thriftserve_bench.report import swaps as swaps_report
from thriftserve_bench.report import sweep as sweep_report
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.joined import joined
from thriftserve_bench.run_file import NotARun, format_of


@dataclass(frozen=True)
class Format:
    """What can be made of one kind of file."""

    load: Callable[[Path], Any]
    markdown: Callable[[Any], str]
    show: Callable[[Any, Console], None]
    #: Writes a page into a directory and returns its path; None: there is none of this kind.
    write_page: Callable[[Any, Path], Path] | None = None
    #: Several files as one; None: only one of this kind at a time.
    join: Callable[[Sequence[Any]], Any] | None = None


def _experiments_page(run: Any, directory: Path) -> Path:
    # Draws with matplotlib: only who asks for a page pays for its import.
    from thriftserve_bench.report.experiments.page import write_page

    return write_page(run, directory)


def _sweep_page(run: Any, directory: Path) -> Path:
    from thriftserve_bench.report.sweep_page import write_page

    return write_page(run, directory)


FORMATS = {
    calls.FORMAT: Format(calls.load_run, calls_report.markdown, calls_report.show),
    experiments.FORMAT: Format(experiments.load_experiments, digest.markdown, digest.show, _experiments_page, joined),
    peers.FORMAT: Format(peers.load_peers, peers_report.markdown, peers_report.show),
    swaps.FORMAT: Format(swaps.load_swaps, swaps_report.markdown, swaps_report.show),
    http.FORMAT: Format(http.load_http, http_report.markdown, http_report.show),
    sweep.FORMAT: Format(sweep.load_sweep, sweep_report.table, sweep_report.show, _sweep_page),
}


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "report",
        help="the tables, plots and page of an earlier run",
        description="Shows what a file of results says. Nothing is measured.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="what calls, experiments or sweep wrote; several experiments of one machine are shown as one",
    )
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    parser.add_argument(
        "--page", type=Path, metavar="DIR", help="write the page and its plots there: of experiments or a sweep"
    )
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Shows it; 1 where the file is of no use."""
    try:
        made, found = _loaded(flags.files)
    except (NotARun, OSError) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    if flags.page is None or flags.markdown:
        _tell(made, found, flags.markdown)
    return _page(made, found, flags.page) if flags.page is not None else 0


def _loaded(paths: Sequence[Path]) -> tuple[Format, Any]:
    formats = [FORMATS[format_of(path, list(FORMATS))] for path in paths]
    found = [made.load(path) for made, path in zip(formats, paths, strict=True)]
    if len(found) == 1:
        return formats[0], found[0]
    join = formats[0].join
    if join is None or any(made is not formats[0] for made in formats):
        raise NotARun("several files: all must be results of the experiments")
    return formats[0], join(found)


def _tell(made: Format, found: Any, as_markdown: bool) -> None:
    if as_markdown:
        print(made.markdown(found), end="")
    else:
        made.show(found, Console())


def _page(made: Format, found: Any, directory: Path) -> int:
    if made.write_page is None:
        print("thriftserve-bench: --page is for results of experiments and sweep", file=sys.stderr)
        return 1
    print(f"page: {made.write_page(found, directory)}", file=sys.stderr)
    return 0

"""`thriftserve-bench report`: the table of an earlier run, without measuring again.

FILE.json  -->  table on the terminal | Markdown on stdout
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from thriftserve_bench.report import markdown, show
from thriftserve_bench.results import NotARun, load_run


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "report",
        help="the table of an earlier run of calls",
        description="Shows the table of a file that `calls` wrote. Nothing is measured.",
    )
    parser.add_argument("file", type=Path, help="what calls wrote")
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Shows it; 1 where the file is of no use."""
    try:
        found = load_run(flags.file)
    except (NotARun, OSError) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    if flags.markdown:
        print(markdown(found), end="")
    else:
        show(found, Console())
    return 0

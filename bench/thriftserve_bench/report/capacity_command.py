"""`thriftserve-bench capacity`: flags and lines.

argv  -->  Demand, a sweep's results  -->  the arithmetic, step by step
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from thriftserve_bench.benchmarks.sweep.flags import floats
from thriftserve_bench.records.sweep import load_sweep
from thriftserve_bench.report.capacity import Demand, plan
from thriftserve_bench.run_file import NotARun

_DESCRIPTION = """\
From page views or requests a day to requests/s at the peak, and, with the results of a sweep, to the nodes and
workers that hold that rate under a p99 target. Every step of the arithmetic is printed.
"""
_EPILOG = """\
thriftserve-bench capacity --page-views-per-day 5000000
thriftserve-bench capacity --requests-per-day 2e7 --headroom 2 --sweep sweep.json --p99-ms 50
"""


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "capacity",
        help="from a day's page views to requests/s, workers and nodes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--page-views-per-day", type=float, metavar="N")
    asked.add_argument("--requests-per-day", type=float, metavar="N")
    parser.add_argument("--requests-per-page", type=float, default=1.0, metavar="N", help="of a page view (1)")
    parser.add_argument("--share", type=float, default=0.8, help="part of the requests at the busy time (0.8)")
    parser.add_argument("--of-day", type=float, default=0.4, help="part of the day that is the busy time (0.4)")
    parser.add_argument("--headroom", type=floats, default=(2.0, 3.0), metavar="X,…", help="times the peak (2,3)")
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="what `thriftserve-bench sweep` wrote")
    parser.add_argument("--p99-ms", type=float, default=50.0, help="target that a node has to keep (50)")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Prints the steps; 1 where the sweep can't be read, 2 where a number is of no use."""
    wrong = _wrong(flags)
    if wrong:
        print(f"thriftserve-bench: {wrong}", file=sys.stderr)
        return 2
    by_pages = flags.page_views_per_day is not None
    demand = Demand(
        flags.page_views_per_day if by_pages else flags.requests_per_day,
        flags.requests_per_page if by_pages else 1.0,
        flags.share,
        flags.of_day,
    )
    try:
        found = load_sweep(flags.sweep) if flags.sweep else None
    except (NotARun, OSError) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    print("\n".join(demand.steps(flags.headroom)))
    if found is not None:
        rates = [demand.peak_per_s, *(demand.peak_per_s * one for one in flags.headroom)]
        print("", *plan(found, flags.p99_ms, rates), sep="\n")
    return 0


def _wrong(flags: argparse.Namespace) -> str:
    """What is wrong with the numbers; empty: nothing."""
    for name in ("page_views_per_day", "requests_per_day", "requests_per_page", "p99_ms"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            return f"--{name.replace('_', '-')} is {value:g}: it must be above 0"
    for name in ("share", "of_day"):
        if not 0 < getattr(flags, name) <= 1:
            return f"--{name.replace('_', '-')} is {getattr(flags, name):g}: it must be above 0 and at most 1"
    return ""

"""`thriftserve-bench compare`: two files, what changed, an exit code for scripts.

argv  -->  Readings of both  -->  changes  -->  0: no regression | 1: a regression | 2: they can't be compared
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from thriftserve_bench.report.compare import Comparison, compare, differences
from thriftserve_bench.report.compare_formats import NotComparable, read

_DESCRIPTION = """\
Says what changed from A to B beyond noise: where the windows of the two runs don't overlap, and their medians differ
by more than the threshold. Takes what `calls`, `experiments` and `sweep` write. Figures of Apache's classes are told
but never count: where they moved as well, the machine did something else.
Exit code: 0 without a regression, 1 with one, 2 where the files can't be compared.
"""
_WORSE, _NOT_COMPARABLE = 1, 2


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "compare",
        help="what changed between two runs beyond noise",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("--threshold", type=float, default=5.0, metavar="PERCENT", help="smaller changes are noise (5)")
    parser.add_argument("--anyway", action="store_true", help="compare runs whose settings or machines differ, too")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Compares, prints, and tells by the exit code."""
    if flags.threshold < 0:
        print(f"thriftserve-bench: --threshold is {flags.threshold:g}: it must not be negative", file=sys.stderr)
        return _NOT_COMPARABLE
    try:
        before, after = read(flags.before), read(flags.after)
    except (NotComparable, OSError) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return _NOT_COMPARABLE
    different = differences(before, after)
    if different and not (flags.anyway and before.format == after.format):
        print("the files can't be compared (--anyway does it where only settings differ):", file=sys.stderr)
        print("\n".join(f"  {one}" for one in different), file=sys.stderr)
        return _NOT_COMPARABLE
    found = compare(before, after, flags.threshold / 100)
    if not found.compared:
        print("the files have no cell in common", file=sys.stderr)
        return _NOT_COMPARABLE
    _tell(found, different)
    return _WORSE if found.regressions else 0


def _tell(found: Comparison, different: list[str]) -> None:
    for line in different:
        print(f"differs: {line}")
    for cell in found.only_before:
        print(f"only in the first: {cell}")
    for cell in found.only_after:
        print(f"only in the second: {cell}")
    for change in found.changes:
        print(change)
    count = len(found.regressions)
    print(
        f"{found.compared} figures compared, {len(found.changes)} changed beyond noise, "
        f"{count} regression{'' if count == 1 else 's'}"
    )

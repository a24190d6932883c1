"""`thriftserve-bench session`: flags and files.

argv  -->  measure_session | measure_frozen  -->  FILE.json and some lines
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from thriftserve_bench.benchmarks.frozen import measure_frozen
from thriftserve_bench.benchmarks.session import SessionFailed, measure_session

_DESCRIPTION = """\
Times one call of half_plus_two at batch 1, numpy in to numpy out, on the CPU: the session that the
server runs, the eager signature of tf.saved_model.load, and Session.run. All in one process and in
turns. Needs TensorFlow; takes about 15 seconds.

With --frozen: MobileNetV2 as loaded beside the same with its variables frozen into constants, at batch 1 to 8
with one and two callers; takes about 80 seconds.
"""


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "session",
        help="one session call beside TensorFlow's own doors",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--calls", type=int, default=5000, help="through each door (5000)")
    parser.add_argument(
        "--out", type=Path, default=Path("session.json"), metavar="FILE", help="raw results (session.json)"
    )
    parser.add_argument("--frozen", action="store_true", help="a model as loaded beside the same frozen")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows; 1 where it could not be measured."""
    if flags.calls <= 0:
        print(f"thriftserve-bench: --calls is {flags.calls}: it must be above 0", file=sys.stderr)
        return 2
    model = "mobilenet_v2" if flags.frozen else "half_plus_two"
    print(f"building {model} and calling it …", file=sys.stderr)
    try:
        found = measure_frozen(windows=3, seconds=1.0) if flags.frozen else measure_session(flags.calls)
    except SessionFailed as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    found.save(flags.out)
    print("\n".join(found.lines()))
    print(f"raw results: {flags.out}", file=sys.stderr)
    return 0

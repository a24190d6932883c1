"""thriftserve-bench: measures, and shows what was measured.

argv  -->  calls | session | experiments | sweep | peers | http | swaps  -->  FILE.json and a table
FILE.json  -->  report | capacity | compare
argv  -->  simulate  -->  a prediction; nothing is measured
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from thriftserve_bench.benchmark import INTERRUPTED, PROGRAM, fail
from thriftserve_bench.benchmarks import session
from thriftserve_bench.benchmarks.calls import CallsBenchmark
from thriftserve_bench.benchmarks.experiments.benchmark import ExperimentsBenchmark
from thriftserve_bench.benchmarks.http.benchmark import HttpBenchmark
from thriftserve_bench.benchmarks.peers.benchmark import PeersBenchmark
from thriftserve_bench.benchmarks.swaps.benchmark import SwapsBenchmark
from thriftserve_bench.benchmarks.sweep.benchmark import SweepBenchmark
from thriftserve_bench.report import calls, capacity, compare, http, peers, swaps, sweep
from thriftserve_bench.report import command as report
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.simulator import what_if

_EPILOG = """\
a first look (a minute):       thriftserve-bench calls --quick
one type, more rounds:         thriftserve-bench calls --server-type TThreadPoolServer --rounds 15
the table of an earlier run:   thriftserve-bench report bench/results/calls.json --markdown
one session call:              thriftserve-bench session
the published experiments:     thriftserve-bench experiments --quick
another machine:               thriftserve-bench simulate --cores 64 --workers 20
throughput and latency:        thriftserve-bench sweep --quick
how many nodes:                thriftserve-bench capacity --page-views-per-day 5000000 --sweep sweep.json
what a change changed:         thriftserve-bench compare before.json after.json
other servers, the same models: thriftserve-bench peers --quick
HTTP, beside Flask and gRPC:   thriftserve-bench http --quick
models that change under load: thriftserve-bench swaps --quick
"""


class Command(Protocol):
    """A command: a module, or a Benchmark."""

    def add_to(self, commands: Any, /) -> None:
        """Add the command to the parser's sub-commands; its `run` takes the flags and returns the exit code."""


_COMMANDS: tuple[Command, ...] = (
    CallsBenchmark(calls.show),
    report,
    session,
    ExperimentsBenchmark(digest.show_matrix, report.write_experiments_page),
    what_if,
    SweepBenchmark(sweep.show, sweep.write_page),
    capacity,
    compare,
    PeersBenchmark(peers.show),
    HttpBenchmark(http.show),
    SwapsBenchmark(swaps.show, swaps.faults),
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measures thriftserve, and writes the raw results to a file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; wrong flags leave through SystemExit, as argparse does.

    SIGTERM acts as Ctrl-C does: what was measured is written, servers and load are stopped.
    """
    flags = make_parser().parse_args(argv)
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(flags.run(flags))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        fail(error)
        return 1
    finally:
        signal.signal(signal.SIGTERM, earlier)


if __name__ == "__main__":
    sys.exit(main())

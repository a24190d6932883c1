"""thriftserve-bench: measures, and shows what was measured.

argv  -->  calls | session | experiments | simulate | sweep | peers | http | swaps  -->  FILE.json and a table
FILE.json  -->  report | capacity | compare
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from thriftserve_bench.benchmarks import session_command
from thriftserve_bench.benchmarks.calls import CallsBenchmark
from thriftserve_bench.benchmarks.experiments import command as experiments_command
from thriftserve_bench.benchmarks.http import command as http_command
from thriftserve_bench.benchmarks.peers.benchmark import PeersBenchmark
from thriftserve_bench.benchmarks.swaps import command as swaps_command
from thriftserve_bench.benchmarks.sweep.benchmark import SweepBenchmark
from thriftserve_bench.report import calls, capacity, compare, peers, sweep
from thriftserve_bench.report import command as report_command
from thriftserve_bench.simulator import command as simulate_command

_EPILOG = """\
a first look (a minute):       thriftserve-bench calls --quick
one type, more rounds:         thriftserve-bench calls --server-type TThreadPoolServer --rounds 15
the table of an earlier run:   thriftserve-bench report bench/results/calls.json --markdown
one session call:              thriftserve-bench session
the published experiments:     thriftserve-bench experiments --quick
a machine that is not at hand: thriftserve-bench simulate --cores 64 --workers 20
throughput and latency:        thriftserve-bench sweep --quick
how many nodes:                thriftserve-bench capacity --page-views-per-day 5000000 --sweep sweep.json
what a change changed:         thriftserve-bench compare before.json after.json
other servers, the same models: thriftserve-bench peers --quick
HTTP, beside Flask and gRPC:   thriftserve-bench http --quick
models that change under load: thriftserve-bench swaps --quick
"""
_COMMANDS = (
    CallsBenchmark(calls.show),
    report_command,
    session_command,
    experiments_command,
    simulate_command,
    SweepBenchmark(sweep.show, sweep.write_page),
    capacity,
    compare,
    PeersBenchmark(peers.show),
    http_command,
    swaps_command,
)


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="thriftserve-bench",
        description="Measures thriftserve, and keeps the raw results.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; wrong flags leave through SystemExit, as argparse does."""
    flags = make_parser().parse_args(argv)
    try:
        return int(flags.run(flags))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

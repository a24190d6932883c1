"""`thriftserve-bench simulate`: what a server type would take, on a machine that nobody has at hand.

flags  -->  Question  -->  the model  -->  a table on stdout
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from thriftserve_bench.records.calls import SIDES
from thriftserve_bench.records.experiments import PATTERNS, ExperimentRun
from thriftserve_bench.run_file import NotARun
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.simulator.setup import WORKLOADS, NotToBeSimulated
from thriftserve_bench.simulator.what_if import Question, answer

_EPILOG = """\
the published patterns:     thriftserve-bench simulate --cores 64 --workers 10 --service-ms 330
one type, one pattern:      thriftserve-bench simulate --server-type TForkingServer --pattern hundred --fork-ms 100
many clients:               thriftserve-bench simulate --clients 10000 --calls 5 --workers 64
with this machine's costs:  thriftserve-bench simulate --results bench/results/experiments.json
"""


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    asked = Question()
    parser = commands.add_parser(
        "simulate",
        help="what-ifs: other cores, workers, clients; nothing is measured",
        description="Predicts how long clients take, by a model of each server type. No server is started.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cores", type=int, default=asked.cores, help="cores of the server's machine (%(default)s)")
    add("--workers", type=int, default=asked.workers, help=f"processes of {' and '.join(WITH_WORKERS)} (%(default)s)")
    add("--threads", type=int, default=asked.threads, help="threads of a pool (as many as workers)")
    add("--runs", type=int, default=asked.runs, help="calls at once in a worker of TBatchingServer (%(default)s)")
    add("--service-ms", type=float, default=asked.service_ms, help="what a call takes, milliseconds (%(default)g)")
    add("--workload", choices=WORKLOADS, default=asked.workload, help="how it takes it (%(default)s)")
    add("--server-type", choices=SERVER_TYPES, default=asked.server_type, help="one type (all, side by side)")
    add("--side", choices=SIDES, default=asked.side, help="whose server types (%(default)s)")
    add("--pattern", choices=tuple(PATTERNS), default=asked.pattern, help="a published pattern (all four)")
    add("--clients", type=int, default=asked.clients, help="clients in a pattern's place, 10,000 at most")
    add("--calls", type=int, default=asked.calls, help="calls of each client (%(default)s)")
    add("--fork-ms", type=float, default=asked.fork_ms, help="what a fork costs the parent, milliseconds")
    add("--results", type=Path, help="what `experiments` wrote: the costs that it measured are used")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Answers; 2 where the question makes no sense, 1 where the results can't be read."""
    try:
        question = Question(**{each.name: getattr(flags, each.name) for each in fields(Question)})
        measured = ExperimentRun.load(flags.results) if flags.results else None
        print(answer(question, measured), end="")
    except NotToBeSimulated as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    except NotARun as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    return 0

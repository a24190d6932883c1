"""`thriftserve-bench simulate`: what if there were more cores, workers, clients?

"cores=64,workers=20,service_ms=300,clients=5000"  -->  WhatIf  -->  a prediction a server type  -->  text

>>> parse_spec("cores=64,workers=20,service_ms=300").workers
20
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from thriftserve_bench.records.calls import OURS, SIDES
from thriftserve_bench.records.experiments import PATTERNS, TYPES, ExperimentRun, Pattern
from thriftserve_bench.run_file import NotARun
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.simulator.predict import predict
from thriftserve_bench.simulator.setup import HOLD_GIL, WORKLOADS, Costs, NotSimulated, Prediction, Setup, costs_from
from thriftserve_bench.stats import quantile

MOST_CLIENTS = 10_000
#: Calls of one question, all clients together: a few seconds' worth of simulation.
MOST_CALLS = 200_000
_ASSUMED = (
    "Limits on queues, connections and children are taken as raised far enough, memory and network as endless;\n"
    "clients, where their number is given, as machines of their own."
)


@dataclass(frozen=True)
class WhatIf:
    """A question. Without `clients` or a pattern it is about the four published patterns.

    Raises:
        NotToBeSimulated: a number is out of bounds, or two of them contradict each other.
    """

    cores: int = 64
    workers: int = 10
    #: Threads of a pool; 0: as many as there are workers.
    threads: int = 0
    #: Calls that each worker of TBatchingServer has in hand at once.
    runs: int = 1
    service_ms: float = 300.0
    clients: int = 0
    #: Calls that each client makes, one after the other.
    calls: int = 1
    #: One of the published patterns in place of clients and calls.
    pattern: str = ""
    #: Empty: all of them.
    server_type: str = ""
    side: str = OURS
    workload: str = HOLD_GIL
    #: What a fork costs the parent; None: as measured, or by default.
    fork_ms: float | None = None

    def __post_init__(self) -> None:
        if self.pattern and self.pattern not in PATTERNS:
            raise NotSimulated(f"pattern={self.pattern}: expected one of {', '.join(PATTERNS)}")
        if self.pattern and self.clients:
            raise NotSimulated(f"pattern={self.pattern} and clients={self.clients}: expected one of the two")
        if not 0 <= self.clients <= MOST_CLIENTS:
            raise NotSimulated(f"clients={self.clients}: expected 1 to {MOST_CLIENTS:,}")
        if self.calls < 1 or self.clients * self.calls > MOST_CALLS:
            raise NotSimulated(f"calls={self.calls}: expected 1 or more, and {MOST_CALLS:,} of all clients at most")
        if self.calls > 1 and not self.clients:
            raise NotSimulated(f"calls={self.calls}: expected clients beside it")
        if self.fork_ms is not None and not 0 <= self.fork_ms < float("inf"):
            raise NotSimulated(f"fork_ms={self.fork_ms:g}: expected 0 or more")

    @property
    def server_types(self) -> Sequence[str]:
        """The server types of the question."""
        return (self.server_type,) if self.server_type else TYPES[self.side]

    @property
    def patterns(self) -> Sequence[Pattern]:
        """How clients call."""
        if self.clients:
            return (Pattern("clients", self.clients, self.calls),)
        return (PATTERNS[self.pattern],) if self.pattern else tuple(PATTERNS.values())

    def setup(self, server_type: str, run: ExperimentRun | None) -> Setup:
        """Return the setup of one server type, with the costs of a run's machine."""
        costs = Costs() if run is None else costs_from(run, server_type, self.side)
        if self.fork_ms is not None:
            costs = replace(costs, fork_s=self.fork_ms / 1000)
        return Setup(
            server_type,
            self.side,
            self.workload,
            service_s=self.service_ms / 1000,
            cores=self.cores,
            workers=self.workers,
            threads=self.threads or self.workers,
            runs=self.runs,
            costs=costs,
            clients_here=not self.clients,
        )


def parse_spec(spec: str) -> WhatIf:
    """Read "name=value,name=value"; names are the fields of `WhatIf`.

    Raises:
        NotToBeSimulated: a part of it can't be read, or makes no sense.
    """
    kinds = {each.name: _KINDS[str(each.type)] for each in fields(WhatIf)}
    given: dict[str, int | float | str] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, equals, value = part.partition("=")
        if not equals or name not in kinds or name in given:
            raise NotSimulated(f"{part}: expected name=value, each name once, of {', '.join(kinds)}")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            raise NotSimulated(f"{part}: expected a number") from None
    return WhatIf(**given)  # type: ignore[arg-type]  # each value has the type of its field


_KINDS: dict[str, type[int | float | str]] = {"int": int, "float": float, "float | None": float, "str": str}


def simulate_text(spec: str) -> str:
    """Answer "cores=64,workers=…,service_ms=…[,clients=…,calls=…,server_type=…]".

    Raises:
        NotToBeSimulated: the question makes no sense; the message says what was expected.
    """
    return answer(parse_spec(spec))


def answer(question: WhatIf, run: ExperimentRun | None = None) -> str:
    """Simulate, and return the answer as a table.

    Args:
        question: the question.
        run: measured costs; None: the defaults.

    Raises:
        NotToBeSimulated: the model has no answer.
    """
    setups = [question.setup(server_type, run) for server_type in question.server_types]
    patterns = question.patterns
    rows = _by_pattern(setups, patterns) if len(patterns) > 1 else _in_detail(setups, patterns[0])
    return "\n".join([_question_text(question), "", *_columns(rows), "", _ASSUMED]) + "\n"


def _question_text(question: WhatIf) -> str:
    clients = f", {question.clients:,} clients x {question.calls} calls" if question.clients else ""
    pattern = PATTERNS.get(question.pattern)
    if pattern is not None:
        clients = f", {pattern.name}: {pattern.threads} clients x {pattern.calls_per_thread} calls"
    fork = "" if question.fork_ms is None else f", {question.fork_ms:g} ms a fork"
    return (
        f"Simulated, {question.side}: {question.cores} cores, {question.workers} workers, "
        f"{question.threads or question.workers} threads, {question.service_ms:g} ms of {question.workload} "
        f"a call{clients}{fork}"
    )


def _by_pattern(setups: Sequence[Setup], patterns: Sequence[Pattern]) -> list[list[str]]:
    head = ["server type", *(f"{pattern.name} {pattern.threads}x{pattern.calls_per_thread}, s" for pattern in patterns)]
    return [
        head,
        *(
            [setup.server_type, *(f"{predict(pattern, setup).elapsed_s:.2f}" for pattern in patterns)]
            for setup in setups
        ),
    ]


def _in_detail(setups: Sequence[Setup], pattern: Pattern) -> list[list[str]]:
    head = ["server type", "all done, s", "calls/s", "median, s", "p99, s", "longest, s"]
    return [head, *([setup.server_type, *_figures(predict(pattern, setup))] for setup in setups)]


def _figures(prediction: Prediction) -> list[str]:
    waits_us = sorted((round((call.end_s - call.start_s) * 1e6), 1) for call in prediction.calls)
    rate = len(waits_us) / prediction.elapsed_s if prediction.elapsed_s else float("inf")
    seconds = [f"{quantile(waits_us, part) / 1e6:.2f}" for part in (0.5, 0.99, 1.0)]
    return [f"{prediction.elapsed_s:.2f}", f"{rate:.1f}", *seconds]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_aligned(row, widths)) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Align the name left and the numbers right."""
    return [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]


_EPILOG = """\
the published patterns:     thriftserve-bench simulate --cores 64 --workers 10 --service-ms 330
one type, one pattern:      thriftserve-bench simulate --server-type TForkingServer --pattern hundred --fork-ms 100
many clients:               thriftserve-bench simulate --clients 10000 --calls 5 --workers 64
with this machine's costs:  thriftserve-bench simulate --results bench/results/experiments.json
"""


def add_to(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    default = WhatIf()
    parser = commands.add_parser(
        "simulate",
        help="what-ifs: other cores, workers, clients; nothing is measured",
        description="Predicts how long clients take, by a model of each server type. No server is started.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cores", type=int, default=default.cores, help="cores of the server's machine (%(default)s)")
    add("--workers", type=int, default=default.workers, help=f"processes of {' and '.join(WITH_WORKERS)} (%(default)s)")
    add("--threads", type=int, default=default.threads, help="threads of a pool (as many as workers)")
    add("--runs", type=int, default=default.runs, help="calls at once in a worker of TBatchingServer (%(default)s)")
    add("--service-ms", type=float, default=default.service_ms, help="what a call takes, milliseconds (%(default)g)")
    add("--workload", choices=WORKLOADS, default=default.workload, help="how it takes it (%(default)s)")
    add("--server-type", choices=SERVER_TYPES, default=default.server_type, help="one type (all, side by side)")
    add("--side", choices=SIDES, default=default.side, help="whose server types (%(default)s)")
    add("--pattern", choices=tuple(PATTERNS), default=default.pattern, help="a published pattern (all four)")
    add("--clients", type=int, default=default.clients, help="clients in a pattern's place, 10,000 at most")
    add("--calls", type=int, default=default.calls, help="calls of each client (%(default)s)")
    add("--fork-ms", type=float, default=default.fork_ms, help="what a fork costs the parent, milliseconds")
    add("--results", type=Path, help="what `experiments` wrote: the costs that it measured are used")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Print the answer; return 2 if the question makes no sense, 1 if the results can't be read."""
    try:
        question = WhatIf(**{each.name: getattr(flags, each.name) for each in fields(WhatIf)})
        measured = ExperimentRun.load(flags.results) if flags.results else None
        print(answer(question, measured), end="")
    except NotSimulated as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    except NotARun as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 1
    return 0

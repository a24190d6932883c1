"""What `sweep` measures: its flags, the servers, and the points of each.

argv  -->  SweepSettings  -->  Variants, each started once  -->  the Settings of each, one a point
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from thriftserve_bench.benchmark import floats, given_lists, given_numbers, integers
from thriftserve_bench.processes import ProgramFailed, run_module
from thriftserve_bench.records.sweep import CLOSED, ECHO, OPEN, Setting, Variant
from thriftserve_bench.servers import SERVER_TYPES, WITH_THREADS, WITH_WORKERS
from thriftserve_bench.workloads.builders import KINDS
from thriftserve_bench.workloads.payloads import PAYLOADS, payload_bytes

#: Serves one connection at a time: others would wait for it to close.
ONE_CONNECTION = "TSimpleServer"


@dataclass(frozen=True)
class SweepSettings:
    """What `sweep` measures and for how long."""

    server_types: tuple[str, ...] = ("TBatchingServer",)
    workers: tuple[int, ...] = (2,)
    threads: tuple[int, ...] = (10,)
    #: NAME=SOURCE for `thriftserve serve --model`, or ECHO.
    models: tuple[str, ...] = (ECHO,)
    #: Names of PAYLOADS, or numbers of bytes.
    payloads: tuple[str, ...] = ("tiny",)
    #: Callers of the closed loops.
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    #: Calls a second of the open loops.
    rates: tuple[float, ...] = (100.0, 500.0, 1000.0, 2000.0)
    #: Most connections of an open loop.
    connections: int = 32
    #: Length of a window, and the most windows of a point.
    seconds: float = 1.0
    max_windows: int = 8
    #: Three windows in a row that differ by at most this part have settled.
    agree: float = 0.10
    #: How long a call may take; also the first one.
    timeout_s: float = 30.0
    seed: int = 1
    generators: int = 1
    #: Whether the load generators have the first cores to themselves, and the server the others.
    pin: bool = True
    #: Passed to `thriftserve serve` as they are.
    serve_flags: tuple[str, ...] = ()
    #: Environment of the server besides the command's own.
    environment: dict[str, str] = field(default_factory=dict)

    def variants(self) -> list[Variant]:
        """Return the servers, each once; a number that a type does not use does not multiply it."""
        choices = product(self.models, self.server_types, self.workers, self.threads)
        variants = (
            Variant(kind, workers if kind in WITH_WORKERS else 0, threads if kind in WITH_THREADS else 0, model)
            for model, kind, workers, threads in choices
        )
        return list(dict.fromkeys(variants))

    def points(self, variant: Variant) -> list[Setting]:
        """Return the points of a server."""
        single = variant.server_type == ONE_CONNECTION
        closed = (1,) if single and self.concurrency else self.concurrency
        connections = 1 if single else self.connections
        points = []
        for payload in self.payloads:
            points += [Setting(variant, payload, CLOSED, float(count), count) for count in closed]
            points += [Setting(variant, payload, OPEN, rate, connections) for rate in self.rates]
        return points

    @property
    def max_message_bytes(self) -> int:
        """The largest message that servers are to accept: twice the largest payload, at least their default."""
        return max(64 * 2**20, *(2 * payload_bytes(payload) for payload in self.payloads))

    @property
    def total(self) -> int:
        """Number of points."""
        return sum(len(self.points(variant)) for variant in self.variants())


_DEFAULTS = SweepSettings()
_QUICK = {"seconds": 0.3, "max_windows": 5, "concurrency": (1, 4, 16), "rates": (200.0, 1000.0)}
_NUMBERS = ("connections", "seconds", "max_windows", "agree", "timeout_s", "seed", "generators")
_LISTS = ("workers", "threads", "concurrency", "rates")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add everything that becomes a SweepSettings."""
    add = parser.add_argument_group("servers").add_argument
    add("--server-type", action="append", choices=SERVER_TYPES, help="one or more, each measured (TBatchingServer)")
    add("--workers", type=integers, metavar="N,…", help=f"processes of {' and '.join(WITH_WORKERS)} (2)")
    add("--threads", type=integers, metavar="N,…", help="threads of pools of threads (10)")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a model as `thriftserve serve` takes it; several are measured one after another. Without one: an echo "
        "service, so that only the serving costs anything",
    )
    add("--model-kind", action="append", default=[], choices=list(KINDS), help="a small TensorFlow model, built for it")
    add(
        "--serve-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="passed to `thriftserve serve`: --serve-flag=--x=1",
    )
    add = parser.add_argument_group("load").add_argument
    add("--concurrency", type=integers, metavar="N,…", help="callers of closed loops (1,2,4,8,16)")
    add("--rate", dest="rates", type=floats, metavar="R,…", help="calls/s of open loops (100,500,1000,2000)")
    add("--connections", type=int, help="most connections of an open loop (32)")
    add("--payload", action="append", default=[], choices=list(PAYLOADS), help="(tiny)")
    add("--payload-bytes", action="append", default=[], type=int, metavar="N", help="a tensor of about so many bytes")
    add("--generators", type=int, help="load generating processes (1)")
    add("--seed", type=int, help="of the arrivals (1)")
    add = parser.add_argument_group("windows").add_argument
    add("--seconds", type=float, help=f"length of a window ({_DEFAULTS.seconds:g})")
    add("--max-windows", type=int, help=f"most windows of a point ({_DEFAULTS.max_windows})")
    add("--agree", type=float, help=f"part by which settled windows may differ ({_DEFAULTS.agree:g})")
    add("--timeout-s", type=float, help=f"for a call ({_DEFAULTS.timeout_s:g})")
    add("--quick", action="store_true", help="short windows, few points: to see that it works")
    add(
        "--no-pin",
        dest="pin",
        action="store_false",
        help="let the kernel place the processes; by default each generator has a core to itself, the servers the rest",
    )


def settings_of(flags: argparse.Namespace, scratch: Path) -> SweepSettings:
    """Return the settings that the flags ask for; models given by kind are built in `scratch`.

    Raises:
        ValueError: a value is of no use, or a model can't be built; the message names the flag.
    """
    given: dict[str, Any] = dict(_QUICK) if flags.quick else {}
    given |= given_numbers(flags, _NUMBERS)
    given |= {name: value for name in _LISTS if (value := getattr(flags, name)) is not None}
    # If only one of the two loops is asked for, the other is not measured.
    if (flags.concurrency is None) != (flags.rates is None):
        given["concurrency" if flags.concurrency is None else "rates"] = ()
    if any(count < 1 for count in flags.payload_bytes):
        raise ValueError("--payload-bytes must be 1 or more")
    for model in flags.model:
        if "=" not in model:
            raise ValueError(f"--model {model}: write NAME=SOURCE, as for `thriftserve serve`")
    if flags.serve_flag and not (flags.model or flags.model_kind):
        raise ValueError("--serve-flag needs a --model: without one `thriftserve serve` is not used")
    payloads = [*flags.payload, *map(str, flags.payload_bytes)]
    models = [*flags.model, *(f"{kind}={_build(kind, scratch)}" for kind in flags.model_kind)]
    given |= given_lists(server_types=flags.server_type, models=models, payloads=payloads)
    return replace(_DEFAULTS, pin=flags.pin, serve_flags=tuple(flags.serve_flag), **given)


def _build(kind: str, scratch: Path) -> Path:
    print(f"building {kind} …", file=sys.stderr)
    try:
        run_module("thriftserve_bench.workloads.builders", kind, str(scratch))
    except ProgramFailed as error:
        raise ValueError(f"--model-kind {kind}: {error}") from error
    return scratch / kind

"""The flags of `thriftserve-bench sweep`.

argv  -->  Namespace  -->  SweepSettings, with the models built that were asked for by kind
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from thriftserve_bench.benchmarks.sweep.plan import SweepSettings
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.workloads.builders import KINDS
from thriftserve_bench.workloads.payloads import PAYLOADS

_DEFAULTS = SweepSettings()
_QUICK = {
    "seconds": 0.3,
    "max_windows": 5,
    "concurrency": (1, 4, 16),
    "rates": (200.0, 1000.0),
}
_NUMBERS = ("connections", "seconds", "max_windows", "agree", "timeout_s", "seed", "generators")
_LISTS = ("workers", "threads", "concurrency", "rates")


def integers(text: str) -> tuple[int, ...]:
    """Reads "1,2,4"; nothing but numbers above 0."""
    return tuple(_positive(int(part), text) for part in text.split(",") if part)


def floats(text: str) -> tuple[float, ...]:
    """Reads "100,2500.5"; nothing but numbers above 0."""
    return tuple(_positive(float(part), text) for part in text.split(",") if part)


def _positive(number: Any, text: str) -> Any:
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: every number must be above 0")
    return number


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds everything that becomes a SweepSettings."""
    servers = parser.add_argument_group("servers")
    servers.add_argument(
        "--server-type", action="append", choices=SERVER_TYPES, help="one or more, each measured (TBatchingServer)"
    )
    servers.add_argument(
        "--workers", type=integers, metavar="N,…", help=f"processes of {' and '.join(WITH_WORKERS)} (2)"
    )
    servers.add_argument("--threads", type=integers, metavar="N,…", help="threads of pools of threads (10)")
    servers.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a model as `thriftserve serve` takes it; several are measured one after another. Without one: a "
        "service that gives back what it gets, so that nothing but the serving costs anything",
    )
    servers.add_argument(
        "--model-kind", action="append", default=[], choices=list(KINDS), help="a small TensorFlow model, built for it"
    )
    servers.add_argument(
        "--serve-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="passed to `thriftserve serve`: --serve-flag=--x=1",
    )
    load = parser.add_argument_group("load")
    load.add_argument("--concurrency", type=integers, metavar="N,…", help="callers of closed loops (1,2,4,8,16)")
    load.add_argument(
        "--rate", dest="rates", type=floats, metavar="R,…", help="calls/s of open loops (100,500,1000,2000)"
    )
    load.add_argument("--connections", type=int, help="the most that an open loop uses (32)")
    load.add_argument("--payload", action="append", default=[], choices=list(PAYLOADS), help="(tiny)")
    load.add_argument(
        "--payload-bytes", action="append", default=[], type=int, metavar="N", help="a tensor of about so many bytes"
    )
    load.add_argument("--generators", type=int, help="load generating processes (1)")
    load.add_argument("--seed", type=int, help="of the arrivals (1)")
    windows = parser.add_argument_group("windows")
    windows.add_argument("--seconds", type=float, help=f"length of a window ({_DEFAULTS.seconds:g})")
    windows.add_argument("--max-windows", type=int, help=f"windows of a point at most ({_DEFAULTS.max_windows})")
    windows.add_argument("--agree", type=float, help=f"part by which settled windows may differ ({_DEFAULTS.agree:g})")
    windows.add_argument("--timeout-s", type=float, help=f"for a call ({_DEFAULTS.timeout_s:g})")
    windows.add_argument("--quick", action="store_true", help="short windows, few points: to see that it works")
    windows.add_argument(
        "--no-pin",
        dest="pin",
        action="store_false",
        help="let the kernel place the processes; by default each generator has a core to itself, the servers the rest",
    )


def settings_of(flags: argparse.Namespace, scratch: Path) -> SweepSettings:
    """The settings that the flags ask for; models asked for by kind are built in `scratch`.

    Raises:
        ValueError: a value is of no use, or a model can't be built; the message names the flag.
    """
    told: dict[str, Any] = dict(_QUICK) if flags.quick else {}
    for name in (*_NUMBERS, *_LISTS):
        if (value := getattr(flags, name)) is not None:
            told[name] = value
            if name in _NUMBERS and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be above 0")
    # Where only one of the two loops is asked for, the other is not measured.
    if (flags.concurrency is None) != (flags.rates is None):
        told["concurrency" if flags.concurrency is None else "rates"] = ()
    payloads = [*flags.payload, *map(str, flags.payload_bytes)]
    if any(count < 1 for count in flags.payload_bytes):
        raise ValueError("--payload-bytes must be 1 or more")
    for model in flags.model:
        if "=" not in model:
            raise ValueError(f"--model {model}: write NAME=SOURCE, as for `thriftserve serve`")
    if flags.serve_flag and not (flags.model or flags.model_kind):
        raise ValueError("--serve-flag needs a --model: without one `thriftserve serve` is not used")
    models = [*flags.model, *(f"{kind}={_built(kind, scratch)}" for kind in flags.model_kind)]
    lists = {"server_types": flags.server_type, "models": models, "payloads": payloads}
    told |= {name: tuple(dict.fromkeys(values)) for name, values in lists.items() if values}
    return replace(_DEFAULTS, pin=flags.pin, serve_flags=tuple(flags.serve_flag), **told)


def _built(kind: str, scratch: Path) -> Path:
    """Builds a model in a process of its own: this one stays without TensorFlow."""
    print(f"building {kind} …", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "thriftserve_bench.workloads.builders", kind, str(scratch)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"--model-kind {kind}: it can't be built:\n{done.stderr[-2000:]}")
    return scratch / kind

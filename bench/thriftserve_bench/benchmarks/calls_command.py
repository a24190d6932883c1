"""`thriftserve-bench calls`: flags, progress, files.

argv  -->  CallsSettings  -->  measure_calls, a bar with the time left  -->  FILE.json and the table

Ctrl-C ends the measuring and keeps what there is.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from thriftserve_bench.benchmarks.calls import CallsFailed, CallsSettings, measure_calls
from thriftserve_bench.processes import ServerFailed
from thriftserve_bench.records.calls import Cell, Run, Window
from thriftserve_bench.report.calls import show
from thriftserve_bench.servers import APACHE_TYPES
from thriftserve_bench.workloads.payloads import PAYLOADS

_DESCRIPTION = """\
Measures each server type against Apache's own class of that name: the same echo service, transport
(framed), protocol (binary, in C), threads and processes; both up at once and measured in turns.
Requests/s, latency, the server's CPU a request and its memory; every window goes into FILE as it was
measured, and `thriftserve-bench report FILE` makes the table again. TBatchingServer has no class of
Apache's beside it: `thriftserve-bench peers` measures it against Apache's classes and other servers.
"""
_DEFAULTS = CallsSettings()
_QUICK = {"rounds": 3, "seconds": 0.2, "min_calls": 3}
_INTERRUPTED = 130


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "calls",
        help="each server type against Apache's class of that name",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--server-type", action="append", choices=APACHE_TYPES, help="only this one; may be given several times"
    )
    parser.add_argument("--payload", action="append", choices=list(PAYLOADS), help="only this one; several times")
    parser.add_argument(
        "--connections", action="append", type=int, metavar="N", help="clients side by side; several times (1 and 4)"
    )
    parser.add_argument("--rounds", type=int, help=f"windows of each side in a cell ({_DEFAULTS.rounds})")
    parser.add_argument("--seconds", type=float, help=f"length of a window ({_DEFAULTS.seconds:g})")
    parser.add_argument("--min-calls", type=int, help=f"calls that a window has at least ({_DEFAULTS.min_calls})")
    parser.add_argument("--workers", type=int, help=f"processes of TProcessPoolServer ({_DEFAULTS.workers})")
    parser.add_argument(
        "--threads", type=int, help=f"threads of TThreadPoolServer and TNonblockingServer ({_DEFAULTS.threads})"
    )
    parser.add_argument(
        "--no-pin",
        dest="pin",
        action="store_false",
        help="let the kernel place the processes; by default the load generator has the first core to itself "
        "and the servers the others, for two processes that meet on one core, or wake each other across two, "
        "differ by a factor of three",
    )
    parser.add_argument(
        "--load-sleeps",
        dest="awake",
        action="store_false",
        help="let the load generator sleep until a reply comes; by default, on a core to itself, it stays awake, for a "
        "server on the same machine pays for waking it, and one that answers evenly pays more",
    )
    parser.add_argument("--quick", action="store_true", help="three rounds of 0.2 s: to see that it works")
    parser.add_argument("--out", type=Path, default=Path("calls.json"), metavar="FILE", help="raw results (calls.json)")
    parser.set_defaults(run=run)


def settings_of(flags: argparse.Namespace) -> CallsSettings:
    """The settings that the flags ask for.

    Raises:
        ValueError: a number is of no use; the message names the flag.
    """
    told: dict[str, Any] = dict(_QUICK) if flags.quick else {}
    for name in ("rounds", "seconds", "min_calls", "workers", "threads"):
        if (value := getattr(flags, name)) is not None:
            told[name] = value
            if value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be above 0")
    lists = {"server_types": flags.server_type, "payloads": flags.payload, "connections": flags.connections}
    told |= {name: tuple(dict.fromkeys(values)) for name, values in lists.items() if values}
    settings = replace(_DEFAULTS, pin=flags.pin, awake=flags.awake, **told)
    if min(settings.connections) < 1:
        raise ValueError("--connections must be 1 or more")
    if max(settings.connections) > min(settings.workers, settings.threads):
        raise ValueError(
            f"--connections {max(settings.connections)} needs as many --workers and --threads: "
            "Apache's pools would leave the others waiting for ever"
        )
    return settings


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows."""
    try:
        settings = settings_of(flags)
    except ValueError as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    console = Console(stderr=True)
    kept: list[Run] = []
    code = 0
    try:
        _measure(settings, console, kept)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (ServerFailed, CallsFailed) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        code = 1
    if not kept or not any(cell.ours and cell.apache for cell in kept[0].cells):
        console.print("nothing was measured")
        return code or 1
    kept[0].cut_short = code != 0
    kept[0].save(flags.out)
    show(kept[0], Console())
    console.print(f"raw results: {flags.out}   the table again: thriftserve-bench report {flags.out}", highlight=False)
    return code


def _measure(settings: CallsSettings, console: Console, kept: list[Run]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting the servers", total=settings.windows)

        def tick(cell: Cell, side: str, window: Window) -> None:
            rate = window.calls / window.elapsed_s if window.elapsed_s else 0.0
            text = f"{cell.server_type} {cell.payload} x{cell.connections} {side} {rate:,.0f}/s"
            progress.update(task, advance=1, description=f"{text:<52}")

        measure_calls(settings, kept.append, tick)

"""`thriftserve-bench swaps`: flags, progress, files.

argv  -->  LoadSettings | MemorySettings  -->  measure_load | measure_memory, a bar  -->  FILE.json and the table

Ctrl-C ends the measuring and keeps what there is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from thriftserve_bench import machine
from thriftserve_bench.benchmarks.swaps.memory import MemorySettings, measure_memory
from thriftserve_bench.benchmarks.swaps.under_load import LoadSettings, measure_load
from thriftserve_bench.processes import ChildEnded, ProgramFailed, ServerFailed
from thriftserve_bench.records.swaps import SwapsRun
from thriftserve_bench.report.swaps import faults, show
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.workloads.versions import make

_DESCRIPTION = """\
Versions of a model that change while clients call: each swap is a new directory below the base path, as an operator
puts it there. Closed loops of real clients, each a process of its own, go on over swaps; the same load without swaps,
in turns with it on the same server, is what they are compared with. Every version has answers of its own: each answer
is checked against the version that it names, and that version against the time in which the server had it.
Requests that fail or are answered wrongly make the exit code 1.

With --memory it is the memory that is looked at: the whole process tree after 5 swaps and after 100.
"""
_EPILOG = """\
a first look (half a minute):     thriftserve-bench swaps --quick
one type, longer, more swaps:     thriftserve-bench swaps --server-type TBatchingServer --seconds 300 --every 1
does the memory come back:        thriftserve-bench swaps --memory
why a swap went wrong:            thriftserve-bench swaps --server-type TForkingServer --logs /tmp/logs
the table of an earlier run:      thriftserve-bench report swaps.json --markdown

TSimpleServer serves one connection at a time and has one client. For p99 there is a target where several workers
serve, TBatchingServer and TProcessPoolServer; the other types have one worker at a time, and failed requests count.
"""
_LOAD, _MEMORY = LoadSettings(), MemorySettings()
_QUICK_LOAD = replace(_LOAD, clients=4, seconds=6.0, rounds=1)
_QUICK_MEMORY = replace(_MEMORY, samples=(3, 10))
_INTERRUPTED = 130
_PACKAGES = ("thriftserve", "thrift", "tensorflow", "tensorflow-cpu", "numpy")


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "swaps",
        help="model versions that change under load: failures, latency, memory",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--server-type",
        action="append",
        choices=SERVER_TYPES,
        help=f"only this one; may be given several times (all; with --memory {' and '.join(WITH_WORKERS)})",
    )
    add("--clients", type=int, metavar="N", help=f"closed loops side by side ({_LOAD.clients})")
    add("--seconds", type=float, metavar="S", help=f"of load with swaps, and as much without ({_LOAD.seconds:g})")
    add("--every", type=float, metavar="S", help=f"from one new version to the next ({_LOAD.every_s:g})")
    add("--rounds", type=int, metavar="N", help=f"parts into which both are cut, to go in turns ({_LOAD.rounds})")
    add("--workers", type=int, metavar="N", help=f"of {' and '.join(WITH_WORKERS)} (the server's own choice)")
    add("--memory", action="store_true", help="swap as fast as it goes, and look at the memory instead of latencies")
    add("--swaps", type=int, metavar="N", help=f"with --memory: how many ({_MEMORY.swaps})")
    add("--quick", action="store_true", help="6 s, 3 versions, two types; with --memory 10 swaps: to see that it works")
    add("--logs", type=Path, metavar="DIR", help="keep the servers' logs there")
    add("--output", type=Path, default=Path("swaps.json"), metavar="FILE", help="raw results (%(default)s)")
    parser.set_defaults(run=run)


def settings_of(flags: argparse.Namespace) -> tuple[LoadSettings, MemorySettings]:
    """The settings that the flags ask for.

    Raises:
        ValueError: a number is of no use, or a flag does not go with another; the message names the flag.
    """
    for name in ("clients", "seconds", "every", "rounds", "workers", "swaps"):
        if (value := getattr(flags, name)) is not None and not value > 0:
            raise ValueError(f"--{name} is {value:g}: it must be above 0")
    if flags.swaps is not None and not flags.memory:
        raise ValueError("--swaps goes with --memory; how many there are under load follows from --seconds and --every")
    load, memory = (_QUICK_LOAD, _QUICK_MEMORY) if flags.quick else (_LOAD, _MEMORY)
    told = {"clients": flags.clients, "seconds": flags.seconds, "every_s": flags.every, "rounds": flags.rounds}
    load = replace(load, workers=flags.workers, **{name: value for name, value in told.items() if value is not None})
    if load.seconds / load.rounds < load.every_s:
        raise ValueError(
            f"--seconds {load.seconds:g} in --rounds {load.rounds} leaves no room for a swap --every {load.every_s:g}"
        )
    if flags.swaps is not None:
        first = min(_MEMORY.samples[0], max(1, flags.swaps // 2))
        memory = replace(memory, samples=tuple(sorted({first, flags.swaps})))
    return load, replace(memory, workers=flags.workers)


def types_of(flags: argparse.Namespace) -> tuple[str, ...]:
    """The server types to measure."""
    if flags.server_type:
        return tuple(dict.fromkeys(flags.server_type))
    return tuple(reversed(WITH_WORKERS if flags.memory or flags.quick else SERVER_TYPES))


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows; 1 where a request failed or was answered wrongly."""
    try:
        settings = settings_of(flags)
    except ValueError as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    console = Console(stderr=True)
    found = SwapsRun(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={"load": asdict(settings[0]), "memory": asdict(settings[1])},
        machine=machine.describe(),
        versions=machine.versions(_PACKAGES),
        commit=machine.commit(),
    )
    code = 0
    try:
        _measure(found, flags, settings, console)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (ServerFailed, ChildEnded, ProgramFailed) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        code = 1
    if not found.loads and not found.memory:
        console.print("nothing was measured")
        return code or 1
    found.cut_short = code != 0
    found.save(flags.output)
    show(found, Console())
    told = f"raw results: {flags.output}   the table again: thriftserve-bench report {flags.output}"
    console.print(told, highlight=False, soft_wrap=True)
    return code or int(bool(faults(found)))


def _measure(
    found: SwapsRun, flags: argparse.Namespace, settings: tuple[LoadSettings, MemorySettings], console: Console
) -> None:
    load, memory = settings
    types = types_of(flags)
    each = memory.swaps if flags.memory else load.total_s
    with tempfile.TemporaryDirectory(prefix="thriftserve-swaps-") as scratch, _bar(console, each, len(types)) as at:
        store, logs = Path(scratch) / "store", flags.logs or Path(scratch) / "logs"
        at(0, "building the versions", 0.0)
        make(store, 1 + (memory.swaps if flags.memory else load.swaps))
        for number, server_type in enumerate(types):
            if flags.memory:
                found.memory.append(
                    measure_memory(
                        server_type,
                        memory,
                        store,
                        logs,
                        lambda swaps, n=number, name=server_type: at(n, f"{name}: {swaps} swaps", swaps),  # type: ignore[misc]  # bound now
                    )
                )
            else:
                found.loads.append(
                    measure_load(server_type, load, store, logs, lambda text, s, n=number: at(n, text, s))  # type: ignore[misc]  # bound now
                )


@contextmanager
def _bar(console: Console, each: float, count: int) -> Iterator[Callable[[int, str, float], None]]:
    """A bar; what it yields is told which server type it is, what goes on, and how much of that type is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=each * count)

        def at(number: int, text: str, done: float) -> None:
            progress.update(task, completed=number * each + min(done, each), description=f"{text:<44}")

        yield at

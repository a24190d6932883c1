"""`calls`: each server type of ours against Apache's own class of that name.

    settings  -->  both servers up, the same echo service in each  -->  load: ours, Apache's, ours, …  -->  CallsRun

Both run side by side and are measured in turns, so that whatever else the machine does meets both. Each round has
processes of its own: where their memory happens to lie is worth some hundredths to a tiny call, for better or worse.
The load generator stays awake: a server on the same machine would pay for waking it, which it does not for
a client on another machine, and would pay more, the more evenly its answers come.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from thriftserve_bench import process_tree
from thriftserve_bench.benchmark import Bar, Benchmark, given_lists, given_numbers
from thriftserve_bench.load.echo_load import EchoOrder
from thriftserve_bench.machine import split_cores
from thriftserve_bench.processes import JsonLinesChild, ServerProcess
from thriftserve_bench.records.calls import APACHE, OURS, SIDES, CallsRun, Cell, MeasuredCell, Window
from thriftserve_bench.run_file import from_data
from thriftserve_bench.servers import APACHE_TYPES
from thriftserve_bench.workloads.payloads import PAYLOADS

_HOSTS = {OURS: "thriftserve_bench.servers.our_host", APACHE: "thriftserve_bench.servers.apache_host"}
_PACKAGES = ("thriftserve", "thrift", "numpy")
_STOP_TIMEOUT_S = 5.0
_READY_TIMEOUT_S = 30.0
_NUMBERS = ("rounds", "seconds", "min_calls", "workers", "threads")


@dataclass(frozen=True)
class CallsSettings:
    """What `calls` measures and for how long."""

    server_types: tuple[str, ...] = APACHE_TYPES
    payloads: tuple[str, ...] = tuple(PAYLOADS)
    connections: tuple[int, ...] = (1, 4)
    rounds: int = 8
    #: Length of a window, and the fewest calls of one.
    seconds: float = 0.7
    min_calls: int = 10
    workers: int = 4
    threads: int = 10
    #: Whether the load generator has the first core to itself, and the servers the others.
    pin: bool = True
    #: Whether the load generator polls for replies without sleeping; only on a core of its own.
    awake: bool = True

    def cells(self, server_type: str) -> list[Cell]:
        """Return the cells of a server type; TSimpleServer serves one connection at a time."""
        counts = (1,) if server_type == "TSimpleServer" else self.connections
        return [Cell(server_type, payload, count) for payload in self.payloads for count in counts]

    @property
    def windows(self) -> int:
        """Number of windows of the run."""
        return sum(len(self.cells(server_type)) for server_type in self.server_types) * self.rounds * len(SIDES)


_DEFAULTS = CallsSettings()
_QUICK = {"rounds": 3, "seconds": 0.2, "min_calls": 3}


class CallsBenchmark(Benchmark[CallsSettings, CallsRun]):
    """The command `calls`."""

    name = "calls"
    help = "each server type against Apache's class of that name"
    description = """\
Measures each server type against Apache's own class of that name: the same echo service, transport
(framed), protocol (binary, in C), threads and processes; both up at once and measured in turns.
Requests/s, latency, the server's CPU a request and its memory; every window goes into FILE as it was
measured, and `thriftserve-bench report FILE` makes the table again. TBatchingServer has no class of
Apache's beside it: `thriftserve-bench peers` measures it against Apache's classes and other servers.
"""
    file_flag = "--out"
    file = "calls.json"

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--server-type", action="append", choices=APACHE_TYPES, help="only this one; may be given several times")
        add("--payload", action="append", choices=list(PAYLOADS), help="only this one; several times")
        add("--connections", action="append", type=int, metavar="N", help="clients; several times (1 and 4)")
        add("--rounds", type=int, help=f"windows of each side in a cell ({_DEFAULTS.rounds})")
        add("--seconds", type=float, help=f"length of a window ({_DEFAULTS.seconds:g})")
        add("--min-calls", type=int, help=f"fewest calls of a window ({_DEFAULTS.min_calls})")
        add("--workers", type=int, help=f"processes of TProcessPoolServer ({_DEFAULTS.workers})")
        add("--threads", type=int, help=f"threads of TThreadPoolServer and TNonblockingServer ({_DEFAULTS.threads})")
        add(
            "--no-pin",
            dest="pin",
            action="store_false",
            help="let the kernel place the processes; by default the load generator has the first core to itself "
            "and the servers the others, for two processes that meet on one core, or wake each other across two, "
            "differ by a factor of three",
        )
        add(
            "--load-sleeps",
            dest="awake",
            action="store_false",
            help="let the load generator sleep until a reply comes; by default, on a core to itself, it stays awake: a "
            "server on the same machine pays for waking it, and one that answers evenly pays more",
        )
        add("--quick", action="store_true", help="three rounds of 0.2 s: to see that it works")

    def settings(self, flags: argparse.Namespace) -> CallsSettings:
        return settings_of(flags)

    def begin(self, settings: CallsSettings) -> CallsRun:
        return CallsRun.begin(asdict(settings) | {"cores": _cores(settings)}, _PACKAGES)

    def measure(self, settings: CallsSettings, run: CallsRun, flags: argparse.Namespace, bar: Bar) -> None:
        cores = run.settings["cores"]
        settings = replace(settings, awake=settings.awake and bool(cores["load"]))
        run.settings["awake"] = settings.awake
        bar.expect(settings.windows)
        load = JsonLinesChild("thriftserve_bench.load.echo_load", [cores["load"]] if cores["load"] else [])
        with closing(load):
            for server_type in settings.server_types:
                cells = [MeasuredCell(cell) for cell in settings.cells(server_type)]
                run.cells += cells
                for number in range(settings.rounds):
                    with servers(server_type, settings, cores["servers"]) as running:
                        # Whichever is first is measured just after the servers' start.
                        order = [*running.items()] if number % 2 == 0 else [*reversed(running.items())]
                        _measure_round(cells, order, load, settings, bar)

    def measured(self, run: CallsRun) -> bool:
        return any(cell.ours and cell.apache for cell in run.cells)


def settings_of(flags: argparse.Namespace) -> CallsSettings:
    """Return the settings that the flags ask for.

    Raises:
        ValueError: a number is of no use; the message names the flag.
    """
    given: dict[str, Any] = dict(_QUICK) if flags.quick else {}
    given |= given_numbers(flags, _NUMBERS)
    given |= given_lists(server_types=flags.server_type, payloads=flags.payload, connections=flags.connections)
    settings = replace(_DEFAULTS, pin=flags.pin, awake=flags.awake, **given)
    if min(settings.connections) < 1:
        raise ValueError("--connections must be 1 or more")
    if max(settings.connections) > min(settings.workers, settings.threads):
        raise ValueError(
            f"--connections {max(settings.connections)} needs as many --workers and --threads: "
            "Apache's pools would leave the others waiting for ever"
        )
    return settings


def _cores(settings: CallsSettings) -> dict[str, str]:
    (load,), rest = split_cores(1, settings.pin)
    return {"load": load, "servers": ",".join(map(str, sorted(rest))) if load else ""}


def _measure_round(
    cells: list[MeasuredCell],
    running: list[tuple[str, ServerProcess]],
    load: JsonLinesChild,
    settings: CallsSettings,
    bar: Bar,
) -> None:
    limits = (settings.seconds, settings.min_calls, settings.awake)
    for measured in cells:
        cell = measured.cell
        for side, server in running:
            order = EchoOrder(server.port, server.pid, cell.payload, cell.connections, *limits)
            window = from_data(Window, load.ask(asdict(order)))
            measured.windows(side).append(window)
            bar.step(f"{cell.server_type} {cell.payload} x{cell.connections} {side} {window.calls_per_s:,.0f}/s")


@contextmanager
def servers(server_type: str, settings: CallsSettings, cores: str) -> Iterator[dict[str, ServerProcess]]:
    """Yield both servers of a type, ready; end them with all their processes afterwards."""
    flags = [server_type, "--workers", str(settings.workers), "--threads", str(settings.threads)]
    if cores:
        flags += ["--cores", cores]
    with ExitStack() as stack:
        running = {}
        for side in SIDES:
            command = [sys.executable, "-m", _HOSTS[side]]
            server = ServerProcess(flags, command=command, ready_timeout_s=_READY_TIMEOUT_S)
            running[side] = stack.enter_context(server)
            stack.callback(process_tree.stop, server.pid, _STOP_TIMEOUT_S)
        yield running

"""Each server type of ours against Apache's own class of that name.

    settings  -->  both servers up, the same echo service in each  -->  load: ours, Apache's, ours, …  -->  Run

Both run side by side and are measured in turns, so that whatever else the machine does meets both. Each round has
processes of its own: where their memory happens to lie is worth some hundredths to a tiny call, for better or worse.
The load generator stays awake: a server's process would pay for waking it otherwise, which no client on another machine
asks of it, and pay the more, the more evenly its answers come.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from thriftserve_bench import machine, process_tree
from thriftserve_bench.processes import ChildEnded, JsonLinesChild, ServerProcess
from thriftserve_bench.records.calls import APACHE, OURS, SIDES, Cell, Measured, Order, Run, Window
from thriftserve_bench.servers import APACHE_TYPES
from thriftserve_bench.workloads.payloads import PAYLOADS

_HOSTS = {OURS: "thriftserve_bench.servers.our_host", APACHE: "thriftserve_bench.servers.apache_host"}
_PACKAGES = ("thriftserve", "thrift", "numpy")
_STOP_PATIENCE_S = 5.0
_READY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class CallsSettings:
    """What `calls` measures and for how long."""

    server_types: tuple[str, ...] = APACHE_TYPES
    payloads: tuple[str, ...] = tuple(PAYLOADS)
    connections: tuple[int, ...] = (1, 4)
    rounds: int = 8
    #: Length of a window, and the calls that it has at least.
    seconds: float = 0.7
    min_calls: int = 10
    workers: int = 4
    threads: int = 10
    #: The load generator on the first core, the servers on the others.
    pin: bool = True
    #: The load generator looks for replies again and again, where it has a core to itself.
    awake: bool = True

    def cells(self, server_type: str) -> list[Cell]:
        """The cells of a server type; TSimpleServer serves one connection at a time."""
        counts = (1,) if server_type == "TSimpleServer" else self.connections
        return [Cell(server_type, payload, count) for payload in self.payloads for count in counts]

    @property
    def windows(self) -> int:
        """How many windows there will be."""
        return sum(len(self.cells(one)) for one in self.server_types) * self.rounds * len(SIDES)


class CallsFailed(Exception):
    """The load generator ended."""


def cores(pin: bool) -> dict[str, str]:
    """Cores of the load generator and of the servers, as their flags take them; empty: all."""
    available = sorted(os.sched_getaffinity(0))
    if not pin or len(available) < 2:
        return {"load": "", "servers": ""}
    return {"load": str(available[0]), "servers": ",".join(map(str, available[1:]))}


class Load:
    """The load generator's process."""

    def __init__(self, on_cores: str) -> None:
        self._process = JsonLinesChild("thriftserve_bench.load.calls_load", [on_cores] if on_cores else [])

    def measure(self, order: Order) -> Window:
        """Has it measure one window.

        Raises:
            CallsFailed: it has ended.
        """
        try:
            return Window(**self._process.ask(asdict(order)))
        except ChildEnded as error:
            raise CallsFailed(f"the load generator is gone: {error}") from error

    def close(self) -> None:
        """Ends it."""
        self._process.close()


def measure_calls(
    settings: CallsSettings, keep: Callable[[Run], None], tick: Callable[[Cell, str, Window], None]
) -> Run:
    """Measures every cell.

    Args:
        settings: what and for how long.
        keep: gets the run before its first window; it fills while it is measured.
        tick: called after each window.

    Raises:
        ServerFailed: a server did not start.
        CallsFailed: the load generator ended.
    """
    placed = cores(settings.pin)
    settings = replace(settings, awake=settings.awake and bool(placed["load"]))
    run = Run(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(settings) | {"cores": placed},
        machine=machine.machine(),
        versions=machine.versions(_PACKAGES),
        commit=machine.commit(),
    )
    keep(run)
    load = Load(placed["load"])
    try:
        for server_type in settings.server_types:
            cells = [Measured(cell) for cell in settings.cells(server_type)]
            run.cells += cells
            for number in range(settings.rounds):
                with servers(server_type, settings, placed["servers"]) as running:
                    in_turn = [*running.items()]
                    if number % 2:  # whoever is first has the machine just after the servers' start
                        in_turn.reverse()
                    _measure_round(cells, in_turn, load, settings, tick)
    finally:
        load.close()
    return run


def _measure_round(
    cells: list[Measured],
    running: list[tuple[str, ServerProcess]],
    load: Load,
    settings: CallsSettings,
    tick: Callable[[Cell, str, Window], None],
) -> None:
    limits = (settings.seconds, settings.min_calls, settings.awake)
    for measured in cells:
        cell = measured.cell
        for side, server in running:
            window = load.measure(Order(server.port, server.pid, cell.payload, cell.connections, *limits))
            measured.windows(side).append(window)
            tick(cell, side, window)


@contextmanager
def servers(server_type: str, settings: CallsSettings, on_cores: str) -> Iterator[dict[str, ServerProcess]]:
    """Both servers of a type, ready; ended with all their processes afterwards."""
    flags = [server_type, "--workers", str(settings.workers), "--threads", str(settings.threads)]
    if on_cores:
        flags += ["--cores", on_cores]
    with ExitStack() as stack:
        running = {}
        for side in SIDES:
            command = [sys.executable, "-m", _HOSTS[side]]
            server = ServerProcess(flags, command=command, ready_timeout_s=_READY_TIMEOUT_S)
            running[side] = stack.enter_context(server)
            stack.callback(process_tree.stop, server.pid, _STOP_PATIENCE_S)
        yield running

"""`swaps`: versions of a model that change under load: what clients notice, and whether the memory comes back.

settings  -->  versions built  -->  each server type: measure_load | measure_memory  -->  SwapsRun
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from thriftserve_bench.benchmark import Bar, Benchmark, given_numbers
from thriftserve_bench.benchmarks.swaps.memory import MemorySettings, measure_memory
from thriftserve_bench.benchmarks.swaps.under_load import LoadSettings, measure_load
from thriftserve_bench.records.swaps import SwapsRun
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.workloads import versions

_LOAD, _MEMORY = LoadSettings(), MemorySettings()
_QUICK_LOAD = replace(_LOAD, clients=4, seconds=6.0, rounds=1)
_QUICK_MEMORY = replace(_MEMORY, samples=(3, 10))
_PACKAGES = ("thriftserve", "thrift", "tensorflow", "tensorflow-cpu", "numpy")


@dataclass(frozen=True)
class SwapsSettings:
    """What `swaps` measures: load, or memory."""

    server_types: tuple[str, ...]
    load: LoadSettings
    memory: MemorySettings
    is_memory: bool


class SwapsBenchmark(Benchmark[SwapsSettings, SwapsRun]):
    """The command `swaps`.

    Args:
        show: prints the table of a run.
        faults: says what must not happen and did: failed requests, wrong answers.
    """

    name = "swaps"
    help = "model versions that change under load: failures, latency, memory"
    description = """\
Versions of a model that change while clients call: each swap is a new directory below the base path, as an operator
puts it there. Closed loops of real clients, each a process of its own, continue during swaps; they are compared with
the same load without swaps, in turns with it on the same server. Every version has answers of its own: each answer
is checked against the version that it names, and that version against the time in which the server had it.
Requests that fail or are answered wrongly make the exit code 1.

With --memory the memory is measured: the whole process tree after 5 swaps and after 100.
"""
    epilog = """\
a first look (half a minute):     thriftserve-bench swaps --quick
one type, longer, more swaps:     thriftserve-bench swaps --server-type TBatchingServer --seconds 300 --every 1
does the memory come back:        thriftserve-bench swaps --memory
why a swap went wrong:            thriftserve-bench swaps --server-type TForkingServer --logs /tmp/logs
the table of an earlier run:      thriftserve-bench report swaps.json --markdown

TSimpleServer serves one connection at a time and has one client. For p99 there is a target for types with several
workers, TBatchingServer and TProcessPoolServer; the other types have one worker at a time, and failed requests count.
"""
    file = "swaps.json"

    def __init__(self, show: Callable[[SwapsRun, Console], None], faults: Callable[[SwapsRun], list[str]]) -> None:
        super().__init__(show)
        self._faults = faults

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        types = " and ".join(WITH_WORKERS)
        add(
            "--server-type",
            action="append",
            choices=SERVER_TYPES,
            help=f"only this one; may be given several times (all; with --memory {types})",
        )
        add("--clients", type=int, metavar="N", help=f"closed loops side by side ({_LOAD.clients})")
        add("--seconds", type=float, metavar="S", help=f"of load with swaps, and as much without ({_LOAD.seconds:g})")
        add("--every", type=float, metavar="S", help=f"from one new version to the next ({_LOAD.every_s:g})")
        add("--rounds", type=int, metavar="N", help=f"parts of both, measured in turns ({_LOAD.rounds})")
        add("--workers", type=int, metavar="N", help=f"of {types} (the server's own choice)")
        add("--memory", action="store_true", help="swap as fast as possible, and measure memory instead of latency")
        add("--swaps", type=int, metavar="N", help=f"with --memory: how many ({_MEMORY.swaps})")
        add("--quick", action="store_true", help="6 s, 3 versions, two types; with --memory 10 swaps: to try it")
        add("--logs", type=Path, metavar="DIR", help="leave the servers' logs there")

    def settings(self, flags: argparse.Namespace) -> SwapsSettings:
        return settings_of(flags)

    def begin(self, settings: SwapsSettings) -> SwapsRun:
        return SwapsRun.begin({"load": asdict(settings.load), "memory": asdict(settings.memory)}, _PACKAGES)

    def measure(self, settings: SwapsSettings, run: SwapsRun, flags: argparse.Namespace, bar: Bar) -> None:
        load, memory = settings.load, settings.memory
        each = memory.swaps if settings.is_memory else load.total_s
        bar.expect(each * len(settings.server_types))
        with tempfile.TemporaryDirectory(prefix="thriftserve-swaps-") as scratch:
            store, logs = Path(scratch) / "store", flags.logs or Path(scratch) / "logs"
            bar.say("building the versions")
            versions.make(store, 1 + (memory.swaps if settings.is_memory else load.swaps))
            for number, server_type in enumerate(settings.server_types):

                def reach(text: str, done: float, before: float = number * each) -> None:
                    bar.reach(before + min(done, each), text)

                if settings.is_memory:
                    run.memory.append(measure_memory(server_type, memory, store, logs, reach))
                else:
                    run.loads.append(measure_load(server_type, load, store, logs, reach))

    def measured(self, run: SwapsRun) -> bool:
        return bool(run.loads or run.memory)

    def exit_code(self, run: SwapsRun) -> int:
        """Return 1 if a request failed or was answered wrongly."""
        return int(bool(self._faults(run)))


def settings_of(flags: argparse.Namespace) -> SwapsSettings:
    """Return the settings that the flags ask for.

    Raises:
        ValueError: a number is of no use, or flags contradict each other; the message names the flag.
    """
    given = given_numbers(flags, ("clients", "seconds", "every", "rounds", "workers", "swaps"))
    swaps, workers = given.pop("swaps", None), given.pop("workers", None)
    if swaps is not None and not flags.memory:
        raise ValueError("--swaps goes with --memory; how many there are under load follows from --seconds and --every")
    load, memory = (_QUICK_LOAD, _QUICK_MEMORY) if flags.quick else (_LOAD, _MEMORY)
    if "every" in given:
        given["every_s"] = given.pop("every")
    load = replace(load, workers=workers, **given)
    if load.seconds / load.rounds < load.every_s:
        raise ValueError(
            f"--seconds {load.seconds:g} in --rounds {load.rounds} leaves no room for a swap --every {load.every_s:g}"
        )
    if swaps is not None:
        first = min(_MEMORY.samples[0], max(1, swaps // 2))
        memory = replace(memory, samples=tuple(sorted({first, swaps})))
    types = dict.fromkeys(flags.server_type or ())
    default = reversed(WITH_WORKERS if flags.memory or flags.quick else SERVER_TYPES)
    return SwapsSettings(tuple(types or default), load, replace(memory, workers=workers), flags.memory)

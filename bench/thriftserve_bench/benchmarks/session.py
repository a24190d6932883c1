"""`session`: calls of a model's session, numpy in to numpy out, without a server.

half_plus_two  -->  session_probe, a process of its own  -->  SessionRun: ours beside TensorFlow's own APIs
mobilenet_v2   -->  session_probe, a process a question  -->  FrozenRun: as loaded beside the same frozen
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from thriftserve_bench.benchmark import fail
from thriftserve_bench.processes import ProgramFailed, run_module
from thriftserve_bench.run_file import Run
from thriftserve_bench.stats import quantile

OURS = "ours"
#: A call of ours is to take less than this.
TARGET_US = 30.0
_PACKAGES = ("thriftserve", "tensorflow", "tensorflow-cpu", "numpy")
_PROBE = "thriftserve_bench.servers.session_probe"
_FROZEN_WINDOWS, _FROZEN_WINDOW_S = 3, 1.0

_DESCRIPTION = """\
Times one call of half_plus_two at batch 1, numpy in to numpy out, on the CPU: the session that the
server runs, the eager signature of tf.saved_model.load, and Session.run. All in one process and in
turns. Needs TensorFlow; takes about 15 seconds.

With --frozen: MobileNetV2 as loaded beside the same with its variables frozen into constants, at batch 1 to 8
with one and two callers; takes about 80 seconds.
"""


@dataclass
class SessionRun(Run):
    """A run of `session`."""

    FORMAT: ClassVar[str] = "thriftserve-bench session 1"

    #: By API: pairs of tenths of a microsecond and the number of calls that took them, ascending.
    tenths_us: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the figures, a line for each API, and whether the target is met."""
        medians = {api: quantile(counted, 0.5) / 10 for api, counted in self.tenths_us.items()}
        p99s = {api: quantile(counted, 0.99) / 10 for api, counted in self.tenths_us.items()}
        ours = medians[OURS]
        rows = [
            f"{api:<16} median {median:7.1f} us   p99 {p99s[api]:7.1f} us   {median / ours:5.1f} x ours"
            for api, median in medians.items()
        ]
        return [*rows, f"target: ours below {TARGET_US:g} us: {'met' if ours < TARGET_US else 'missed'}"]


@dataclass
class FrozenRun(Run):
    """A run of `session --frozen`: rows a second of each window, and what loading cost."""

    FORMAT: ClassVar[str] = "thriftserve-bench frozen 1"

    #: "loaded 4 rows 2 callers" -> one rate a window.
    rates: dict[str, list[float]] = field(default_factory=dict)
    #: "loaded", "frozen" -> seconds and MiB, of processes of their own.
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the medians, a line for each number of rows and callers, then the costs."""
        medians = {cell: statistics.median(windows) for cell, windows in self.rates.items()}
        lines = ["rows  callers  as loaded  frozen    (rows/s)"]
        for cell in (cell.removeprefix("loaded ") for cell in medians if cell.startswith("loaded")):
            rows, _, callers, _ = cell.split()
            loaded, frozen = medians[f"loaded {cell}"], medians[f"frozen {cell}"]
            lines.append(f"{rows:>4}  {callers:>7}  {loaded:9.0f}  {frozen:6.0f}    {frozen / loaded:.2f} x")
        for way, cost in self.costs.items():
            lines.append(f"{way}: loads in {cost['seconds']} s, {cost['added_mib']} MiB (peak {cost['peak_mib']})")
        return lines


def measure_session(calls: int) -> SessionRun:
    """Build half_plus_two and time its calls.

    Raises:
        ProgramFailed: TensorFlow is missing, or a call failed.
    """
    run = SessionRun.begin({"calls": calls}, _PACKAGES)
    times = _probe("half_plus_two", f"--calls {calls}")[0]
    run.tenths_us = {
        api: sorted(Counter(time_ns // 100 for time_ns in times_ns).items()) for api, times_ns in times.items()
    }
    return run


def measure_frozen() -> FrozenRun:
    """Build MobileNetV2 and measure it as loaded and frozen.

    Raises:
        ProgramFailed: TensorFlow is missing, or a call failed.
    """
    run = FrozenRun.begin({"windows": _FROZEN_WINDOWS, "seconds": _FROZEN_WINDOW_S}, _PACKAGES)
    rates = f"--frozen --windows {_FROZEN_WINDOWS} --seconds {_FROZEN_WINDOW_S:g}"
    loaded, frozen, run.rates = _probe("mobilenet_v2", "--cost loaded", "--cost frozen", rates)
    run.costs = {"loaded": loaded, "frozen": frozen}
    return run


def _probe(model: str, *flags: str) -> list[Any]:
    """Build a model, and return what the probe prints for each set of flags."""
    with tempfile.TemporaryDirectory() as directory:
        version = run_module("thriftserve_bench.workloads.builders", model, directory).strip() + "/1"
        return [json.loads(run_module(_PROBE, version, *words.split())) for words in flags]


def add_to(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "session",
        help="one session call beside TensorFlow's own APIs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--calls", type=int, default=5000, help="through each API (5000)")
    add("--out", type=Path, default=Path("session.json"), metavar="FILE", help="raw results (session.json)")
    add("--frozen", action="store_true", help="a model as loaded beside the same frozen")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Measure, write and show; return 1 if it could not be measured."""
    if flags.calls <= 0:
        fail(f"--calls is {flags.calls}: it must be above 0")
        return 2
    print(f"building {'mobilenet_v2' if flags.frozen else 'half_plus_two'} and calling it …", file=sys.stderr)
    try:
        measured: SessionRun | FrozenRun = measure_frozen() if flags.frozen else measure_session(flags.calls)
    except ProgramFailed as error:
        fail(error)
        return 1
    measured.save(flags.out)
    print("\n".join(measured.lines()))
    print(f"raw results: {flags.out}", file=sys.stderr)
    return 0

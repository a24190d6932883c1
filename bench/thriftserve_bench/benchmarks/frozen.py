"""MobileNetV2 with variables as loaded beside the same with constants: rates, load time, memory.

mobilenet_v2  -->  session_probe, a process for each question  -->  FrozenRun  -->  FILE.json, lines for the terminal
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thriftserve_bench import machine
from thriftserve_bench.benchmarks.session import PACKAGES, run_python

FORMAT = "thriftserve-bench frozen 1"
_PROBE = "thriftserve_bench.servers.session_probe"
_WAYS = ("loaded", "frozen")


@dataclass
class FrozenRun:
    """A run: rows a second of each window, and what loading cost."""

    began: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    #: "loaded 4 rows 2 callers" -> one rate a window.
    rates: dict[str, list[float]]
    #: "loaded", "frozen" -> seconds and MiB, of processes of their own.
    costs: dict[str, dict[str, float]]
    format: str = FORMAT

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """The medians, a line for each number of rows and callers, then the costs."""
        medians = {cell: statistics.median(windows) for cell, windows in self.rates.items()}
        lines = ["rows  callers  as loaded  frozen    (rows/s)"]
        for cell in (cell.removeprefix("loaded ") for cell in medians if cell.startswith("loaded")):
            rows, _, callers, _ = cell.split()
            loaded, frozen = medians[f"loaded {cell}"], medians[f"frozen {cell}"]
            lines.append(f"{rows:>4}  {callers:>7}  {loaded:9.0f}  {frozen:6.0f}    {frozen / loaded:.2f} x")
        for way, cost in self.costs.items():
            lines.append(f"{way}: loads in {cost['seconds']} s, {cost['added_mib']} MiB (peak {cost['peak_mib']})")
        return lines


def measure_frozen(windows: int, seconds: float) -> FrozenRun:
    """Builds the model and measures it, some 30 s and 16 windows of each way.

    Raises:
        SessionFailed: it could not be done.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    told = machine.describe()
    with tempfile.TemporaryDirectory() as place:
        version = run_python("thriftserve_bench.workloads.builders", "mobilenet_v2", place).strip() + "/1"
        costs = {way: json.loads(run_python(_PROBE, version, "--cost", way)) for way in _WAYS}
        asked = ("--frozen", "--windows", str(windows), "--seconds", str(seconds))
        rates = json.loads(run_python(_PROBE, version, *asked))
    return FrozenRun(began, told, machine.versions(PACKAGES), machine.commit(), rates, costs)

"""One call of a tiny model's session, beside TensorFlow's own doors to it.

half_plus_two  -->  session_probe, a process of its own  -->  SessionRun  -->  FILE.json, lines for the terminal
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thriftserve_bench import machine
from thriftserve_bench.stats import quantile

FORMAT = "thriftserve-bench session 1"
OURS = "ours"
#: A call of ours is to take less than this.
TARGET_US = 30.0
PACKAGES = ("thriftserve", "tensorflow", "tensorflow-cpu", "numpy")
_TIMEOUT_S = 300.0


class SessionFailed(Exception):
    """The model could not be built or called; the message ends in the last lines of what was said."""


@dataclass
class SessionRun:
    """A run: for each door its calls, counted by their tenths of a microsecond, ascending."""

    began: str
    calls: int
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    tenths_us: dict[str, list[tuple[int, int]]]
    format: str = FORMAT

    def median_us(self, door: str) -> float:
        """Microseconds of the median call."""
        return quantile(self.tenths_us[door], 0.5) / 10

    def p99_us(self, door: str) -> float:
        """Microseconds that one call in a hundred exceeds."""
        return quantile(self.tenths_us[door], 0.99) / 10

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """The figures, a line for each door, and whether the target is met."""
        ours = self.median_us(OURS)
        rows = [
            f"{door:<16} median {self.median_us(door):7.1f} us   p99 {self.p99_us(door):7.1f} us"
            f"   {self.median_us(door) / ours:5.1f} x ours"
            for door in self.tenths_us
        ]
        met = "met" if ours < TARGET_US else "missed"
        return [*rows, f"target: ours below {TARGET_US:g} us: {met}"]


def measure_session(calls: int) -> SessionRun:
    """Builds the model and measures it.

    Raises:
        SessionFailed: one of the two could not be done.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    told = machine.describe()
    with tempfile.TemporaryDirectory() as place:
        base_path = run_python("thriftserve_bench.workloads.builders", "half_plus_two", place).strip()
        times = json.loads(
            run_python("thriftserve_bench.servers.session_probe", f"{base_path}/1", "--calls", str(calls))
        )
    counted = {door: sorted(Counter(one // 100 for one in each).items()) for door, each in times.items()}
    return SessionRun(began, calls, told, machine.versions(PACKAGES), machine.commit(), counted)


def run_python(module: str, *arguments: str) -> str:
    """Runs a module of ours in a process of its own, without GPU.

    Raises:
        SessionFailed: it did not end well.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-10:])
        raise SessionFailed(f"{module} ended with {done.returncode}:\n{tail}")
    return done.stdout

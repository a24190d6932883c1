"""`thriftserve model check PATH`: what is wrong with a model, or that nothing is.

PATH          --its files-->  Findings
that or FILE.py:CLASS  --a process that loads and runs it (check_child)-->  Findings  -->  table | JSON, exit code
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thriftserve.errors import ConfigError, ExitCode
from thriftserve.models.session import Signature, describe_shape
from thriftserve.repository import integrity
from thriftserve.repository.versions import is_python, python_source
from thriftserve.tools.record import find_version

_HEAD = ("signature", "", "name", "type", "shape")
_KEYS = ("signature", "side", "name", "dtype", "shape")
#: Of what a process wrote before it died, the last characters that are shown.
_STDERR_TAIL = 400


@dataclass
class Findings:
    """The result of a check. The child process sends it as JSON, so it has nothing but plain values."""

    path: str
    #: What keeps the model from being served, in words.
    faults: list[str] = field(default_factory=list)
    #: What is worth knowing and does not.
    notes: list[str] = field(default_factory=list)
    #: Rows of the table: signature, "in" or "out", name, type, shape.
    tensors: list[list[str]] = field(default_factory=list)
    #: Runs with zeros, or with the model's own example: signature, rows, milliseconds.
    runs: list[tuple[str, int, float]] = field(default_factory=list)
    #: Signatures that ran with the model's own example.
    examples: list[str] = field(default_factory=list)
    load_s: float | None = None

    @property
    def good(self) -> bool:
        """Whether the model can be served."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return the findings for programs, as JSON can hold them."""
        tensors = [dict(zip(_KEYS, row, strict=True)) for row in self.tensors]
        runs = [{"signature": name, "rows": rows, "ms": round(ms, 3)} for name, rows, ms in self.runs]
        return {"good": self.good, **asdict(self), "tensors": tensors, "runs": runs}

    def to_lines(self) -> Iterator[str]:
        """Yield the findings for people, as lines of a terminal."""
        yield self.path
        if self.tensors:
            rows = [_HEAD, *map(tuple, self.tensors)]
            widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
            for row in rows:
                cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
                yield f"  {'  '.join(cells)}".rstrip()
        if self.load_s is not None:
            yield f"  loaded in {self.load_s:.1f} s"
        for name, rows_run, took_ms in self.runs:
            inputs = "its example" if name in self.examples else "zeros"
            yield f"  {name} ran with {rows_run} {'row' if rows_run == 1 else 'rows'} of {inputs} in {took_ms:.1f} ms"
        yield from (f"  note: {note}" for note in self.notes)
        yield from (f"  fault: {fault}" for fault in self.faults)
        yield "  good: it can be served" if self.good else "  it can't be served"

    def add_signatures(self, signatures: Mapping[str, Signature]) -> None:
        """Add the rows of these signatures to the table."""
        for name, signature in signatures.items():
            for side, specs in (("in", signature.inputs), ("out", signature.outputs)):
                self.tensors += [
                    [name, side, key, spec.dtype.name, describe_shape(spec.shape)] for key, spec in specs.items()
                ]


def run(flags: argparse.Namespace) -> int:
    """Check a model and print the findings.

    Returns:
        0, or the exit code of a model that can't be loaded.

    Raises:
        StartError: The path or a flag is wrong.
    """
    if not flags.timeout_s > 0:
        raise ConfigError(f"timeout_s is {flags.timeout_s:g}: it must be above 0")
    if is_python(flags.path):
        findings = load_and_run(python_source(flags.path), flags.timeout_s)
    else:
        findings = check(find_version(flags.path), flags.timeout_s)
    print(json.dumps(findings.to_json(), indent=2) if flags.json else "\n".join(findings.to_lines()))
    return ExitCode.OK if findings.good else ExitCode.MODEL_LOAD


def check(version: Path, timeout_s: float) -> Findings:
    """Return the findings about a version directory; loading and running it may take `timeout_s`."""
    fault = integrity.diagnose(version)
    return Findings(str(version), [fault]) if fault else load_and_run(str(version), timeout_s)


def load_and_run(model: str, timeout_s: float) -> Findings:
    """Return the findings of a process that loads and runs a version directory, or Python code by its source."""
    with tempfile.TemporaryDirectory(prefix="thriftserve-check-") as scratch:
        answer = Path(scratch) / "findings.json"
        command = [sys.executable, "-m", "thriftserve.tools.check_child", model, str(answer)]
        try:
            process = subprocess.run(
                command,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Findings(model, [f"it was not loaded and run within {timeout_s:g} s (--timeout-s)"])
        if not answer.exists() or process.returncode:
            return Findings(model, [explain_exit(process)])
        return Findings(**json.loads(answer.read_text(encoding="utf-8")))


def explain_exit(process: subprocess.CompletedProcess[str]) -> str:
    """Return how a process ended that gave no findings, with the end of what it wrote to stderr."""
    how = f"exit code {process.returncode}"
    if process.returncode < 0:
        how = signal.Signals(-process.returncode).name
    stderr = process.stderr.strip()[-_STDERR_TAIL:]
    return f"the process that loaded it ended with {how}: {stderr or 'it wrote nothing to stderr'}"

"""`thriftserve model check PATH`: what is wrong with a model, or that nothing is.

PATH  --its files' own word-->  --a process that loads and runs it-->  Findings  -->  table | JSON, exit code
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
from thriftserve.files import CorruptFile
from thriftserve.models.signature import Signature, TensorSpec
from thriftserve.repository import integrity
from thriftserve.tools.record import version_of

# What a check of a model found, for people and for programs.

_HEAD = ("signature", "", "name", "type", "shape")
_KEYS = ("signature", "side", "name", "dtype", "shape")


@dataclass
class Findings:
    """What was found. It passes from the process that loads the model as JSON, so it has nothing but plain values."""

    path: str
    #: What keeps it from being served, in words.
    faults: list[str] = field(default_factory=list)
    #: What is worth knowing and does not.
    notes: list[str] = field(default_factory=list)
    #: Rows of the table: signature, "in" or "out", name, type, shape.
    tensors: list[list[str]] = field(default_factory=list)
    #: Runs with zeros: signature, rows, milliseconds.
    runs: list[tuple[str, int, float]] = field(default_factory=list)
    load_s: float | None = None

    @property
    def good(self) -> bool:
        """Whether it can be served."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        tensors = [dict(zip(_KEYS, row, strict=True)) for row in self.tensors]
        runs = [{"signature": name, "rows": rows, "ms": round(ms, 3)} for name, rows, ms in self.runs]
        return {"good": self.good, **asdict(self), "tensors": tensors, "runs": runs}

    def describe(self, signatures: Mapping[str, Signature]) -> None:
        """Notes the signatures."""
        for name, one in signatures.items():
            for side, specs in (("in", one.inputs), ("out", one.outputs)):
                self.tensors += [[name, side, key, spec.dtype.name, shape_text(spec)] for key, spec in specs.items()]


def shape_text(spec: TensorSpec) -> str:
    """A shape for people: a size that may be any is "?"."""
    if spec.shape is None:
        return "any"
    return f"[{', '.join('?' if size is None else str(size) for size in spec.shape)}]"


def lines(found: Findings) -> Iterator[str]:
    """What a terminal shows."""
    yield found.path
    if found.tensors:
        rows = [_HEAD, *map(tuple, found.tensors)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        for row in rows:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            yield f"  {'  '.join(cells)}".rstrip()
    if found.load_s is not None:
        yield f"  loaded in {found.load_s:.1f} s"
    for name, rows_run, took_ms in found.runs:
        yield f"  {name} ran with {rows_run} {'row' if rows_run == 1 else 'rows'} of zeros in {took_ms:.1f} ms"
    yield from (f"  note: {one}" for one in found.notes)
    yield from (f"  fault: {one}" for one in found.faults)
    yield "  good: it can be served" if found.good else "  it can't be served"


#: The end of what a process said before it died, in characters.
_LAST_WORDS = 400


def run(flags: argparse.Namespace) -> int:
    """Checks a model and prints what was found.

    Returns:
        0, or that of a model that can't be loaded.

    Raises:
        StartError: the path or a flag is wrong.
    """
    if not flags.timeout_s > 0:
        raise ConfigError(f"timeout_s is {flags.timeout_s:g}: it must be above 0")
    found = check(version_of(flags.path), flags.timeout_s)
    print(json.dumps(found.as_json(), indent=2) if flags.json else "\n".join(lines(found)))
    return ExitCode.OK if found.good else ExitCode.MODEL_LOAD


def check(version: Path, timeout_s: float) -> Findings:
    """What there is to be found about a version directory."""
    fault = _missing(version)
    if fault:
        return Findings(str(version), [fault])
    with tempfile.TemporaryDirectory(prefix="thriftserve-check-") as scratch:
        answer = Path(scratch) / "findings.json"
        command = [sys.executable, "-m", "thriftserve.tools.check_child", str(version), str(answer)]
        try:
            done = subprocess.run(
                command,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Findings(str(version), [f"it was not loaded and run within {timeout_s:g} s (--timeout-s)"])
        if not answer.exists() or done.returncode:
            return Findings(str(version), [_death(done)])
        return Findings(**json.loads(answer.read_text(encoding="utf-8")))


def _missing(version: Path) -> str | None:
    try:
        return integrity.find_fault(version, integrity.scan(version))
    except (OSError, CorruptFile) as error:
        return str(error)


def _death(done: subprocess.CompletedProcess[str]) -> str:
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    return f"the process that loaded it ended with {how}: {done.stderr.strip()[-_LAST_WORDS:] or 'it said nothing'}"

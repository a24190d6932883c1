"""Python models for tests of what happens when processes fail. They run inside the server.

python:fault_models:Ledger?path=FILE&ms=20   notes each run in a file, so that a test can compare runs with answers
python:fault_models:Crasher                  ends its process, as a crash in native code does
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

Inputs = dict[str, Any]


class Ledger:
    """Answers with its input, `ms` milliseconds later, having written one line for each run."""

    def __init__(self, path: str, ms: str = "0") -> None:
        self._path = path
        self._seconds = int(ms) / 1000

    def predict(self, inputs: Inputs) -> Inputs:
        """Notes the run, then answers; an input `seconds` says how long this one takes."""
        time.sleep(float(inputs["seconds"]) if "seconds" in inputs else self._seconds)
        with open(self._path, "a") as ledger:  # one short write in append mode is whole
            ledger.write("ran\n")
        return {"x": inputs["x"]}


class Crasher:
    """Kills its own process when it is run."""

    def predict(self, inputs: Inputs) -> Inputs:
        """Never answers."""
        os.abort()  # at once, in whatever thread


class CrashesWith:
    """Kills its own process when a run has so many rows: 1 is the warm-up with zeros, more are rehearsed after it."""

    signatures: ClassVar[dict[str, Any]] = {
        "inputs": {"x": ("float32", [None])},
        "outputs": {"x": ("float32", [None])},
    }

    def __init__(self, rows: str) -> None:
        self._rows = int(rows)

    def predict(self, inputs: Inputs) -> Inputs:
        """Answers with its input, where that has fewer rows."""
        if len(inputs["x"]) >= self._rows:
            os.abort()
        return {"x": inputs["x"]}


class CrashesOnLoad:
    """Kills its own process while it is loaded."""

    def load(self) -> None:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGSEGV)

    def predict(self, inputs: Inputs) -> Inputs:
        """Is never called."""
        return inputs


class LoadsWhileThere:
    """Loads only while a file is there."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self) -> None:
        """Fails where the file is gone."""
        if not Path(self._path).exists():
            raise FileNotFoundError(f"{self._path} is gone")

    def predict(self, inputs: Inputs) -> Inputs:
        """Answers with its input."""
        return {"x": inputs["x"]}


class OpensGate:
    """Loads once somebody has opened the other end of a named pipe, and closed it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self) -> None:
        """Waits."""
        with open(self._path) as gate:
            gate.read()

    def predict(self, inputs: Inputs) -> Inputs:
        """Answers with its input."""
        return {"x": inputs["x"]}


class Chatty:
    """Prints so many lines to stdout and to stderr before it answers."""

    def __init__(self, lines: str) -> None:
        self._lines = int(lines)

    def predict(self, inputs: Inputs) -> Inputs:
        """Prints, then answers with its input."""
        for _ in range(self._lines):
            print("a line of a model that is being debugged")
            print("another one", file=sys.stderr)
        return {"x": inputs["x"]}

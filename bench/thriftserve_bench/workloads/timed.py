"""Models that stand for a service's work, each with another way to spend its time.

    "thriftserve_bench.workloads:HoldGil?ms=300"  -->  HoldGil(ms="300").predict(inputs)  -->  {"took_ms": …}

`HoldGil` waits and holds the interpreter lock meanwhile: other threads of its process stand still, as they do
behind Python code that computes, while other processes need no core to go on. So a machine of two cores behaves
like one with a core for every worker. `Spin` computes, and needs its core; `Sleep` releases the lock, as a wait for
a GPU does. A float input "ms" replaces the service time for one call. Nothing here knows of a server.
"""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Timed:
    """A workload of so many milliseconds.

    Args:
        ms: its service time; a string, as a model's options are.
    """

    def __init__(self, ms: str = "300") -> None:
        self._ms = float(ms)
        if not self._ms >= 0:
            raise ValueError(f"ms={ms}: it must be 0 or more")

    def predict(self, inputs: Arrays) -> Arrays:
        """Spend the service time.

        Returns:
            took_ms: float64 scalar, what it really took on the clock.
        """
        ms = float(inputs["ms"]) if "ms" in inputs else self._ms
        began = time.perf_counter()
        if ms > 0:
            self.spend(ms / 1000)
        return {"took_ms": np.asarray((time.perf_counter() - began) * 1000)}

    def spend(self, seconds: float) -> None:
        """Spend so much time, in its own way."""
        raise NotImplementedError


class HoldGil(_Timed):
    """A wait that holds the interpreter lock."""

    def load(self) -> None:
        """Look up the C library's nanosleep: ctypes keeps the lock during a call through a PyDLL."""
        self._nanosleep = ctypes.PyDLL(None).nanosleep
        self._nanosleep.argtypes = (ctypes.POINTER(_Timespec), ctypes.POINTER(_Timespec))

    def spend(self, seconds: float) -> None:
        full_seconds = int(seconds)
        left = _Timespec(full_seconds, int((seconds - full_seconds) * 1e9))
        while self._nanosleep(left, left):  # a signal cut it short: the rest
            pass


class Spin(_Timed):
    """A computation that takes so much CPU time of its thread."""

    def spend(self, seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass


class Sleep(_Timed):
    """A wait without the lock."""

    def spend(self, seconds: float) -> None:
        time.sleep(seconds)


class SavedModel:
    """A SavedModel through TensorFlow's public API, for servers that bring no model code of their own.

    `load` imports TensorFlow; each process's first call reads the model, because a forked process must do that for
    itself.

    Args:
        path: its base path; the highest version directory below it is served.
    """

    def __init__(self, path: str) -> None:
        numbers = sorted(int(directory.name) for directory in Path(path).iterdir() if directory.name.isdigit())
        if not numbers:
            raise ValueError(f"{path} has no version directory")
        self._path = Path(path) / str(numbers[-1])
        self._lock = threading.Lock()
        self._model: Any = None

    def load(self) -> None:
        """Import TensorFlow, and do no more."""
        import tensorflow

        self._tf = tensorflow

    def predict(self, inputs: Arrays) -> Arrays:
        """Run its default signature."""
        with self._lock:
            if self._model is None:
                self._model = self._tf.saved_model.load(str(self._path))
        function = self._model.signatures["serving_default"]
        outputs = function(**{name: self._tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

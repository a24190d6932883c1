"""Models that stand for a service's work, each with another way to spend its time.

    "thriftserve_bench.workloads:HoldGil?ms=300"  -->  HoldGil(ms="300").predict(inputs)  -->  {"took_ms": …}

`HoldGil` waits and holds the interpreter's lock meanwhile: other threads of its process stand still, as they do
behind Python code that computes, while other processes need no core to go on. So a machine of two cores behaves
like one with a core for every worker. `Spin` computes, and needs its core; `Sleep` lets the lock go, as a wait for
a GPU does. A float input "ms" takes the place of the service time, for one call. Nothing here knows of a server.
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
        """Spends the service time.

        Returns:
            took_ms: float64 scalar, what it really took on the clock.
        """
        ms = float(inputs["ms"]) if "ms" in inputs else self._ms
        began = time.perf_counter()
        if ms > 0:
            self.spend(ms / 1000)
        return {"took_ms": np.asarray((time.perf_counter() - began) * 1000)}

    def spend(self, seconds: float) -> None:
        """Spends so much time, in its own way."""
        raise NotImplementedError


class HoldGil(_Timed):
    """Waits, and holds the interpreter's lock meanwhile."""

    def load(self) -> None:
        """Looks the C library's nanosleep up; ctypes keeps the lock during what is called through a PyDLL."""
        self._nanosleep = ctypes.PyDLL(None).nanosleep
        self._nanosleep.argtypes = (ctypes.POINTER(_Timespec), ctypes.POINTER(_Timespec))

    def spend(self, seconds: float) -> None:
        whole = int(seconds)
        left = _Timespec(whole, int((seconds - whole) * 1e9))
        while self._nanosleep(left, left):  # a signal cut it short: the rest
            pass


class Spin(_Timed):
    """Computes for so much CPU time of its thread."""

    def spend(self, seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass


class Sleep(_Timed):
    """Waits without the lock."""

    def spend(self, seconds: float) -> None:
        time.sleep(seconds)


class SavedModel:
    """A SavedModel through TensorFlow's public API, for servers that bring no model code of their own.

    TensorFlow is imported by `load`, the model is read by each process's first call: a forked process may do
    the latter only for itself.

    Args:
        path: its base path; the highest version directory below it is served.
    """

    def __init__(self, path: str) -> None:
        versions = sorted((one for one in Path(path).iterdir() if one.name.isdigit()), key=lambda one: int(one.name))
        if not versions:
            raise ValueError(f"{path} has no version directory")
        self._path = versions[-1]
        self._lock = threading.Lock()
        self._loaded: Any = None

    def load(self) -> None:
        """Imports TensorFlow and no more."""
        import tensorflow

        self._tf = tensorflow

    def predict(self, inputs: Arrays) -> Arrays:
        """Runs its default signature."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._tf.saved_model.load(str(self._path))
        function = self._loaded.signatures["serving_default"]
        answer = function(**{name: self._tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in answer.items()}

"""How far two answers to the same request are apart, and what rounding explains of it.

answer, answer --deviation--> 0: the same bits; 1e-7: rounding of float32; 1: nothing alike; infinite: other integers

A kernel adds up in another order, or is another one, for another number of rows: by itself a request gets an answer
that is rounded otherwise. In runs of the same size it gets the same, whatever the other rows hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from thriftserve.batching.task import Task
from thriftserve.errors import ThriftServeError
from thriftserve.models import sample_inputs
from thriftserve.models.session import Array, Arrays

#: Distance between 1 and the next float, by bytes of an element; bfloat16's for two bytes, which is the larger one.
_STEP = {1: 2.0**-3, 2: 2.0**-7, 4: 2.0**-23, 8: 2.0**-52}
#: Part of a difference that a change of a request's own inputs by rounding must make, for that to explain it.
_EXPLAINS = 1 / 8
#: Changes that are tried.
_NUDGES = 3

RunAlone = Callable[[Task], Arrays]


def step(array: Array) -> float:
    """Return the relative rounding of an array's type; 0 if it has no floats."""
    if array.dtype.kind == "c":
        return _STEP[array.dtype.itemsize // 2]
    return _STEP.get(array.dtype.itemsize, 0.0) if array.dtype.kind in "fV" else 0.0


def deviation(array: Array, other: Array) -> float:
    """Return the largest difference of two arrays, as a part of the largest element.

    Infinite if they differ in type, shape, in what is not a float, or in where infinities and NaN are.
    """
    if array.dtype != other.dtype or array.shape != other.shape:
        return math.inf
    if array.dtype.kind not in "fcV":
        return 0.0 if np.array_equal(array, other) else math.inf
    wide: Any = np.complex128 if array.dtype.kind == "c" else np.float64
    a, b = array.astype(wide), other.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return math.inf
    a, b = a[finite], b[finite]
    apart = float(np.abs(a - b).max(initial=0.0))
    return apart / float(np.abs(a).max()) if apart and np.abs(a).max() else (math.inf if apart else 0.0)


def unstable(task: Task, name: str, alone: Arrays, apart: float, rounding: float, run_alone: RunAlone) -> bool:
    """Return whether rounding a task's own inputs changes an output about as much: then a deviation shows nothing.

    Args:
        name: of the output.
        alone: the task's outputs by itself.
        apart: the deviation seen.
        rounding: what the model is known to round answers by; inputs are moved by as much.
    """
    for seed in range(_NUDGES):
        moved = sample_inputs.nudge(task.arrays, rounding, seed)
        if moved is None:
            return False
        try:
            nudged = run_alone(task.with_arrays(moved))
        except ThriftServeError:
            return True
        if deviation(alone[name], nudged[name]) >= apart * _EXPLAINS:
            return True
    return False

"""The verdict on a signature: outputs that depend on no other row, what padding adds, and how far answers are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class Cut(NamedTuple):
    """An axis of an output that has the size of an axis of an input."""

    axis: int
    input: str
    input_axis: int


@dataclass(frozen=True)
class Verdict:
    """What is known of a signature of a loaded version."""

    #: By output: why requests for it must not share a run; empty: it was shown that they may.
    outputs: Mapping[str, str]
    #: Most rows of a run for which it was shown.
    rows: int
    #: True where an answer was seen to depend on other rows, False where nothing could be shown.
    dependent: bool = False
    #: Rows tried, and seconds that it took.
    tried: int = 0
    took_s: float = 0.0
    #: By output: how far an answer alone and one beside others are apart by rounding, as `deviation` says it.
    rounding: Mapping[str, float] = field(default_factory=dict)
    #: Why requests of different inner sizes must not share a run; empty: they may.
    unpadded: str = "never tried"
    #: By output: axes that are cut back to the request's own size.
    cuts: Mapping[str, Sequence[Cut]] = field(default_factory=dict)

    def why_not(self, outputs: Iterable[str]) -> str:
        """Return why requests for these outputs must not share a run; empty if they may."""
        return next((why for name in outputs if (why := self.outputs.get(name, "never tried"))), "")


class NotByRows(Exception):
    """An output of a run has another leading size than its inputs."""

    def __init__(self, output: str, fault: str) -> None:
        super().__init__(fault)
        self.output = output


def find_cuts(answered: Sequence[tuple[Task, Arrays]]) -> dict[str, tuple[Cut, ...]] | None:
    """Return the axes of each output that have the size of an input's axis each time; None if one follows none."""
    cuts: dict[str, tuple[Cut, ...]] = {}
    for name in answered[0][1]:
        shapes = [outputs[name].shape for _, outputs in answered]
        if len({len(shape) for shape in shapes}) > 1:
            return None
        axes: list[Cut] = []
        for axis in range(1, len(shapes[0])):
            if len({shape[axis] for shape in shapes}) == 1:
                continue
            source = _source(answered, name, axis)
            if source is None:
                return None
            axes.append(source)
        cuts[name] = tuple(axes)
    return cuts


def _source(answered: Sequence[tuple[Task, Arrays]], name: str, axis: int) -> Cut | None:
    for key, array in answered[0][0].arrays.items():
        for at in range(1, array.ndim):
            if all(task.arrays[key].shape[at] == outputs[name].shape[axis] for task, outputs in answered):
                return Cut(axis, key, at)
    return None


def cut_back(array: Array, cuts: Sequence[Cut], task: Task) -> Array:
    """Return an output of a padded run, cut to what the task's own inputs make of it."""
    for axis, name, input_axis in cuts:
        size = task.arrays[name].shape[input_axis]
        array = array[(slice(None),) * axis + (slice(size),)]
    return array

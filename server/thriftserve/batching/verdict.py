"""The verdict on a signature: which outputs don't depend on other rows, and what padding adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from thriftserve.batching.task import Task
from thriftserve.models.session import Array, Arrays


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

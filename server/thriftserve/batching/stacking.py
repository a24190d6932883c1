"""Arrays of several jobs as those of one run, and back.

    arrays of each job [n, …] --stacked--> arrays of the run [sum of n, and padding, …] --run--> outputs of as many rows

The padding repeats the last row: a row that the model has already taken can't make a run fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from thriftserve.batching.job import Job
from thriftserve.models.session import Array


def stacked(jobs: Sequence[Job], size: int, variable: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """The arrays of a run.

    Args:
        jobs: of one lane, at least one.
        size: the leading size to pad to; no less than the jobs' rows.
        variable: for each input, axes whose sizes may differ; they are padded at their end to the longest.
    """
    rows = sum(job.rows for job in jobs)
    return {
        name: _joined([job.arrays[name] for job in jobs], size - rows, variable.get(name)) for name in jobs[0].arrays
    }


def part(arrays: Mapping[str, Array], start: int, end: int, size: int) -> dict[str, Array]:
    """Rows `start` to `end` of a single job's arrays, padded to `size` rows."""
    padding = size - (end - start)
    return {name: _joined([array[start:end]], padding, None) for name, array in arrays.items()}


class Misfit(NamedTuple):
    """An output that can't be split by rows."""

    output: str
    fault: str


def misfit(outputs: Mapping[str, Array], size: int) -> Misfit | None:
    """What keeps the outputs of a run of `size` rows from being split by rows; None where nothing does."""
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != size:
            return Misfit(name, f"output {name!r} has the shape {list(array.shape)} for {size} rows")
    return None


def _joined(arrays: list[Array], padding: int, variable: Sequence[int] | None) -> Array:
    if variable and len({array.shape[1:] for array in arrays}) > 1:
        arrays = _of_one_shape(arrays)
    if padding:
        last = arrays[-1][-1:]
        arrays = [*arrays, np.repeat(last, padding, axis=0)]
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _of_one_shape(arrays: Sequence[Array]) -> list[Array]:
    """The arrays with their inner sizes padded to the largest, by zeros or empty strings."""
    inner = tuple(map(max, zip(*(array.shape[1:] for array in arrays), strict=True)))
    return [array if array.shape[1:] == inner else _widened(array, inner) for array in arrays]


def _widened(array: Array, inner: tuple[int, ...]) -> Array:
    fill = b"" if array.dtype == object else 0
    wide = np.full((array.shape[0], *inner), fill, array.dtype)
    wide[tuple(map(slice, array.shape))] = array
    return wide

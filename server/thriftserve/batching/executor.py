"""The runs of one lane's jobs: alone, together, in parts; every job gets an answer of its own.

    jobs of a lane --> expired ones answered --> one session call --> rows of the outputs, a job each
                                                        `--> failed: each job by itself, so that each gets its own error

Most runs at once in the process are bounded here, here every run is timed, and here some of those that were merged
are checked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from thriftserve.batching.group import BatchGroup
from thriftserve.batching.hint import UsageTracker
from thriftserve.batching.job import Task, TaskOutcome, TaskResult
from thriftserve.batching.spot_check import Fault
from thriftserve.batching.verdict import Cut, NotByRows, cut_back
from thriftserve.models.session import Array, Arrays

# Arrays of several jobs as those of one run, and back.


def stacked(jobs: Sequence[Task], size: int, variable: Mapping[str, Sequence[int]]) -> dict[str, Array]:
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


class BatchExecutor:
    """Runs jobs; any thread may.

    Args:
        slots: session runs at once; None: any number.
        usage: told of each lane that had a run.
        stop: told of a job whose answer was found to be wrong because it had shared a run.
    """

    def __init__(self, slots: int | None, usage: UsageTracker, stop: Callable[[Task, Fault], None]) -> None:
        self._slot: AbstractContextManager[Any] = threading.Semaphore(slots) if slots else contextlib.nullcontext()
        self._bounded = slots is not None
        self._usage = usage
        self._stop = stop

    def straight(self, job: Task) -> TaskResult:
        """A job on its own arrays, whatever its lane may be.

        Raises:
            DeadlineExceeded: its time is over; the session was not called.
            InvalidArgument: the model refused the inputs.
            Internal: the model failed.
        """
        if not self._bounded:
            return run_one(job)
        with self._slot:
            return run_one(job)

    def together(self, lane: BatchGroup, jobs: Sequence[Task]) -> list[TaskOutcome]:
        """Jobs that fit into one run of their lane, in their order; a single one may be larger than a run."""
        if len(jobs) == 1:
            return [self._answer(lane, jobs[0])]
        if lane.sharing.each:
            return self._each(lane, jobs)
        return self._merged(lane, jobs)

    def alone(self, lane: BatchGroup, job: Task) -> TaskResult:
        """A job in a run of its own, or in several where it has more rows than a run takes; raises as `straight`."""
        sharing = lane.sharing
        if sharing.part is not None and job.rows and (job.rows > sharing.part or sharing.allowed):
            done = self._in_parts(lane, job, sharing.part)
            if done is not None:
                return done
        done = self.straight(job)
        self._count(lane, 1, done.batch_size, done.compute_us)
        return done

    def _answer(self, lane: BatchGroup, job: Task) -> TaskOutcome:
        try:
            return self.alone(lane, job)
        except Exception as error:
            return error

    def _merged(self, lane: BatchGroup, jobs: Sequence[Task]) -> list[TaskOutcome]:
        now = time.monotonic()
        if _any_late(jobs, now):
            return self._in_time(lane, jobs, now)
        rows = sum([job.rows for job in jobs])
        size = lane.sharing.padded_rows(rows)
        inputs = stacked(jobs, size, lane.sharing.padded)
        first = jobs[0]
        try:
            with self._slot:
                began = time.monotonic()
                if self._bounded and _any_late(jobs, began):  # while they waited for a slot
                    raise _Late(began)
                outputs = first.servable.session.run(first.signature.name, inputs, first.wanted)
                us = int((time.monotonic() - began) * 1e6)
        except _Late as late:
            return self._in_time(lane, jobs, late.now)
        except Exception:
            # Whose fault it is the run doesn't tell; by itself, each job gets its own error or its answer.
            return self._one_by_one(lane, jobs)
        if misfitting := misfit(outputs, size):
            lane.sharing.not_rowwise(misfitting.fault)
            return self._one_by_one(lane, jobs)
        self._count(lane, len(jobs), rows, us)
        parts = split(outputs, jobs, lane.sharing.cuts)
        return self._checked(lane, jobs, [TaskResult(one, began, us, rows) for one in parts])

    def _each(self, lane: BatchGroup, jobs: Sequence[Task]) -> list[TaskOutcome]:
        """A Python model's `predict_batch` on what each job sent."""
        try:
            with self._slot:
                began = time.monotonic()
                if _any_late(jobs, began):
                    raise _Late(began)
                outputs = run_each(jobs)
                us = int((time.monotonic() - began) * 1e6)
        except _Late as late:
            return self._in_time(lane, jobs, late.now)
        except Exception:
            return self._one_by_one(lane, jobs)
        rows = sum(lane.sharing.counted(job) for job in jobs)
        self._count(lane, len(jobs), rows, us)
        return self._checked(lane, jobs, [TaskResult(one, began, us, rows) for one in outputs])

    def _one_by_one(self, lane: BatchGroup, jobs: Sequence[Task]) -> list[TaskOutcome]:
        return [self._answer(lane, job) for job in jobs]

    def _checked(self, lane: BatchGroup, jobs: Sequence[Task], answers: list[TaskOutcome]) -> list[TaskOutcome]:
        """The answers of a merged run; those of runs by themselves where a check shows that it should not have been."""
        check = lane.sharing.check
        done = answers[0]
        assert isinstance(done, TaskResult)
        place = check.due(done.compute_us, len(jobs)) if check is not None else None
        if check is None or place is None:
            return answers
        job, merged = jobs[place], answers[place]
        assert isinstance(merged, TaskResult)
        with self._slot:
            found = check.fault(job, merged.outputs, run_alone)
        if found is None:
            return answers
        self._stop(job, found)
        return self._one_by_one(lane, jobs)

    def _in_time(self, lane: BatchGroup, jobs: Sequence[Task], now: float) -> list[TaskOutcome]:
        """The answers where some jobs are late: those are not run, the others are."""
        late = [_late(job, now) for job in jobs]
        live = [job for job, is_late in zip(jobs, late, strict=True) if not is_late]
        answers = iter(self.together(lane, live) if live else [])
        return [
            job.deadline.exceeded(now) if is_late else next(answers) for job, is_late in zip(jobs, late, strict=True)
        ]

    def _in_parts(self, lane: BatchGroup, job: Task, most: int) -> TaskResult | None:
        """A job in runs of at most `most` rows, each padded; None where its outputs turn out not to go by rows."""
        parts: list[dict[str, Array]] = []
        first, us = 0.0, 0
        for start in range(0, job.rows, most):
            rows = min(most, job.rows - start)
            size = lane.sharing.padded_rows(rows)
            inputs = part(job.arrays, start, start + rows, size)
            done = self.straight(Task(job.servable, job.signature, inputs, job.wanted, job.deadline, rows))
            if misfitting := misfit(done.outputs, size):
                lane.sharing.not_rowwise(misfitting.fault)
                return None
            self._count(lane, 0 if start else 1, rows, done.compute_us)
            parts.append({name: array[:rows] for name, array in done.outputs.items()})
            first, us = first or done.began, us + done.compute_us
        if len(parts) == 1:
            return TaskResult(parts[0], first, us, job.rows)
        outputs = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        return TaskResult(outputs, first, us, min(most, job.rows))

    def _count(self, lane: BatchGroup, jobs: int, rows: int, us: int) -> None:
        lane.add(jobs, rows, us)
        self._usage.add(lane)


class _Late(Exception):
    """A job's time was over when its run would have begun, at `now`."""

    def __init__(self, now: float) -> None:
        self.now = now


def run_one(job: Task) -> TaskResult:
    """A job on its own arrays; raises as `Runs.straight`."""
    began = job.deadline.check()
    outputs = job.servable.session.run(job.signature.name, job.arrays, job.wanted)
    return TaskResult(outputs, began, int((time.monotonic() - began) * 1e6), job.rows)


def _late(job: Task, now: float) -> bool:
    expires = job.deadline.expires
    return expires is not None and now > expires


def _any_late(jobs: Sequence[Task], now: float) -> bool:
    for job in jobs:
        expires = job.deadline.expires
        if expires is not None and now > expires:
            return True
    return False


def run_alone(job: Task) -> Arrays:
    """The outputs of a job on its own arrays, whatever its deadline."""
    return job.servable.session.run(job.signature.name, job.arrays, job.wanted)


def run_each(jobs: Sequence[Task]) -> list[dict[str, Array]]:
    """The outputs of jobs by one call of their Python model's batch method."""
    first = jobs[0]
    return first.servable.session.run_each(first.signature.name, [job.arrays for job in jobs], first.wanted)


def run_stacked(
    jobs: Sequence[Task], size: int, padded: Mapping[str, Sequence[int]], cuts: Mapping[str, Sequence[Cut]]
) -> list[dict[str, Array]]:
    """The outputs of jobs by one run of their rows, padded to `size`; each job's own.

    Raises:
        NotByRows: an output has another leading size.
        ThriftServeError: the run failed.
    """
    first = jobs[0]
    outputs = first.servable.session.run(first.signature.name, stacked(jobs, size, padded), first.wanted)
    if misfitting := misfit(outputs, size):
        raise NotByRows(*misfitting)
    return split(outputs, jobs, cuts)


def split(outputs: Arrays, jobs: Sequence[Task], cuts: Mapping[str, Sequence[Cut]]) -> list[dict[str, Array]]:
    """Each job's own rows of the outputs, as views, without what padding added to their inner sizes."""
    parts: list[dict[str, Array]] = []
    start = 0
    for job in jobs:
        end = start + job.rows
        part = {name: array[start:end] for name, array in outputs.items()}
        for name, axes in cuts.items():
            if axes and name in part:
                part[name] = cut_back(part[name], axes, job)
        parts.append(part)
        start = end
    return parts

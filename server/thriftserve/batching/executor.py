"""The runs of one batch group's tasks: alone, together, in parts; every task gets a result of its own.

    tasks of a group --> late ones get an error --> one session call --> each task's rows of the outputs
                                                    `--> failed: each task by itself, so that each gets its own error

Here the runs at once in the process are bounded, every run is timed, and some of the merged ones are checked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from thriftserve.batching.group import BatchGroup, UsageTracker
from thriftserve.batching.spot_check import Fault
from thriftserve.batching.task import Task, TaskOutcome, TaskResult
from thriftserve.batching.verdict import Cut, NotByRows, cut_back
from thriftserve.models.session import Array, Arrays


def stacked(tasks: Sequence[Task], size: int, variable: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Return the arrays of a run.

    Args:
        tasks: of one group, at least one.
        size: the leading size to pad to; no less than the tasks' rows.
        variable: for each input, axes whose sizes may differ; they are padded at their end to the longest.
    """
    rows = sum(task.rows for task in tasks)
    return {
        name: _joined([task.arrays[name] for task in tasks], size - rows, variable.get(name))
        for name in tasks[0].arrays
    }


def part(arrays: Mapping[str, Array], start: int, end: int, size: int) -> dict[str, Array]:
    """Return rows `start` to `end` of one task's arrays, padded to `size` rows."""
    padding = size - (end - start)
    return {name: _joined([array[start:end]], padding, None) for name, array in arrays.items()}


class Misfit(NamedTuple):
    """An output that can't be split by rows."""

    output: str
    fault: str


def misfit(outputs: Mapping[str, Array], size: int) -> Misfit | None:
    """Return what keeps the outputs of a run of `size` rows from being split by rows; None if nothing does."""
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
    """Return the arrays with their inner sizes padded to the largest, by zeros or empty strings."""
    inner = tuple(map(max, zip(*(array.shape[1:] for array in arrays), strict=True)))
    return [array if array.shape[1:] == inner else _widened(array, inner) for array in arrays]


def _widened(array: Array, inner: tuple[int, ...]) -> Array:
    fill = b"" if array.dtype == object else 0
    wide = np.full((array.shape[0], *inner), fill, array.dtype)
    wide[tuple(map(slice, array.shape))] = array
    return wide


class BatchExecutor:
    """Runs tasks. Any thread may call it.

    Args:
        runs: session runs at once; None: any number.
        usage: is told of each group that had a run.
        stop: is told of a task whose result was wrong because it had shared a run.
    """

    def __init__(self, runs: int | None, usage: UsageTracker, stop: Callable[[Task, Fault], None]) -> None:
        self._run_slot: AbstractContextManager[Any] = threading.Semaphore(runs) if runs else contextlib.nullcontext()
        self._bounded = runs is not None
        self._usage = usage
        self._stop = stop

    def run_unbatched(self, task: Task) -> TaskResult:
        """Run a task on its own arrays, whatever its group.

        Raises:
            DeadlineExceeded: its time is over; the session was not called.
            InvalidArgument: the model refused the inputs.
            Internal: the model failed.
        """
        if not self._bounded:
            return run_one(task)
        with self._run_slot:
            return run_one(task)

    def run_together(self, group: BatchGroup, tasks: Sequence[Task]) -> list[TaskOutcome]:
        """Run tasks of one group that fit into one run; a single one may be larger than a run."""
        if len(tasks) == 1:
            return [self._outcome(group, tasks[0])]
        if group.policy.each:
            return self._run_each(group, tasks)
        return self._run_merged(group, tasks)

    def run_task(self, group: BatchGroup, task: Task) -> TaskResult:
        """Run a task by itself, in several runs if it has more rows than one takes; raise as `run_unbatched`."""
        policy = group.policy
        if policy.part is not None and task.rows and (task.rows > policy.part or policy.allowed):
            result = self._run_in_parts(group, task, policy.part)
            if result is not None:
                return result
        result = self.run_unbatched(task)
        self._count(group, 1, result.batch_size, result.compute_us)
        return result

    def _outcome(self, group: BatchGroup, task: Task) -> TaskOutcome:
        try:
            return self.run_task(group, task)
        except Exception as error:
            return error

    def _run_merged(self, group: BatchGroup, tasks: Sequence[Task]) -> list[TaskOutcome]:
        now = time.monotonic()
        if _any_late(tasks, now):
            return self._run_in_time(group, tasks, now)
        rows = sum([task.rows for task in tasks])
        size = group.policy.padded_rows(rows)
        inputs = stacked(tasks, size, group.policy.padded)
        first = tasks[0]
        try:
            with self._run_slot:
                began = time.monotonic()
                if self._bounded and _any_late(tasks, began):  # while they waited for a slot
                    raise _Late(began)
                outputs = first.servable.session.run(first.signature.name, inputs, first.wanted)
                us = int((time.monotonic() - began) * 1e6)
        except _Late as late:
            return self._run_in_time(group, tasks, late.now)
        except Exception:
            # The run doesn't tell whose fault it is; by itself, each task gets its own error or its result.
            return self._run_one_by_one(group, tasks)
        if misfitting := misfit(outputs, size):
            group.policy.stop_for_fault(misfitting.fault)
            return self._run_one_by_one(group, tasks)
        self._count(group, len(tasks), rows, us)
        parts = split(outputs, tasks, group.policy.cuts)
        return self._checked(group, tasks, [TaskResult(outputs, began, us, rows) for outputs in parts])

    def _run_each(self, group: BatchGroup, tasks: Sequence[Task]) -> list[TaskOutcome]:
        """Run tasks by one call of their Python model's `predict_batch`."""
        try:
            with self._run_slot:
                began = time.monotonic()
                if _any_late(tasks, began):
                    raise _Late(began)
                outputs = run_each(tasks)
                us = int((time.monotonic() - began) * 1e6)
        except _Late as late:
            return self._run_in_time(group, tasks, late.now)
        except Exception:
            return self._run_one_by_one(group, tasks)
        rows = sum(group.policy.counted(task) for task in tasks)
        self._count(group, len(tasks), rows, us)
        return self._checked(group, tasks, [TaskResult(each, began, us, rows) for each in outputs])

    def _run_one_by_one(self, group: BatchGroup, tasks: Sequence[Task]) -> list[TaskOutcome]:
        return [self._outcome(group, task) for task in tasks]

    def _checked(self, group: BatchGroup, tasks: Sequence[Task], outcomes: list[TaskOutcome]) -> list[TaskOutcome]:
        """Return the results of a merged run, or of runs one by one if a check shows that they must not share one."""
        check = group.policy.check
        result = outcomes[0]
        assert isinstance(result, TaskResult)
        place = check.due(result.compute_us, len(tasks)) if check is not None else None
        if check is None or place is None:
            return outcomes
        task, merged = tasks[place], outcomes[place]
        assert isinstance(merged, TaskResult)
        with self._run_slot:
            fault = check.fault(task, merged.outputs, run_alone)
        if fault is None:
            return outcomes
        self._stop(task, fault)
        return self._run_one_by_one(group, tasks)

    def _run_in_time(self, group: BatchGroup, tasks: Sequence[Task], now: float) -> list[TaskOutcome]:
        """Run the tasks that are not late."""
        late = [_late(task, now) for task in tasks]
        live = [task for task, is_late in zip(tasks, late, strict=True) if not is_late]
        outcomes = iter(self.run_together(group, live) if live else [])
        return [
            task.deadline.exceeded(now) if is_late else next(outcomes)
            for task, is_late in zip(tasks, late, strict=True)
        ]

    def _run_in_parts(self, group: BatchGroup, task: Task, max_rows: int) -> TaskResult | None:
        """Run a task in runs of at most `max_rows` rows, each padded; return None if its outputs do not go by rows."""
        parts: list[dict[str, Array]] = []
        first, us = 0.0, 0
        for start in range(0, task.rows, max_rows):
            rows = min(max_rows, task.rows - start)
            size = group.policy.padded_rows(rows)
            inputs = part(task.arrays, start, start + rows, size)
            result = self.run_unbatched(Task(task.servable, task.signature, inputs, task.wanted, task.deadline, rows))
            if misfitting := misfit(result.outputs, size):
                group.policy.stop_for_fault(misfitting.fault)
                return None
            self._count(group, 0 if start else 1, rows, result.compute_us)
            parts.append({name: array[:rows] for name, array in result.outputs.items()})
            first, us = first or result.began, us + result.compute_us
        if len(parts) == 1:
            return TaskResult(parts[0], first, us, task.rows)
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return TaskResult(outputs, first, us, min(max_rows, task.rows))

    def _count(self, group: BatchGroup, tasks: int, rows: int, us: int) -> None:
        group.add(tasks, rows, us)
        self._usage.add(group)


class _Late(Exception):
    """A task was late when its run would have begun, at `now`."""

    def __init__(self, now: float) -> None:
        self.now = now


def run_one(task: Task) -> TaskResult:
    """Run a task on its own arrays; raise as `BatchExecutor.run_unbatched`."""
    began = task.deadline.check()
    outputs = task.servable.session.run(task.signature.name, task.arrays, task.wanted)
    return TaskResult(outputs, began, int((time.monotonic() - began) * 1e6), task.rows)


def _late(task: Task, now: float) -> bool:
    expires = task.deadline.expires
    return expires is not None and now > expires


def _any_late(tasks: Sequence[Task], now: float) -> bool:
    for task in tasks:
        expires = task.deadline.expires
        if expires is not None and now > expires:
            return True
    return False


def run_alone(task: Task) -> Arrays:
    """Return the outputs of a task on its own arrays, whatever its deadline."""
    return task.servable.session.run(task.signature.name, task.arrays, task.wanted)


def run_each(tasks: Sequence[Task]) -> list[dict[str, Array]]:
    """Return the outputs of tasks by one call of their Python model's batch method."""
    first = tasks[0]
    return first.servable.session.run_each(first.signature.name, [task.arrays for task in tasks], first.wanted)


def run_stacked(
    tasks: Sequence[Task], size: int, padded: Mapping[str, Sequence[int]], cuts: Mapping[str, Sequence[Cut]]
) -> list[dict[str, Array]]:
    """Return each task's outputs of one run of their rows, padded to `size`.

    Raises:
        NotByRows: an output has another leading size.
        ThriftServeError: the run failed.
    """
    first = tasks[0]
    outputs = first.servable.session.run(first.signature.name, stacked(tasks, size, padded), first.wanted)
    if misfitting := misfit(outputs, size):
        raise NotByRows(*misfitting)
    return split(outputs, tasks, cuts)


def split(outputs: Arrays, tasks: Sequence[Task], cuts: Mapping[str, Sequence[Cut]]) -> list[dict[str, Array]]:
    """Return each task's rows of the outputs, as views, without what padding added to their inner sizes."""
    parts: list[dict[str, Array]] = []
    start = 0
    for task in tasks:
        end = start + task.rows
        part = {name: array[start:end] for name, array in outputs.items()}
        for name, axes in cuts.items():
            if axes and name in part:
                part[name] = cut_back(part[name], axes, task)
        parts.append(part)
        start = end
    return parts

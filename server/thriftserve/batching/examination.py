"""The examination of a model when it is loaded: whether requests may share runs, and of how many rows.

    signature, examples, records --> rows --Proof: alone, a few together--> --calibrate: sizes worth it--> Proof: those

It runs before the process serves its first request, with made-up and recorded ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from thriftserve.batching.calibration import CALIBRATION_S, QUICK_S, Calibration, calibrate, ladder
from thriftserve.batching.executor import BatchExecutor, run_alone, run_each, run_stacked
from thriftserve.batching.group import BatchPolicy, has_batch
from thriftserve.batching.independence import Proof, RunTogether
from thriftserve.batching.task import Task
from thriftserve.batching.verdict import Verdict
from thriftserve.deadline import Deadline
from thriftserve.models import sample_inputs, warmup
from thriftserve.models.registry import Servable
from thriftserve.models.session import Arrays, Signature

#: Recorded requests of a signature that are tried.
MOST_RECORDED = 8
#: No run that is likely to take longer is tried where sizes are not timed: it may never be needed.
_LONG_S = 0.25
#: Ordinary rows, which come first, that are timed.
_ORDINARY = 3


class Finding(NamedTuple):
    """What an examination found out about a signature."""

    verdict: Verdict
    #: What its runs take; None where they were not timed.
    calibration: Calibration | None = None


class Examination:
    """Tries the signatures of one servable. One thread uses it.

    Args:
        servable: the loaded version.
        executor: runs tasks while the sizes are timed.
        max_rows: rows of a run, if the model sets no other number.
        side_by_side: runs that go on at once in this process; None: any number, so that sizes can't be timed.
        version_path: where the version's files are; None: there are none.
    """

    def __init__(
        self,
        servable: Servable,
        executor: BatchExecutor,
        max_rows: int,
        side_by_side: int | None,
        version_path: Path | None,
    ) -> None:
        self._servable = servable
        self._executor = executor
        self._max_rows = max_rows
        self._side_by_side = side_by_side
        self._recorded: dict[str, list[Arrays]] = {}
        if version_path is not None:
            self._recorded = warmup.recorded_inputs(servable, version_path, MOST_RECORDED)
        for name, example in servable.session.examples.items():
            self._recorded.setdefault(name, []).insert(0, example)

    def of(self, signature: Signature) -> Finding | None:
        """Examine a signature; return None if its requests could not share runs anyway."""
        outputs = tuple(name for name in signature.outputs if has_batch(signature, (name,)))
        trial = BatchPolicy(
            self._servable, signature, outputs, self._max_rows, _assumed(self._servable, outputs, self._max_rows)
        )
        if not outputs or not (trial.merges or trial.part):
            return None
        trial.check = None
        proof = Proof(outputs, run_alone, _together(trial, {}))
        proof.alone(self._tasks(signature, outputs, padded=bool(trial.padded)))
        if not proof.undecided():
            return Finding(proof.verdict())
        return self._of_several(proof, trial)

    def _of_several(self, proof: Proof, trial: BatchPolicy) -> Finding:
        """Examine a signature by runs of several rows."""
        sizes = [size for size in ladder(max(trial.max_rows, trial.part or 1), trial.allowed) if size > 1]
        groups = list(_alike(proof.tasks))
        proof.together(groups, sizes[:1], _LONG_S)
        proof.weigh()
        if not proof.undecided():
            return Finding(proof.verdict())
        calibration = self._calibrate(groups[0], trial)
        proof.together(groups, [size for size in sizes if calibration and size in calibration.s_a_row], CALIBRATION_S)
        proof.together(groups, sizes, QUICK_S if calibration else _LONG_S)
        proof.beside_refused()
        if trial.padded and proof.undecided():
            proof.padded(proof.tasks, _together(trial, trial.padded))
        return Finding(proof.verdict(), calibration)

    def _calibrate(self, group: Sequence[Task], trial: BatchPolicy) -> Calibration | None:
        """Time runs of several sizes; return None if those of this process can't be timed side by side."""
        tasks = [task for task in group if task.rows == 1][:_ORDINARY]
        sizes = ladder(trial.max_rows, trial.allowed)
        if self._side_by_side is None or not tasks or not trial.merges or len(sizes) < 2:
            return None
        batch_group = trial.group(tasks[0])
        seconds = CALIBRATION_S / len(self._servable.signatures)
        asked = self._servable.batching.max_batch_size or 0
        return calibrate(
            tasks, partial(self._executor.run_together, batch_group), self._side_by_side, sizes, seconds, asked
        )

    def _tasks(self, signature: Signature, outputs: tuple[str, ...], *, padded: bool) -> Iterable[Task]:
        image = self._servable.image
        sizes = (*sample_inputs.INNER_SIZES, sample_inputs.PADDED_SIZE) if padded else sample_inputs.INNER_SIZES
        free = any(None in (spec.shape or ())[1:] for spec in signature.inputs.values())
        rows = chain(
            sample_inputs.recorded_rows(signature, self._recorded.get(signature.name, ())),
            *(
                sample_inputs.random_rows(signature, image, self._servable.words, size)
                for size in (sizes if free else sizes[:1])
            ),
        )
        for arrays in rows:
            count = next(iter(arrays.values())).shape[0]
            yield Task(self._servable, signature, arrays, outputs, Deadline(time.monotonic(), None), count)


def _assumed(servable: Servable, outputs: Sequence[str], max_rows: int) -> Verdict:
    """Return the verdict that is tried: everything may share runs."""
    settings = servable.batching
    rows = max(max_rows, settings.max_batch_size or 1, *settings.allowed_batch_sizes, 1)
    return Verdict(dict.fromkeys(outputs, ""), rows, unpadded="")


def _together(policy: BatchPolicy, padded: Mapping[str, Sequence[int]]) -> RunTogether:
    """Return a function that runs tasks together as this policy would."""
    if policy.each:
        return run_each
    return lambda tasks: run_stacked(tasks, policy.padded_rows(sum(task.rows for task in tasks)), padded, {})


def _alike(tasks: Sequence[Task]) -> Iterable[list[Task]]:
    """Return tasks by types and inner sizes, the most tasks first."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        key = tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(task.arrays.items()))
        groups.setdefault(key, []).append(task)
    return sorted(groups.values(), key=len, reverse=True)

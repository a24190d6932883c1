"""Made-up requests, run before the first real ones.

signature --jobs_of()--> a few single rows --independent()--> the same answers alone and together, or not
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from thriftserve.batching.job import Answer, Done, Job
from thriftserve.deadline import Deadline
from thriftserve.models import probes
from thriftserve.models.servable import Servable
from thriftserve.models.signature import Signature

Run = Callable[[Sequence[Job]], list[Answer]]
#: Measured runs of each size; the first one of a size does not count.
_RUNS = 3
#: A model that takes longer for a row is not rehearsed any further.
_LONG_S = 1.0


def jobs_of(servable: Servable, signature: Signature) -> list[Job]:
    """Single rows of random numbers as jobs; none where the signature has no rows to speak of."""
    if not signature.validated or not signature.inputs:
        return []
    if any(not spec.shape or spec.shape[0] is not None for spec in signature.inputs.values()):
        return []
    *_, rows = probes.probes(signature, servable.image)
    count = min(array.shape[0] for array in rows.values())
    deadline = Deadline(time.monotonic(), None)
    outputs = tuple(signature.outputs)
    return [
        Job(servable, signature, {name: array[at : at + 1] for name, array in rows.items()}, outputs, deadline, 1)
        for at in range(count)
    ]


def independent(jobs: Sequence[Job], run: Run) -> bool:
    """Whether each job gets the same answer by itself and beside the others.

    A model that fails, that gives a row another answer each time, or that takes very long is given the benefit
    of the doubt.
    """
    alone = _alone(jobs[:1], run)
    if alone is None or alone[0].compute_us > _LONG_S * 1e6:
        return True
    first, again = _alone(jobs, run), _alone(jobs, run)
    if first is None or again is None or not _same(first, again):
        return True
    for _ in range(_RUNS):
        together = _done(run(jobs))
        if together is None:
            return True
        if not _same(first, together):
            return False
    return True


def _alone(jobs: Sequence[Job], run: Run) -> list[Done] | None:
    return _done([run([job])[0] for job in jobs])


def _done(answers: Sequence[Answer]) -> list[Done] | None:
    done = [answer for answer in answers if isinstance(answer, Done)]
    return done if len(done) == len(answers) else None


def _same(one: Sequence[Done], other: Sequence[Done]) -> bool:
    return all(
        probes.same(left.outputs[name], right.outputs[name])
        for left, right in zip(one, other, strict=True)
        for name in left.outputs
    )

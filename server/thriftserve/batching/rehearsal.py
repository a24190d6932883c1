"""Made-up requests, run before the first real ones.

signature --jobs_of()--> a few single rows --independent()--> the same answers alone and together, or not
                                           --at_load()--> seconds a row, by the rows of a run
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from thriftserve.batching.job import Answer, Done, Job
from thriftserve.batching.size_search import MADE_UP_SAVES, saving
from thriftserve.deadline import Deadline
from thriftserve.models import probes
from thriftserve.models.servable import Servable
from thriftserve.models.signature import Signature

Run = Callable[[Sequence[Job]], list[Answer]]
#: Measured runs of each size; the first one of a size does not count.
_RUNS = 3
#: A model that takes longer for a row is not rehearsed any further.
_LONG_S = 1.0
#: Time for the runs side by side of a model: short, for workers beside this one may be serving.
LOAD_S = 1.5
#: Rows of the largest run that nobody asked for: memory that it takes may never be needed.
_MOST_ROWS = 16
#: Of each size on the way up: samples, at least; those of them that only make ready what later ones find; time for
#: those of quick models, and their number at most. Then some more, by turns.
_SAMPLES = 4
_COLD = 2
_LAPS = 5
_ENOUGH_S = 0.02
_MOST_SAMPLES = 50
#: Sizes that are measured before those tell whether a larger one may be worth it.
_TELL = 3


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


def at_load(jobs: Sequence[Job], run: Run, runs: int, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    """Seconds a row where so many runs go on side by side, by their rows; of sizes that may be the best.

    It goes up the ladder as long as that may be worth it and there is time, then over all those sizes again.

    Args:
        jobs: single rows; larger runs have them several times.
        run: runs jobs together.
        runs: those that are had at once.
        sizes: the ladder, ascending.
        seconds: the time to take, about.

    Returns:
        The least of a few samples, of two sizes or more; nothing where there is no time for that, or a run failed.
    """
    sizes = [size for size in sizes if size <= _MOST_ROWS]
    if len(sizes) < 2:
        return {}
    until = time.monotonic() + seconds
    took: dict[int, float] = {}
    with ThreadPoolExecutor(runs) as pool:

        def sample(size: int) -> float:
            batch = [jobs[at % len(jobs)] for at in range(size)]
            began = time.monotonic()
            done = all(_done(answers) for answers in pool.map(run, [batch] * runs))
            return max(1e-9, time.monotonic() - began) / (size * runs) if done else math.inf

        s_a_row = sample(sizes[0])
        for size in sizes:
            sample_s = runs * size * s_a_row
            if time.monotonic() + _SAMPLES * sample_s > until:
                break
            if len(took) >= _TELL and saving(took, size) < MADE_UP_SAVES:  # nor is there memory to be kept for it
                break
            for _ in range(_COLD):
                sample(size)
            many = max(_SAMPLES - _COLD, min(_MOST_SAMPLES, int(_ENOUGH_S / sample_s)))
            s_a_row = took[size] = min(sample(size) for _ in range(many))
        if len(took) < 2:
            return {}
        for _ in range(_LAPS):  # what disturbed one size's samples has most likely passed
            if time.monotonic() > until:
                break
            for size, least in took.items():
                took[size] = min(least, sample(size))
    return took if math.isfinite(sum(took.values())) else {}


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

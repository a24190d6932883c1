"""Which sizes of runs are worth it, by runs of rows that nobody waits for.

a few single rows, how many runs go on side by side --at_load()--> seconds a row, by the rows of a run
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from thriftserve.batching.job import Answer, Done, Job
from thriftserve.batching.size_search import MADE_UP_SAVES, saving

Run = Callable[[Sequence[Job]], list[Answer]]
#: Time for the runs side by side of a model: short, for workers beside this one may be serving.
LOAD_S = 1.5
#: Rows of the largest run that nobody asked for, unless it is over soon: memory that it takes may never be needed.
_MOST_ROWS = 16
_QUICK_S = 0.02
#: Of each size on the way up: samples, at least; those of them that only make ready what later ones find; time for
#: those of quick models, and their number at most. Then some more, by turns.
_SAMPLES = 4
_COLD = 2
_LAPS = 5
_ENOUGH_S = 0.02
_MOST_SAMPLES = 50
#: Sizes that are measured before those tell whether a larger one may be worth it.
_TELL = 3


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
    if len(sizes) < 2 or sizes[1] > _MOST_ROWS:
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
            if time.monotonic() + _SAMPLES * sample_s > until or (size > _MOST_ROWS and sample_s > _QUICK_S):
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


def _done(answers: Sequence[Answer]) -> list[Done] | None:
    done = [answer for answer in answers if isinstance(answer, Done)]
    return done if len(done) == len(answers) else None

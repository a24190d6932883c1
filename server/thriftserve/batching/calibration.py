"""How many rows a run is worth, measured when a model is loaded, before its first request.

    a few single rows, runs side by side --calibrate--> Calibration: rows of a run, what a run and a row take

Sizes go up the ladder while the next one takes less time a row. The smallest one that is nearly as good as the best
is chosen: a larger run takes more memory, and whoever is in it waits longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import linear_regression
from typing import NamedTuple

from thriftserve.batching.task import Task, TaskOutcome, TaskResult

Run = Callable[[Sequence[Task]], list[TaskOutcome]]
#: Seconds that the calibration of a model may take: workers beside this one may be serving.
CALIBRATION_S = 1.5
#: A larger size must save this part of a row's time to be tried further, or to be chosen.
SAVES = 0.025
#: Sizes that are measured before one that saves nothing ends it: of MobileNetV2, 2 rows save little and 4 rows more.
_LEAST_SIZES = 3
#: Rows of the largest run that the model's author has not asked for, unless it takes no longer than this: the memory
#: that it takes may never be needed.
MOST_ROWS, QUICK_S = 16, 0.02
#: Of each size: samples at the least; those of them that only make ready what later ones find; seconds for those of
#: quick models, and their number at most. Then as many laps over all sizes, for what disturbed one has passed by then.
_SAMPLES, _COLD, _ENOUGH_S, _MOST_SAMPLES, _LAPS = 4, 2, 0.02, 50, 5


class Calibration(NamedTuple):
    """What a model's runs take."""

    #: Rows of a run that are worth it.
    rows: int
    #: Microseconds of a run, whatever its size, and of each row in it; 0 while they are not known.
    fixed_us: float
    row_us: float
    #: Seconds a row, by rows of a run, with as many runs side by side as the process has.
    s_a_row: Mapping[int, float]


def ladder(most: int, allowed: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the sizes to choose from: those allowed, or the powers of two, up to `most` and with it.

    >>> ladder(6)
    (1, 2, 4, 6)
    >>> ladder(24, (8, 24, 32))
    (8, 24)
    """
    if allowed:
        return tuple(size for size in allowed if size <= most) or (most,)
    return (*(1 << power for power in range((most - 1).bit_length())), most)


def conclude(s_a_row: Mapping[int, float]) -> Calibration:
    """Return the choice that follows from what was measured.

    Args:
        s_a_row: seconds a row, by rows of a run; one size or more.

    >>> conclude({1: 0.0050, 2: 0.0049, 4: 0.0044, 8: 0.0046}).rows
    4
    """
    best = min(s_a_row.values())
    rows = min(size for size, seconds in s_a_row.items() if seconds * (1 - SAVES) <= best)
    fixed_us = row_us = 0.0
    if len(s_a_row) > 1:
        line = linear_regression([1 / size for size in s_a_row], list(s_a_row.values()))
        fixed_us, row_us = max(0.0, line.slope * 1e6), max(0.0, line.intercept * 1e6)
    return Calibration(rows, fixed_us, row_us, s_a_row)


def calibrate(
    tasks: Sequence[Task], run: Run, side_by_side: int, sizes: Sequence[int], seconds: float, asked: int = 0
) -> Calibration | None:
    """Measure runs of several sizes.

    Args:
        tasks: single rows; larger runs have them several times.
        run: runs tasks together.
        side_by_side: runs that go on at once.
        sizes: the ladder, ascending.
        seconds: the time to take, about.
        asked: rows that the model's author has asked for, if any.

    Returns:
        None if there is no time for two sizes, or a run failed.
    """
    until = time.monotonic() + seconds
    row_seconds: dict[int, float] = {}
    with ThreadPoolExecutor(side_by_side) as pool:

        def sample(size: int) -> float:
            batch = [tasks[at % len(tasks)] for at in range(size)]
            began = time.monotonic()
            done = all(_all_done(answers) for answers in pool.map(run, [batch] * side_by_side))
            return max(1e-9, time.monotonic() - began) / (size * side_by_side) if done else math.inf

        s_a_row = sample(sizes[0])
        for size in sizes:
            sample_s = side_by_side * size * s_a_row
            large = size > max(MOST_ROWS, asked) and sample_s > QUICK_S
            if large or time.monotonic() + _SAMPLES * sample_s > until or _saves_nothing(row_seconds):
                break
            for _ in range(_COLD):
                sample(size)
            samples = max(_SAMPLES - _COLD, min(_MOST_SAMPLES, int(_ENOUGH_S / sample_s)))
            s_a_row = row_seconds[size] = min(sample(size) for _ in range(samples))
        if len(row_seconds) < 2:
            return None
        for _ in range(_LAPS):
            if time.monotonic() > until:
                break
            for size, least in row_seconds.items():
                row_seconds[size] = min(least, sample(size))
    return conclude(row_seconds) if math.isfinite(sum(row_seconds.values())) else None


def _saves_nothing(row_seconds: Mapping[int, float]) -> bool:
    """Return whether the last size measured is no better than a smaller one."""
    if len(row_seconds) < _LEAST_SIZES:
        return False
    *before, last = row_seconds.values()
    return last > min(before) * (1 - SAVES)


def _all_done(answers: Sequence[TaskOutcome]) -> bool:
    return all(isinstance(answer, TaskResult) for answer in answers)

"""When calls are to be sent in an open loop: a Poisson process, the same for the same seed.

rate, seconds, seed  -->  gaps of an exponential distribution  -->  nanoseconds from the window's start
"""

from __future__ import annotations

import numpy as np


def poisson_ns(rate: float, seconds: float, seed: int) -> list[int]:
    """Arrival times of a window, ascending nanoseconds from its start.

    Many independent callers together make a Poisson process: gaps are exponential with a mean of 1/rate, and the
    number of arrivals in a window has its mean as its variance.

    Args:
        rate: arrivals a second, above 0.
        seconds: length of the window.
        seed: the same seed gives the same times.
    """
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    # Six standard deviations more than expected: a second draw is hardly ever needed.
    size = int(expected + 6 * expected**0.5 + 10)
    times = np.cumsum(generator.exponential(1 / rate, size))
    while times[-1] < seconds:
        times = np.concatenate([times, times[-1] + np.cumsum(generator.exponential(1 / rate, size))])
    return [int(one) for one in times[times < seconds] * 1e9]

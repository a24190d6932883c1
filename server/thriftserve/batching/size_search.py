"""The size of runs that is worth it, searched for while they serve: by hill climbing over a ladder of sizes.

ask() --> rows of the next run --add()--> a window of runs --> its time a row / that of the window before
                                                               `--> a step up, a step down, or none

A larger run must save a part of the time of a row, else the smaller one is as good: it takes less memory, and answers
sooner. Time is what passes by the clock while runs are as large as was asked for: then requests wait, and it is what
they wait for. A run's own time would not tell what a batch costs besides (to form it, to hand it over, to answer it),
and would be the least where other cores are idle.

What a doubling can save at most is half of what the one before saved. Where that is too little, nothing larger is
tried: larger runs take more memory, and who is in them waits longer; to try a smaller size costs next to nothing.

>>> search, now = SizeSearch(ladder(64)), 0.0
>>> for _ in range(1000):
...     rows = search.ask()
...     now += 0.0010 + 0.0007 * rows
...     search.add(rows, 1000 + 700 * rows, now)
>>> search.rows
16
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from operator import itemgetter
from statistics import linear_regression, median

#: Part of a row's time that a step up must save.
SAVES = 0.05
#: Part of it that made-up requests show: between the runs of real ones others have the cores and the caches.
_SHOWN = 0.5
#: Part of a made-up row's time that a step up must save.
MADE_UP_SAVES = _SHOWN * SAVES
#: Runs of a window.
WINDOW = 8
#: Runs that are under way, or in somebody's hand, when another size is asked for.
_ON_THE_WAY = 4
#: Windows of a neighbour that tell.
_TELL = 16
#: Spread between windows that is assumed, as if so many had shown it: the first that happen to be alike prove little.
_SPREAD = 0.15
_ASSUMED = 4
#: A normal distribution's standard deviation by its median deviation.
_MEDIAN_TO_SIGMA = 1.48
#: Part of the rows asked for that a window's runs must have: else too few waited for it to tell anything.
_FULL = 0.9
#: A run that takes this many times the usual, a row, was held up by something else: half the size takes twice as long.
_HELD_UP = 3.0
#: A run that ends so many times its own length after the one before, and some seconds, came after a pause.
_PAUSE = 4.0
_PAUSE_S = 0.002
#: Windows of the size found before a neighbour's, at least.
_OFTEN = 2
#: Times what trying a neighbour took that the size found is run before the next try: ever longer.
_SELDOM = 64
#: Tries after which it is known what a neighbour does, more or less. What was measured before counts as many.
_KNOWN = 8
#: Windows that such a measurement counts as: runs were alike, and nothing ran beside them.
_WINDOWS_WORTH = 4
#: One request in so many may be in a run that is larger to see what that does, once that was seen a few times: those
#: wait longer, and fewer than one in a hundred leave the p99 as it is.
_RARE = 200
#: Times its time a row that the size found must take for what is known of its neighbours to be forgotten.
_CHANGED = 1.5


def ladder(most: int, allowed: Sequence[int] = ()) -> tuple[int, ...]:
    """The sizes to choose from: those allowed, or the powers of two, up to `most` and with it.

    >>> ladder(6)
    (1, 2, 4, 6)
    >>> ladder(24, (8, 24, 32))
    (8, 24)
    """
    if allowed:
        return tuple(size for size in allowed if size <= most) or (most,)
    return (*(1 << power for power in range((most - 1).bit_length())), most)


def saving(s_a_row: Mapping[int, float], size: int) -> float:
    """Part of a row's time that a larger size than those measured would save, if each run took so much, and each row.

    Args:
        s_a_row: seconds a row, by rows of a run; two or more.
        size: the larger one.

    >>> round(saving({1: 0.0080, 2: 0.0060, 4: 0.0050}, 8), 3)
    0.1
    """
    largest = max(s_a_row)
    fixed_s = linear_regression([1 / rows for rows in s_a_row], list(s_a_row.values())).slope
    return fixed_s * (1 / largest - 1 / size) / s_a_row[largest]


class _Window:
    """Runs on end.

    Args:
        asked: the rows that they were to have; 0 while nobody was told.
        skipped: runs at the beginning that do not count.
    """

    __slots__ = ("_s", "_us", "asked", "rows", "runs")

    def __init__(self, asked: int = 0, skipped: int = _ON_THE_WAY) -> None:
        self.asked = asked
        self.runs = -skipped
        self.rows = 0
        self._s = self._us = 0.0

    def add(self, rows: int, us: float, since_s: float) -> None:
        self.runs += 1
        if self.runs > 0:
            self.rows += rows
            self._s += since_s
            self._us += us

    @property
    def full(self) -> bool:
        return self.rows >= _FULL * self.asked * self.runs

    @property
    def s_a_row(self) -> float:
        return self._s / max(1, self.rows)

    @property
    def us_a_row(self) -> float:
        return self._us / max(1, self.rows)


class _Neighbour:
    """A size beside the one found: its time a row by that one's, of the last windows of each.

    Args:
        bound: the ratio below which it is the better one.
    """

    __slots__ = ("_bound", "_ratios", "tries")

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._ratios: deque[float] = deque(maxlen=_TELL)
        self.tries = 0

    def tried(self, ratio: float | None) -> None:
        """Counts a window; None: it told nothing."""
        self.tries = min(self.tries + 1, _TELL)
        if ratio is not None:
            self._ratios.append(ratio)

    def known(self, ratio: float) -> None:
        """Takes a ratio that was measured before the search began, which counts as several windows."""
        self.tries = _KNOWN
        self._ratios.extend([ratio] * _WINDOWS_WORTH)

    def ratio(self) -> float | None:
        """The median; None before any window told something."""
        return median(self._ratios) if self._ratios else None

    def is_better(self) -> bool:
        """Whether it is, most likely. A wrong step costs little."""
        return bool(self._ratios) and self._off(0.5 / math.sqrt(len(self._ratios))) < 0

    def hope(self, tries: int) -> float:
        """How far below the bound it may lie: the less, the better; `tries` are those of all neighbours."""
        if not self._ratios:
            return -1.0 / (1 + self.tries)
        return self._off(-math.sqrt(max(1.0, 2 * math.log(tries)) / self.tries))

    def _off(self, spreads: float) -> float:
        """The median, and so many times the spread, less the bound: half of all windows may be disturbed."""
        middle = median(self._ratios)
        seen = len(self._ratios)
        spread = _MEDIAN_TO_SIGMA * median(abs(ratio - middle) for ratio in self._ratios)
        variance = (_ASSUMED * _SPREAD * _SPREAD + seen * spread * spread) / (_ASSUMED + seen)
        return middle + spreads * math.sqrt(variance) - self._bound


class SizeSearch:
    """Searches for one lane. Not thread-safe.

    Args:
        sizes: the ladder, ascending.
    """

    __slots__ = (
        "_at", "_cost_s", "_down", "_ended", "_least", "_passed_s", "_rows_passed", "_sizes", "_tried", "_up",
        "_us_a_row", "_usual_s", "_window", "_windows",
    )  # fmt: skip

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._least = 1
        self._ended = 0.0
        #: Seconds that a row takes by the clock, and microseconds of runs; of the last windows of the size found.
        self._usual_s = self._us_a_row = 0.0
        #: Seconds since another size was asked for, and those that trying the last one took; pauses do not count.
        self._passed_s = self._cost_s = 0.0
        #: The place on the ladder that is tried in this window; None: the one found.
        self._tried: int | None = None
        self._window = _Window()
        #: The last ones of the size found, since a neighbour was tried.
        self._windows: deque[_Window] = deque(maxlen=_TELL)
        self._move(0)

    @property
    def rows(self) -> int:
        """The size found so far."""
        return self._sizes[self._at]

    def fixed_us(self) -> float | None:
        """Microseconds that a run takes whatever its size, by what neighbours took; None while that is not known."""
        here, us_a_row = 1 / self.rows, self._us_a_row
        for neighbour, place in ((self._down, self._at - 1), (self._up, self._at + 1)):
            if us_a_row and (ratio := neighbour.ratio()) is not None:
                return max(0.0, us_a_row * (ratio - 1) / (1 / self._sizes[place] - here))
        return None

    def start(self, rows: int) -> None:
        """Goes on from the largest size of at most `rows`."""
        self._move(max((place for place, size in enumerate(self._sizes) if size <= rows), default=0))

    def begin(self, s_a_row: Mapping[int, float]) -> None:
        """Goes on from the best of the smaller sizes of the ladder, whose seconds a row were measured under load."""
        measured = {place: s_a_row[size] for place, size in enumerate(self._sizes) if size in s_a_row}
        if len(measured) < 2:
            return
        self._move(min(measured, key=lambda place: measured[place] / (1 - MADE_UP_SAVES) ** place))
        beyond = max(measured) + 1
        if beyond < len(self._sizes) and (saves := saving(s_a_row, self._sizes[beyond])) < SAVES:  # there is no hurry
            measured[beyond] = (1 - saves) * measured[beyond - 1]
        for neighbour, place in ((self._down, self._at - 1), (self._up, self._at + 1)):
            if place in measured:
                neighbour.known(1 + (measured[place] / measured[self._at] - 1) / _SHOWN)

    def ask(self, least: int = 1) -> int:
        """The rows to run next.

        Args:
            least: rows of a single request: no run is smaller.
        """
        self._least = least
        if self.rows < least and self._at + 1 < len(self._sizes):
            self._move(next((place for place, size in enumerate(self._sizes) if size >= least), len(self._sizes) - 1))
        window = self._window
        if not window.asked:
            if self._tried is None:
                self._cost_s = self._passed_s
            self._passed_s = 0.0
            window.asked = self._sizes[self._at if self._tried is None else self._tried]
        return window.asked

    def add(self, rows: int, us: float, now: float) -> None:
        """Counts a run.

        Args:
            rows: its rows; padding counts for nothing.
            us: what it took by itself, microseconds.
            now: when it ended, seconds.
        """
        since_s, self._ended = now - self._ended, now
        if since_s > _PAUSE * us / 1e6 + _PAUSE_S:
            self._window = _Window(self._window.asked)
        else:
            self._passed_s += since_s
        window = self._window
        if not window.asked:
            return
        if self._usual_s:
            since_s = min(since_s, _HELD_UP * self._usual_s * rows)
        window.add(rows, us, since_s)
        if window.runs < WINDOW:
            return
        if self._tried is not None:
            self._judge()
            return
        self._window = _Window(window.asked, 0)
        self._rows_passed += window.rows
        if window.full:
            self._windows.append(window)
            if len(self._windows) >= _OFTEN and self._passed_s >= self._times * self._cost_s:
                self._try_neighbour()

    @property
    def _times(self) -> float:
        """Times what a try takes that the size found is run before the next one."""
        return min(_SELDOM, _OFTEN * 2 ** (self._tries / 4))

    @property
    def _tries(self) -> int:
        return self._up.tries + self._down.tries

    def _try_neighbour(self) -> None:
        us_a_row, before_us = median(window.us_a_row for window in self._windows), self._us_a_row
        if before_us and not 1 / _CHANGED < us_a_row / before_us < _CHANGED:
            self._move(self._at)  # other requests, or another machine
            return
        self._us_a_row = us_a_row
        self._usual_s = median(window.s_a_row for window in self._windows)
        places = []
        if self._at and self._sizes[self._at - 1] >= self._least:
            places.append((self._down.hope(self._tries), self._at - 1))
        if self._at + 1 < len(self._sizes) and (not places or self._may_save()) and self._may_try_larger():
            places.append((self._up.hope(self._tries), self._at + 1))
        if places:
            _, self._tried = min(places, key=itemgetter(0))
            self._window = _Window()

    def _may_save(self) -> bool:
        """Whether a larger size may be worth it: by what it did before, or by what this one saves over the smaller."""
        ratio, larger = self._down.ratio(), self._up.ratio()
        return (ratio is not None and (ratio - 1) / 2 > SAVES) or (larger is not None and larger < 1 - SAVES)

    def _may_try_larger(self) -> bool:
        """Whether few enough requests have been in larger runs."""
        tried = (WINDOW + _ON_THE_WAY) * self._sizes[self._at + 1]
        return self._up.tries < _KNOWN or self._rows_passed >= _RARE * tried

    def _judge(self) -> None:
        """Compares the neighbour's window with those before; a step, or back to the size found."""
        place, window = self._tried, self._window
        assert place is not None
        neighbour = self._up if place > self._at else self._down
        if neighbour is self._up:
            self._rows_passed = 0
        self._tried = None
        self._window = _Window()
        self._windows.clear()
        told = window.full and self._usual_s > 0
        neighbour.tried(window.s_a_row / self._usual_s if told else None)
        if told and neighbour.is_better():
            ratio = neighbour.ratio()
            up = place > self._at
            self._move(place)
            if ratio:  # what was the neighbour of the other is that of this one now
                (self._down if up else self._up).tried(1 / ratio)

    def _move(self, place: int) -> None:
        """Forgets what was measured: it was by the size that it leaves."""
        self._at = place
        self._up, self._down = _Neighbour(1 - SAVES), _Neighbour(1 / (1 - SAVES))
        self._us_a_row = 0.0
        self._window = _Window()
        self._windows.clear()
        self._tried = None
        self._rows_passed = 0
        self._cost_s = self._passed_s = 0.0

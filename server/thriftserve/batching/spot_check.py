"""Spot checks: now and then a request that shared a run also runs by itself, and the results are compared.

    merged run --due()?--> one of its requests, alone --fault()--> "" or why nothing may share a run of this model

It finds what a proof at load has missed, with the values that clients really send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from thriftserve.batching.independence import tolerance
from thriftserve.batching.task import Task
from thriftserve.batching.verdict import RunAlone, deviation, unstable
from thriftserve.errors import InvalidArgument, ThriftServeError
from thriftserve.models.session import Arrays

#: Part of the time in merged runs that checks may take: fewer than one run in a hundred is longer for it.
SHARE = 0.005
#: The first merged runs are all checked; later ones, besides, whenever there were an eighth more of them.
FIRST = 8


class Fault(NamedTuple):
    """Why the requests of a model must not share runs."""

    why: str
    #: True where an answer depended on other requests; False where the model doesn't answer the same twice.
    dependent: bool


class SpotCheck:
    """Checks merged runs of one signature. Threads may share it: a check more or less does not matter.

    Args:
        rounding: by output, what its answers were seen to be apart by, alone and beside others.
    """

    __slots__ = ("_next", "_rounding", "_runs", "_saved_us")

    def __init__(self, rounding: Mapping[str, float]) -> None:
        self._rounding = rounding
        self._runs = 0
        self._next = 1
        self._saved_us = 0.0

    def due(self, us: int, tasks: int) -> int | None:
        """Return the place of the task to check, of a run of so many tasks that took `us` microseconds; None: none."""
        self._runs += 1
        self._saved_us += us * SHARE
        # By itself a request takes no longer than beside others.
        if self._runs < self._next and self._saved_us < us:
            return None
        self._next = self._runs + 1 + self._runs // FIRST
        self._saved_us = 0.0
        return self._runs % tasks

    def fault(self, task: Task, merged: Arrays, run_alone: RunAlone) -> Fault | None:
        """Return what is wrong with the outputs of a merged run; None if the task gets the same by itself."""
        try:
            alone = run_alone(task)
            within = tolerance(alone, self._rounding)
            off = next((name for name, array in merged.items() if deviation(alone[name], array) > within[name]), None)
            if off is None:
                return None
            again = run_alone(task)
        except InvalidArgument as error:
            return Fault(f"a request was answered that is refused by itself ({error.message})", True)
        except ThriftServeError:  # a failure that may have nothing to do with this request
            return None
        if deviation(alone[off], again[off]) > within[off]:
            return Fault(f"the model answers {off!r} differently each time it is asked", False)
        apart, rounding = deviation(alone[off], merged[off]), max(self._rounding.values(), default=0.0)
        if unstable(task, off, alone, apart, rounding, run_alone):
            return None
        return Fault(f"an answer's {off!r} depended on the other requests of its run", True)

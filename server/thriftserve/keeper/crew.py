"""The workers, as the keeper sees and moves them.

Crew.ask  -->  reload  -->  workers replaced one by one  -->  Crew.all_have(8)
"""

from __future__ import annotations

from typing import Protocol

from thriftserve.status import WorkerPhase

#: A reload that nobody works on any more is asked for again after this time. It takes a while until the first worker
#: is seen to begin: where TensorFlow has to be imported first, some seconds.
_ASK_AGAIN_S = 15.0


class Workers(Protocol):
    """The worker processes."""

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """(phase, number of the plan that it has loaded) of each."""

    def reload(self) -> None:
        """Has them replaced by new ones, which load the plan as it is then."""

    def state_changed(self) -> None:
        """Tells every process that the state is written anew."""


class Crew:
    """All of them.

    Args:
        workers: themselves.
        count: how many there are when all are well.
    """

    def __init__(self, workers: Workers, count: int) -> None:
        self._workers = workers
        self._count = count
        self._asked_at = 0.0

    def seen(self) -> list[tuple[WorkerPhase, int]]:
        """(phase, number of the plan that it has loaded) of each."""
        return self._workers.plans()

    def all_have(self, number: int) -> bool:
        """Whether every worker has loaded the plan of that number, and there are as many as there should be."""
        ready = [each for phase, each in self._workers.plans() if phase is WorkerPhase.IDLE]
        return len(ready) >= self._count and set(ready) == {number}

    def numbers(self) -> set[int]:
        """Of the plans that workers have loaded, those included that end."""
        return {number for _, number in self._workers.plans()}

    def has_begun(self, number: int) -> bool:
        """Whether a worker has loaded that plan, or loads."""
        return any(phase is WorkerPhase.STARTING or each == number for phase, each in self._workers.plans())

    def want(self, number: int, now: float) -> None:
        """Has workers replaced where one that serves has not loaded that plan."""
        if any(each != number for phase, each in self._workers.plans() if phase is WorkerPhase.IDLE):
            self._ask(now)

    def insist(self, number: int, now: float) -> None:
        """The same again, where nobody is about to load it any more: a successor died, say."""
        seen = self._workers.plans()
        quiet = all(phase is WorkerPhase.IDLE for phase, _ in seen)
        late = any(each != number for _, each in seen)
        if quiet and late and now - self._asked_at > _ASK_AGAIN_S:
            self._ask(now)

    def state_changed(self) -> None:
        """Tells every process that the state is written anew."""
        self._workers.state_changed()

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._workers.reload()

"""The life of each version: what follows from plans and failures.

plans, failures  --settle-->  VersionStates: START -> LOADING -> AVAILABLE -> UNLOADING -> ENDED
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from thriftserve.errors import Code
from thriftserve.models.state import Failed, Plan, Told
from thriftserve.models.states import FOLLOWS, VersionStates, VersionStatus
from thriftserve_idl.ttypes import ModelState


class Lives:
    """Every version that is or was to be served.

    Args:
        told: what a keeper before this one told; None: nothing has been served.
    """

    def __init__(self, told: Told | None) -> None:
        self._states = VersionStates()
        if told is not None:
            self._states.restore(told.statuses(), told.counts())

    def settle(
        self,
        plan: Plan,
        served: Plan,
        live: Iterable[Plan],
        failed: Mapping[tuple[str, int], Failed],
        coming: Collection[tuple[str, int]] = (),
    ) -> None:
        """Brings every version to the state that follows from these.

        Args:
            plan: what workers are to load.
            served: what every worker had loaded last.
            live: the plans of the workers that there are.
            failed: versions that could not be loaded.
            coming: versions that are on their way, and in no plan yet.
        """
        held = {(name, one.version) for each in live for name, one in each.versions()}
        planned = {(name, one.version) for name, one in plan.versions()}
        states = {(name, one.version): ModelState.LOADING for name, one in plan.versions()}
        # Those too that a newer plan leaves out by now.
        states |= {(name, one.version): ModelState.AVAILABLE for name, one in served.versions()}
        for (name, version), state in states.items():
            self._bring(name, version, state)
        for (name, version), failure in failed.items():
            if (name, version) not in planned:
                self._bring(name, version, ModelState.ENDED, failure.code, failure.message)
        for name, version in coming:
            if self._states.state(name, version) in (None, ModelState.ENDED):
                self._bring(name, version, ModelState.START)
        for name, versions in self._states.statuses().items():
            for told in versions:
                if (name, told.version) in planned or told.state == ModelState.ENDED:
                    continue
                if told.state == ModelState.START and (name, told.version) in coming:
                    continue
                if not served.holds(name, told.version):  # else it serves until others have taken over everywhere
                    loaded = (name, told.version) in held and told.state != ModelState.LOADING
                    self._bring(name, told.version, ModelState.UNLOADING if loaded else ModelState.ENDED)

    def loaded(self, name: str, version: int, took_s: float) -> None:
        """A worker has loaded a version, in that time."""
        self._states.loaded(name, version, took_s)

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """How often a version of a model came into a state since the server started."""
        return self._states.counts()

    def statuses(self, configured: Collection[str]) -> dict[str, list[VersionStatus]]:
        """Every version that is told of, by model; of models that are not configured only until all have ended."""
        return {
            name: versions
            for name, versions in self._states.statuses().items()
            if name in configured or any(one.state != ModelState.ENDED for one in versions)
        }

    def available(self, name: str) -> frozenset[int]:
        """The versions of a model that every worker answers with."""
        return self._states.available(name)

    def _bring(self, name: str, version: int, state: ModelState, code: Code | None = None, message: str = "") -> None:
        """Takes a version to a state, by way of those that lie between."""
        now = self._states.state(name, version)
        if now == state:
            return
        *between, last = _way(now, state)
        for step in between:
            self._states.move(name, version, step)
        self._states.move(name, version, last, code, message)


def _way(now: ModelState | None, state: ModelState) -> list[ModelState]:
    """The states by which a version comes from one to another, that one included: as few as there can be."""
    ways: list[list[ModelState]] = [[one] for one in FOLLOWS[now]]
    while ways[0][-1] != state:
        first = ways.pop(0)
        ways += [[*first, one] for one in FOLLOWS[first[-1]] if one not in first]
    return ways[0]

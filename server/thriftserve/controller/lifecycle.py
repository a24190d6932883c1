"""The life of each version: what follows from plans and failures.

plans, failures  --settle-->  VersionStates: START -> LOADING -> AVAILABLE -> UNLOADING -> ENDED
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from thriftserve.controller.configuration import RetryPolicy
from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import LoadFailure, StateReader
from thriftserve.repository.version_states import VersionStates, VersionStatus
from thriftserve.repository.versions import VersionDir
from thriftserve_idl.ttypes import ModelState

# Versions that could not be loaded, and when they are tried again.

log = logging.getLogger(__name__)


@dataclass
class _Failure:
    what: VersionDir
    why: LoadFailure
    tries: int
    retry_at: float


class LoadBackoff:
    """Those of all models. Times are monotonic seconds."""

    def __init__(self, timing: RetryPolicy) -> None:
        self._timing = timing
        self._known: dict[tuple[str, int], _Failure] = {}

    def note(self, why: LoadFailure, what: VersionDir, now: float) -> None:
        """A version could not be loaded."""
        key = (why.name, why.version)
        tries = self._known[key].tries + 1 if key in self._known else 1
        pause_s = self._timing.pause_s(tries)
        self._known[key] = _Failure(what, why, tries, now + pause_s)
        when = f"is tried again in {pause_s:g} s" if pause_s < float("inf") else "is not tried again by itself"
        log.error("model %s version %d can't be loaded, it %s: %s", why.name, why.version, when, why.message)

    def held_back(self, now: float) -> set[tuple[str, VersionDir]]:
        """What is not to be tried now."""
        return {(name, one.what) for (name, _), one in self._known.items() if one.retry_at > now}

    def why(self) -> dict[tuple[str, int], LoadFailure]:
        """The last failure of each version."""
        return {key: one.why for key, one in self._known.items()}

    def forget(self, name: str, version: int) -> None:
        """It has been loaded, or is gone."""
        self._known.pop((name, version), None)

    def clear_of(self, name: str) -> None:
        """Everything of that model is to be tried anew."""
        self._known = {key: one for key, one in self._known.items() if key[0] != name}

    def clear(self) -> None:
        """Everything is to be tried anew."""
        self._known.clear()


_Key = tuple[str, int]


class VersionTracker:
    """Every version that is or was to be served.

    Args:
        told: what a keeper before this one told; None: nothing has been served.
        frees_first: whether a worker ends before its successor loads.
    """

    def __init__(self, told: StateReader | None, *, frees_first: bool = False) -> None:
        self._states = VersionStates()
        self._frees_first = frees_first
        if told is not None:
            self._states.restore(told.statuses(), told.counts())

    def settle(
        self,
        plan: Plan,
        served: Plan,
        live: Iterable[Plan],
        failed: Mapping[tuple[str, int], LoadFailure],
        coming: Collection[tuple[str, int]] = (),
        *,
        begun: bool = True,
    ) -> None:
        """Brings every version to the state that follows from these.

        Args:
            plan: what workers are to load.
            served: what every worker had loaded last.
            live: the plans of the workers that there are.
            failed: versions that could not be loaded.
            coming: versions that are on their way, and in no plan yet.
            begun: whether a worker loads the plan, or has it.
        """
        held = {(name, one.version) for each in live for name, one in each.versions()}
        planned = _keys(plan)
        answering = self._answering(_keys(served), planned, held)
        for (name, version), failure in failed.items():
            if (name, version) not in planned:
                self._states.reach(name, version, ModelState.ENDED, failure.code, failure.message)
        if self._frees_first:
            self._unload(planned, answering, held, coming)
        for key in planned - answering:
            self._bring_up(*key, ModelState.LOADING if begun else ModelState.START)
        for name, version in answering:  # those too that a newer plan leaves out by now
            self._states.reach(name, version, ModelState.AVAILABLE)
        for key in coming:
            self._bring_up(*key, ModelState.START)
        self._unload(planned, answering, held, coming)

    def _answering(self, served: set[_Key], planned: set[_Key], held: set[_Key]) -> set[_Key]:
        """The versions that clients are answered with: until others have taken over everywhere, those of before.

        Where workers end before their successors load, only what one of them still has; but a worker that is
        replaced for other reasons leaves no trace.
        """
        if not self._frees_first:
            return served
        return {key for key in served if key in held or (key in planned and self._now(key) == ModelState.AVAILABLE)}

    def _unload(self, planned: set[_Key], answering: set[_Key], held: set[_Key], coming: Collection[_Key]) -> None:
        """Brings what nobody wants any more to its end."""
        for name, versions in self._states.statuses().items():
            for told in versions:
                key = (name, told.version)
                if key in planned or key in answering or told.state == ModelState.ENDED:
                    continue
                if told.state == ModelState.START and key in coming:
                    continue
                loaded = key in held and told.state != ModelState.LOADING
                self._states.reach(*key, ModelState.UNLOADING if loaded else ModelState.ENDED)

    def _now(self, key: _Key) -> ModelState | None:
        return self._states.state(*key)

    def _bring_up(self, name: str, version: int, state: ModelState) -> None:
        """Takes a version to START or LOADING, where it is not that far yet."""
        before = {
            ModelState.START: (None, ModelState.ENDED),
            ModelState.LOADING: (None, ModelState.ENDED, ModelState.START),
        }
        if self._states.state(name, version) in before[state]:
            self._states.reach(name, version, state)

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


def _keys(plan: Plan) -> set[_Key]:
    return {(name, one.version) for name, one in plan.versions()}

"""The life cycle of each version, as it follows from plans, workers and failures; and retries.

plans, failures  --settle-->  VersionStates: START -> LOADING -> AVAILABLE -> UNLOADING -> ENDED
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import LoadFailure, StateReader
from thriftserve.repository.version_states import VersionStates, VersionStatus
from thriftserve.repository.versions import VersionDir
from thriftserve.settings import ServeSettings
from thriftserve_idl.ttypes import ModelState

#: Pauses double with each failure up to this: a remedy on disk shows within the hour, also days later.
_LONGEST_PAUSE_S = 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a load or a fetch that failed is tried again, and after which pauses."""

    #: Tries after the first one.
    retries: int = 5
    #: Seconds before the first of them; doubled for each of the others.
    retry_s: float = 10.0

    @classmethod
    def from_settings(cls, settings: ServeSettings) -> RetryPolicy:
        """Return what the settings say."""
        return cls(settings.max_load_retries, settings.load_retry_interval_s)

    def pause_s(self, failures: int) -> float:
        """Return the seconds until the next try after so many failures, 1 or more; infinite: there is none."""
        if failures > self.retries:
            return math.inf
        return float(min(self.retry_s * 2 ** (failures - 1), _LONGEST_PAUSE_S))


@dataclass(frozen=True)
class _FailedVersion:
    directory: VersionDir
    last: LoadFailure
    count: int
    retry_at: float


class LoadBackoff:
    """The versions of all models that failed to load. Times are monotonic seconds; one thread at a time.

    Args:
        policy: of the next failures.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failed: dict[tuple[str, int], _FailedVersion] = {}

    def record(self, failure: LoadFailure, directory: VersionDir, now: float) -> None:
        """Note that a version failed to load from a directory, and log when it is tried again."""
        key = failure.name, failure.version
        count = self._failed[key].count + 1 if key in self._failed else 1
        pause_s = self._policy.pause_s(count)
        self._failed[key] = _FailedVersion(directory, failure, count, now + pause_s)
        when = f"is tried again in {pause_s:g} s" if pause_s < math.inf else "is not tried again by itself"
        log.error("model %s version %d can't be loaded, it %s: %s", *key, when, failure.message)

    def suspended(self, now: float) -> set[tuple[str, VersionDir]]:
        """Return the models and versions that are not to be tried now."""
        return {(name, failed.directory) for (name, _), failed in self._failed.items() if failed.retry_at > now}

    def failures(self) -> dict[tuple[str, int], LoadFailure]:
        """Return the last failure of each version."""
        return {key: failed.last for key, failed in self._failed.items()}

    def forget(self, name: str, version: int) -> None:
        """Forget a version that has been loaded, or is gone."""
        self._failed.pop((name, version), None)

    def forget_model(self, name: str) -> None:
        """Have every version of a model tried anew."""
        self._failed = {key: failed for key, failed in self._failed.items() if key[0] != name}

    def reset(self, policy: RetryPolicy) -> None:
        """Have everything tried anew, by the policy of a configuration that was read again."""
        self._policy = policy
        self._failed.clear()


#: The name of a model and the number of a version.
VersionKey = tuple[str, int]

#: The states from which a version is brought to START or LOADING; from others it is that far already.
_BEFORE: Mapping[ModelState, tuple[ModelState | None, ...]] = {
    ModelState.START: (None, ModelState.ENDED),
    ModelState.LOADING: (None, ModelState.ENDED, ModelState.START),
}


class VersionTracker:
    """The state of every version that is or was to be served. Used by one thread at a time.

    Args:
        previous: the state that an earlier controller of this server wrote; None: nothing has been served yet.
        frees_first: whether a worker ends before its successor loads (swap_policy "resource").
    """

    def __init__(self, previous: StateReader | None, *, frees_first: bool = False) -> None:
        self._states = VersionStates()
        self._frees_first = frees_first
        if previous is not None:
            self._states.restore(previous.statuses(), previous.counts())

    def settle(
        self,
        plan: Plan,
        served: Plan,
        live: Iterable[Plan],
        failed: Mapping[VersionKey, LoadFailure],
        pending: Collection[VersionKey] = (),
        *,
        begun: bool = True,
    ) -> None:
        """Bring every version to the state that follows from these.

        Args:
            plan: what workers are to load.
            served: what every worker had loaded last.
            live: the plans that the present workers have loaded.
            failed: versions that could not be loaded or fetched.
            pending: versions that are asked for and in no plan yet.
            begun: whether a worker loads the plan, or has loaded it.
        """
        loaded = {key for each in live for key in each.version_keys()}
        planned = plan.version_keys()
        # Until the next plan is everywhere, clients are answered with the versions served last; where workers end
        # before their successors load, only with those that a worker still has.
        answering = served.version_keys() & loaded if self._frees_first else served.version_keys()
        for key, failure in failed.items():
            if key not in planned:
                self._states.reach(*key, ModelState.ENDED, failure.code, failure.message)
        if self._frees_first:  # the worker has ended before its successor loads: so do its versions
            self._unload(planned, answering, loaded, pending)
        for key in planned - answering:
            self._bring_up(key, ModelState.LOADING if begun else ModelState.START)
        for key in answering:  # also those that a newer plan leaves out
            self._states.reach(*key, ModelState.AVAILABLE)
        for key in pending:
            self._bring_up(key, ModelState.START)
        self._unload(planned, answering, loaded, pending)

    def note_load_time(self, name: str, version: int, load_time_s: float) -> None:
        """Note how long a worker took to load a version and to warm it up."""
        self._states.loaded(name, version, load_time_s)

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """Return how often a version of a model has come into a state since the server started."""
        return self._states.counts()

    def statuses(self, configured: Collection[str]) -> dict[str, list[VersionStatus]]:
        """Return every known version by model; a model that is not configured is there until all its versions end."""
        return {
            name: versions
            for name, versions in self._states.statuses().items()
            if name in configured or any(status.state != ModelState.ENDED for status in versions)
        }

    def available(self, name: str) -> frozenset[int]:
        """Return the versions of a model that every worker answers with."""
        return self._states.available(name)

    def _unload(
        self,
        planned: set[VersionKey],
        answering: set[VersionKey],
        loaded: set[VersionKey],
        pending: Collection[VersionKey],
    ) -> None:
        """Take versions that nobody wants any more towards ENDED."""
        for name, versions in self._states.statuses().items():
            for status in versions:
                key = (name, status.version)
                if key in planned or key in answering or status.state == ModelState.ENDED:
                    continue
                if status.state == ModelState.START and key in pending:
                    continue
                unloading = key in loaded and status.state != ModelState.LOADING
                self._states.reach(*key, ModelState.UNLOADING if unloading else ModelState.ENDED)

    def _bring_up(self, key: VersionKey, state: ModelState) -> None:
        """Take a version to START or LOADING, unless it is further already."""
        if self._states.state(*key) in _BEFORE[state]:
            self._states.reach(*key, state)

"""Retries: how often what failed is tried again, after which pauses, and which versions wait for their next try.

LoadFailure  --record-->  LoadBackoff  --suspended(now)-->  versions that the next plan leaves out
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from thriftserve.repository.state_store import LoadFailure
from thriftserve.repository.versions import VersionDir
from thriftserve.settings import ServeSettings

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

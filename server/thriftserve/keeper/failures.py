"""Versions that could not be loaded, and when they are tried again.

Failed  --note-->  a pause, twice as long each time  --held_back(now)-->  versions not to be tried yet
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from thriftserve.keeper.timing import Timing
from thriftserve.models.repository import VersionDir
from thriftserve.models.state import Failed

log = logging.getLogger(__name__)


@dataclass
class _Failure:
    what: VersionDir
    why: Failed
    tries: int
    retry_at: float


class Failures:
    """Those of all models. Times are monotonic seconds."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._known: dict[tuple[str, int], _Failure] = {}

    def note(self, why: Failed, what: VersionDir, now: float) -> None:
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

    def why(self) -> dict[tuple[str, int], Failed]:
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

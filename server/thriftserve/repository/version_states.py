"""The life cycle of a version: its states, the transitions between them, and what is logged and counted of each.

START --> LOADING --> AVAILABLE --> UNLOADING --> ENDED --> START again, if it is loaded once more
             |  ^ another try, with the reason why the last one failed
             +--> ENDED with an error, if it can't be loaded

VersionStates.move("digits", 3, LOADING)  -->  Transition  -->  one JSON line in the log, a count, the status
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from thriftserve.errors import Code
from thriftserve_idl.ttypes import ModelState

#: Which states may follow each; None: nothing is known of the version yet.
FOLLOWS: Mapping[ModelState | None, tuple[ModelState, ...]] = MappingProxyType(
    {
        None: (ModelState.START,),
        ModelState.START: (ModelState.LOADING, ModelState.ENDED),
        ModelState.LOADING: (ModelState.LOADING, ModelState.AVAILABLE, ModelState.ENDED),
        ModelState.AVAILABLE: (ModelState.UNLOADING,),
        ModelState.UNLOADING: (ModelState.ENDED,),
        ModelState.ENDED: (ModelState.START,),
    }
)
#: So many ended versions of a model stay in its status; older ones are forgotten.
KEPT_ENDED = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model."""

    version: int
    state: ModelState
    error_code: Code | None = None
    error_message: str = ""
    #: Labels ("stable", …) that point at it.
    labels: tuple[str, ...] = ()
    #: How it is served, or how far a fetch is; for people.
    note: str = ""
    #: Seconds for loading and warming up, in the worker that did so last; None: no worker has.
    load_time_s: float | None = None


@dataclass(frozen=True)
class Transition:
    """A version's step from one state into another."""

    model: str
    version: int
    before: ModelState | None
    state: ModelState
    #: Unix time, in seconds.
    at: float
    #: How long the version was in the state before; 0 if there was none.
    lasted_s: float = 0.0
    error_code: Code | None = None
    error_message: str = ""

    def record(self) -> dict[str, str | int | float | None]:
        """Return the transition as JSON can hold it; without an error there are no error keys."""
        record: dict[str, str | int | float | None] = {
            "event": "model_version_state",
            "model": self.model,
            "version": self.version,
            "before": None if self.before is None else self.before.name,
            "state": self.state.name,
            "at": round(self.at, 3),
            "lasted_s": round(self.lasted_s, 3),
        }
        if self.error_code is not None:
            record |= {"error_code": self.error_code.name, "error_message": self.error_message}
        return record


class VersionStates:
    """The states of all versions of all models. Call it from one thread at a time.

    Args:
        clock: returns Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest: dict[str, dict[int, Transition]] = {}
        self._counts: Counter[tuple[str, ModelState]] = Counter()
        self._load_times_s: dict[tuple[str, int], float] = {}

    def restore(
        self, statuses: Mapping[str, Iterable[VersionStatus]], counts: Mapping[tuple[str, ModelState], int]
    ) -> None:
        """Take over what another process knew: nothing is logged or counted, for no version makes a step."""
        now = self._clock()
        self._counts.update(counts)
        for model, versions in statuses.items():
            for status in versions:
                self._latest.setdefault(model, {})[status.version] = Transition(
                    model, status.version, None, status.state, now, 0.0, status.error_code, status.error_message
                )
                if status.load_time_s is not None:
                    self._load_times_s[model, status.version] = status.load_time_s

    def move(
        self, model: str, version: int, state: ModelState, error_code: Code | None = None, error_message: str = ""
    ) -> Transition:
        """Take a version into a state, and write one line of JSON to the log.

        Args:
            model: its name.
            version: its number.
            state: one that may follow its present state, see `FOLLOWS`.
            error_code: why the version ended, or why loading it is tried again.
            error_message: the same in words.

        Raises:
            ValueError: the state can't follow the present one.
        """
        before = self._latest.get(model, {}).get(version)
        state_before = before.state if before else None
        if state not in FOLLOWS[state_before]:
            name = state_before.name if state_before is not None else "nothing"
            raise ValueError(f"model {model!r} version {version} can't go from {name} to {state.name}")
        now = self._clock()
        lasted_s = max(0.0, now - before.at) if before else 0.0
        transition = Transition(model, version, state_before, state, now, lasted_s, error_code, error_message)
        self._latest.setdefault(model, {})[version] = transition
        self._counts[model, state] += 1
        self._forget_old(model)
        level = logging.INFO if error_code is None else logging.WARNING
        log.log(level, "%s", json.dumps(transition.record(), ensure_ascii=False))
        return transition

    def reach(
        self, model: str, version: int, state: ModelState, error_code: Code | None = None, error_message: str = ""
    ) -> None:
        """Take a version to a state by the fewest moves; nothing if it is there. The last move has the error."""
        before = self.state(model, version)
        if before == state:
            return
        *between, last = _path(before, state)
        for step in between:
            self.move(model, version, step)
        self.move(model, version, last, error_code, error_message)

    def loaded(self, model: str, version: int, load_time_s: float) -> None:
        """Note how long a worker took to load a version and to warm it up."""
        self._load_times_s[model, version] = load_time_s

    def state(self, model: str, version: int) -> ModelState | None:
        """Return the state of a version; None if nothing is known of it."""
        latest = self._latest.get(model, {}).get(version)
        return latest.state if latest else None

    def available(self, model: str) -> frozenset[int]:
        """Return the versions of a model that answer requests."""
        versions = self._latest.get(model, {}).items()
        return frozenset(version for version, latest in versions if latest.state == ModelState.AVAILABLE)

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """Return every known version, newest first, by model: also those that failed or ended recently."""
        return {
            model: [
                VersionStatus(
                    version,
                    latest.state,
                    latest.error_code,
                    latest.error_message,
                    load_time_s=self._load_times_s.get((model, version)),
                )
                for version, latest in sorted(versions.items(), reverse=True)
            ]
            for model, versions in sorted(self._latest.items())
        }

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """Return how often a version of a model has come into a state, by model and state."""
        return dict(self._counts)

    def _forget_old(self, model: str) -> None:
        versions = self._latest[model]
        ended = [latest for latest in versions.values() if latest.state == ModelState.ENDED]
        for latest in sorted(ended, key=lambda transition: transition.at)[:-KEPT_ENDED]:
            del versions[latest.version]
            self._load_times_s.pop((model, latest.version), None)


def _path(before: ModelState | None, after: ModelState) -> list[ModelState]:
    """Return the states from one (left out) to another (included), as few as there can be: a breadth-first search."""
    paths: list[list[ModelState]] = [[state] for state in FOLLOWS[before]]
    while paths[0][-1] != after:
        path = paths.pop(0)
        paths += [[*path, state] for state in FOLLOWS[path[-1]] if state not in path]
    return paths[0]

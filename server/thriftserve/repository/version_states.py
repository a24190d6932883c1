"""The life of every version, as the server tells it.

START --> LOADING --> AVAILABLE --> UNLOADING --> ENDED --> START again, where it is loaded once more
             |  ^ another try, with the reason of the last
             +--> ENDED with an error, where it can't be loaded

VersionStates.move("digits", 3, LOADING)  -->  Transition  -->  one JSON line in the log, a count, the status
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from thriftserve.errors import Code
from thriftserve_idl.ttypes import ModelState

#: What may follow what; None: nothing is known of the version.
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
#: Versions of a model that are told of after their end; older ones are forgotten.
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
    #: How it is served.
    note: str = ""
    #: Seconds that loading and warming it up took, in the worker that did so last; None where none has.
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
    #: How long the state before lasted; 0 where there was none.
    lasted_s: float = 0.0
    error_code: Code | None = None
    error_message: str = ""

    def record(self) -> dict[str, str | int | float | None]:
        """The step as JSON can carry it; what there is no error of has no error keys."""
        told: dict[str, str | int | float | None] = {
            "event": "model_version_state",
            "model": self.model,
            "version": self.version,
            "before": None if self.before is None else self.before.name,
            "state": self.state.name,
            "at": round(self.at, 3),
            "lasted_s": round(self.lasted_s, 3),
        }
        if self.error_code is not None:
            told |= {"error_code": self.error_code.name, "error_message": self.error_message}
        return told


class VersionStates:
    """The states of all versions. Any thread may call it."""

    def __init__(
        self, heard: Callable[[Transition], None] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Knows of no version yet.

        Args:
            heard: called with each transition, one at a time, in the thread that made it.
            clock: tells Unix time, in seconds.
        """
        self._heard = heard
        self._clock = clock
        self._changing = threading.Lock()
        self._latest: dict[str, dict[int, Transition]] = {}
        self._counts: Counter[tuple[str, ModelState]] = Counter()
        self._load_times_s: dict[tuple[str, int], float] = {}

    def restore(
        self, statuses: Mapping[str, Iterable[VersionStatus]], counts: Mapping[tuple[str, ModelState], int]
    ) -> None:
        """Takes over what another process told: no version makes a step, so nothing is logged or counted."""
        with self._changing:
            now = self._clock()
            self._counts.update(counts)
            for model, versions in statuses.items():
                for one in versions:
                    known = Transition(model, one.version, None, one.state, now, 0.0, one.error_code, one.error_message)
                    self._latest.setdefault(model, {})[one.version] = known
                    if one.load_time_s is not None:
                        self._load_times_s[model, one.version] = one.load_time_s

    def move(
        self, model: str, version: int, state: ModelState, error_code: Code | None = None, error_message: str = ""
    ) -> Transition:
        """Takes a version into a state, and writes one line of JSON to the log.

        Args:
            model: its name.
            version: its number.
            state: one that may follow its present one, see `FOLLOWS`.
            error_code: why it ended, or why loading it is tried again.
            error_message: the same in words.

        Raises:
            ValueError: the state can't follow the present one.
        """
        with self._changing:
            versions = self._latest.get(model, {})
            before = versions.get(version)
            came_from = before.state if before else None
            if state not in FOLLOWS[came_from]:
                was = came_from.name if came_from is not None else "nothing"
                raise ValueError(f"model {model!r} version {version} can't go from {was} to {state.name}")
            now = self._clock()
            lasted = max(0.0, now - before.at) if before else 0.0
            made = Transition(model, version, came_from, state, now, lasted, error_code, error_message)
            self._latest.setdefault(model, {})[version] = made
            self._counts[model, state] += 1
            self._forget(model)
            self._tell(made)
        return made

    def loaded(self, model: str, version: int, took_s: float) -> None:
        """A worker has loaded a version and warmed it up, in that time."""
        with self._changing:
            self._load_times_s[model, version] = took_s

    def state(self, model: str, version: int) -> ModelState | None:
        """The state of a version; None where nothing is known of it."""
        found = self._latest.get(model, {}).get(version)
        return found.state if found else None

    def available(self, model: str) -> frozenset[int]:
        """The versions of a model that answer requests."""
        with self._changing:
            return frozenset(
                version for version, last in self._latest.get(model, {}).items() if last.state == ModelState.AVAILABLE
            )

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """Every version that is known, newest first, by model: those that failed or ended lately too."""
        with self._changing:
            return {
                model: [
                    VersionStatus(
                        version,
                        last.state,
                        last.error_code,
                        last.error_message,
                        load_time_s=self._load_times_s.get((model, version)),
                    )
                    for version, last in sorted(versions.items(), reverse=True)
                ]
                for model, versions in sorted(self._latest.items())
            }

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """How often a version of a model came into a state, since the start."""
        with self._changing:
            return dict(self._counts)

    def _tell(self, made: Transition) -> None:
        failed = made.error_code is not None
        log.log(logging.WARNING if failed else logging.INFO, "%s", json.dumps(made.record(), ensure_ascii=False))
        if self._heard is not None:
            self._heard(made)

    def _forget(self, model: str) -> None:
        versions = self._latest[model]
        ended = [last for last in versions.values() if last.state == ModelState.ENDED]
        for last in sorted(ended, key=lambda one: one.at)[:-KEPT_ENDED]:
            del versions[last.version]
            self._load_times_s.pop((model, last.version), None)

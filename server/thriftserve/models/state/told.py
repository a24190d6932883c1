"""The state of every version and the labels, as the keeper tells them and every process reads them.

keeper --state.json--> Told: read again when the number that the processes share has grown
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from thriftserve.errors import Code
from thriftserve.models.state.directory import StateDir
from thriftserve.models.states import VersionStatus
from thriftserve_idl.ttypes import ModelState

FILE = "state"


def written(
    statuses: Mapping[str, Iterable[VersionStatus]],
    labels: Mapping[str, Mapping[str, int]],
    counts: Mapping[tuple[str, ModelState], int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The states by model, the versions by model and label, and the number of steps, as what JSON can hold."""
    return {
        "models": {
            name: [
                [one.version, int(one.state), one.error_code, one.error_message, one.load_time_s, one.note]
                for one in versions
            ]
            for name, versions in statuses.items()
        },
        "labels": {name: dict(each) for name, each in labels.items()},
        "counts": [[name, int(state), number] for (name, state), number in counts.items()],
    }


class Told:
    """The file, as a process other than the keeper sees it. Threads may share one.

    Args:
        state: where the file is.
        number: tells how often the file has changed; asking costs nothing.
    """

    def __init__(self, state: StateDir, number: Callable[[], int]) -> None:
        self.number = number
        self._state = state
        self._read: tuple[int, Mapping[str, Any]] = (-1, {"models": {}, "labels": {}, "counts": []})

    def _now(self) -> Mapping[str, Any]:
        number = self.number()
        if number != self._read[0]:  # taken before the file: one that is changed meanwhile is read once more
            self._read = (number, self._state.read(FILE) or self._read[1])
        return self._read[1]

    def labels(self, name: str) -> Mapping[str, int]:
        """The versions of a model by their labels."""
        found: Mapping[str, int] = self._now()["labels"].get(name, {})
        return found

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """How often a version of a model came into a state."""
        return {(name, ModelState(state)): number for name, state, number in self._now()["counts"]}

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """The state of every version, newest first, by model."""
        models = self._now()["models"]
        return {name: _statuses(models[name], self.labels(name)) for name in sorted(models)}


def _statuses(versions: list[list[Any]], labels: Mapping[str, int]) -> list[VersionStatus]:
    newest_first = sorted(versions, key=lambda one: -int(one[0]))
    return [
        VersionStatus(
            version,
            ModelState(state),
            None if code is None else Code(code),
            message,
            tuple(sorted(each for each in labels if labels[each] == version)),
            note,
            load_time_s,
        )
        for version, state, code, message, load_time_s, note in newest_first
    ]

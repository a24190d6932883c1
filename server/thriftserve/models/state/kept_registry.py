"""A worker's models, beside what the keeper tells of all.

    get("digits", label="stable")  --Told: version 3-->  Servable of version 3

A label that moves is looked up where it stands now, so that no worker has to be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from thriftserve.models.registry import Registry, VersionStatus
from thriftserve.models.servable import Servable
from thriftserve.models.state.told import Told
from thriftserve_idl.ttypes import ModelState


class KeptRegistry(Registry):
    """What a worker serves, where a keeper decides on that."""

    def __init__(self, servables: Iterable[Servable], told: Told) -> None:
        super().__init__(servables)
        self._told = told
        self._seen = -1

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable that a request asks for, as for any registry."""
        if label is not None or version is not None or name not in self._table.models:
            self._refresh()
        return super().get(name, version, label)

    def statuses(self, name: str | None = None, version: int | None = None) -> dict[str, list[VersionStatus]]:
        """The state of every version as the keeper knows it, newest first, by model.

        Raises:
            NotFound: no such model or version.
        """
        self._refresh()
        found = self._told.statuses()
        if name is not None:
            named = [one for one in found.get(name, ()) if version in (None, one.version)]
            if not named:
                return super().statuses(name, version)
            found = {name: named}
        notes = {(one.name, one.version): one.note for one in self.servables()}
        return {
            each: [replace(one, note=one.note or notes.get((each, one.version), "")) for one in versions]
            for each, versions in found.items()
        }

    def transitions(self, name: str) -> dict[ModelState, int] | None:
        """How often a version of a model has come into each state since the server started."""
        counts = {state: number for (each, state), number in self._told.counts().items() if each == name}
        return counts or None

    def _refresh(self) -> None:
        number = self._told.number()
        if number != self._seen:
            statuses = self._told.statuses()
            self.relabel({name: self._told.labels(name) for name in statuses})
            self.remember(statuses)
            self._seen = number

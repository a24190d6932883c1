"""The models that this process serves, by name and version.

    get("digits")  -->  the newest Servable of "digits", or NotFound saying what there is

Readers take no lock: they read one immutable table, which `replace`, `relabel` and `remember` swap for another. So a
version, a label and a status change for all readers at one moment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from thriftserve.errors import FailedPrecondition, InvalidArgument, NotFound, ThriftServeError, Unavailable
from thriftserve.models.servable import Servable
from thriftserve.repository.state_store import StateReader
from thriftserve.repository.version_states import VersionStatus
from thriftserve_idl.ttypes import ModelState

__all__ = ["Registry", "VersionStatus"]

#: States of a version that will answer soon, so that asking again makes sense.
_COMING = (ModelState.START, ModelState.LOADING)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Model:
    """One model's versions, newest first."""

    newest: Servable
    by_version: Mapping[int, Servable]


@dataclass(frozen=True)
class _Table:
    """Everything that readers see, at one moment."""

    models: Mapping[str, _Model]
    #: Versions by label, by model.
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: Versions that are not served: coming, failed or ended lately.
    others: Mapping[str, tuple[VersionStatus, ...]] = field(default_factory=dict)

    def labels_of(self, name: str) -> dict[str, int]:
        """Versions by label: a servable's own labels, then those of `relabel`."""
        own = self.models[name].by_version.values() if name in self.models else ()
        return {label: one.version for one in own for label in one.version_labels} | dict(self.labels.get(name, {}))


class Registry:
    """What is served now."""

    def __init__(self, servables: Iterable[Servable] = ()) -> None:
        self._changing = threading.Lock()
        self._table = _Table(_models(servables))

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable that a request asks for: the newest version unless it names one.

        Raises:
            NotFound: no such model or version.
            Unavailable: the version, or the model's only one, is still loading.
            FailedPrecondition: no version has that label, or the one that has it is not available.
            InvalidArgument: both a version and a label were given.
        """
        table = self._table
        model = table.models.get(name)
        if model is None:
            raise _no_model(name, table)
        if version is None and label is None:
            return model.newest
        if version is not None and label is not None:
            raise InvalidArgument(f"model {name!r} is asked for by version {version} and by label {label!r}: give one")
        return _labelled(name, table, label) if version is None else _numbered(name, table, version)

    def names(self) -> list[str]:
        """Names of the models served, sorted."""
        return sorted(self._table.models)

    def servables(self) -> list[Servable]:
        """Every version of every model, by name, newest first."""
        models = self._table.models
        return [one for name in sorted(models) for one in models[name].by_version.values()]

    def statuses(self, name: str | None = None, version: int | None = None) -> dict[str, list[VersionStatus]]:
        """The state of every version, newest first, by model; of one model or one version where named.

        Those that are served are there, and those that `remember` was told of.

        Raises:
            NotFound: no such model or version.
        """
        table = self._table
        if name is None:
            return {each: _statuses(each, table) for each in sorted({*table.models, *table.others})}
        found = _statuses(name, table)
        if not found:
            raise _no_model(name, table)
        if version is None:
            return {name: found}
        named = [one for one in found if one.version == version]
        if not named:
            raise _no_version(name, table, version)
        return {name: named}

    def transitions(self, name: str) -> dict[ModelState, int] | None:
        """How often a version of a model has come into each state; None where nobody counts."""
        return None

    def replace(
        self, servables: Iterable[Servable], labels: Mapping[str, Mapping[str, int]] | None = None
    ) -> list[Servable]:
        """Serves these and no others from now on; with these labels where they are given.

        Returns:
            What is no longer served. Requests may still be running on it: closing it is the caller's,
            when they are done.
        """
        fresh = _models(servables)
        with self._changing:
            before = self._table
            self._table = replace(before, models=fresh, labels=before.labels if labels is None else labels)
        kept = {id(one) for model in fresh.values() for one in model.by_version.values()}
        return [one for model in before.models.values() for one in model.by_version.values() if id(one) not in kept]

    def relabel(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Has the labels of each model point at these versions from now on, served or not."""
        with self._changing:
            self._table = replace(self._table, labels=labels)

    def remember(self, others: Mapping[str, Iterable[VersionStatus]]) -> None:
        """Tells of these versions too in `statuses`; those that are served speak for themselves."""
        kept = {name: tuple(many) for name, many in others.items() if many}
        with self._changing:
            self._table = replace(self._table, others=kept)

    def close(self) -> None:
        """Serves nothing any more and closes every session; one that fails to close is told in the log."""
        for servable in self.replace(()):
            try:
                servable.session.close()
            except Exception:  # a Python model's own code; the others still want closing
                log.exception("model %s version %d failed to close", servable.name, servable.version)


def _models(servables: Iterable[Servable]) -> dict[str, _Model]:
    grouped: dict[str, list[Servable]] = {}
    for servable in servables:
        grouped.setdefault(servable.name, []).append(servable)
    return {name: _model(sorted(many, key=lambda one: -one.version)) for name, many in grouped.items()}


def _model(newest_first: list[Servable]) -> _Model:
    return _Model(newest_first[0], {one.version: one for one in newest_first})


def _numbered(name: str, table: _Table, version: int) -> Servable:
    found = table.models[name].by_version.get(version)
    if found is None:
        raise _no_version(name, table, version)
    return found


def _labelled(name: str, table: _Table, label: str | None) -> Servable:
    labels = table.labels_of(name)
    version = labels.get(label or "")
    if version is None:
        raise FailedPrecondition(
            f"no version of model {name!r} has the label {label!r}; labels: {', '.join(map(repr, labels)) or 'none'}"
        )
    found = table.models[name].by_version.get(version)
    if found is None:
        raise FailedPrecondition(
            f"the label {label!r} of model {name!r} points at version {version}, which is not available; "
            f"served: {_served(table.models[name])}"
        )
    return found


def _no_model(name: str, table: _Table) -> ThriftServeError:
    others = table.others.get(name, ())
    if not others:
        served = ", ".join(map(repr, sorted(table.models)))
        return NotFound(f"no model named {name!r} is served; served: {served or 'none'}")
    told = f"model {name!r} has no version available: {'; '.join(map(_told, others))}"
    return Unavailable(told) if any(one.state in _COMING for one in others) else NotFound(told)


def _no_version(name: str, table: _Table, version: int) -> ThriftServeError:
    other = next((one for one in table.others.get(name, ()) if one.version == version), None)
    served = _served(table.models[name]) if name in table.models else "none"
    if other is not None and other.state in _COMING:
        return Unavailable(f"model {name!r}: version {_told(other)}; served: {served}")
    known = "" if other is None else f" any more: {_told(other)}"
    return NotFound(f"model {name!r} has no version {version}{known}; served: {served}")


def _served(model: _Model) -> str:
    return ", ".join(map(str, model.by_version))


def _told(status: VersionStatus) -> str:
    reason = f" ({status.error_message})" if status.error_message else ""
    return f"{status.version} is {ModelState(status.state).name}{reason}"


def _statuses(name: str, table: _Table) -> list[VersionStatus]:
    served = table.models[name].by_version if name in table.models else {}
    labels: dict[int, list[str]] = {}
    for label, version in table.labels_of(name).items():
        labels.setdefault(version, []).append(label)
    own = [VersionStatus(one.version, ModelState.AVAILABLE, note=one.note) for one in served.values()]
    others = [one for one in table.others.get(name, ()) if one.version not in served]
    return [
        replace(one, labels=tuple(labels.get(one.version, ())))
        for one in sorted([*own, *others], key=lambda one: -one.version)
    ]


# A worker's models, beside what the keeper tells of all.


class SharedStateRegistry(Registry):
    """What a worker serves, where a keeper decides on that."""

    def __init__(self, servables: Iterable[Servable], told: StateReader) -> None:
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

"""The models that this process serves, by name and version.

    get("digits")  -->  the newest Servable of "digits", or NotFound with what there is

Readers take no lock: they read one immutable table, which `replace`, `relabel` and `remember` swap for another. So a
version, a label and a status change for all readers at one moment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from thriftserve.errors import FailedPrecondition, InvalidArgument, NotFound, ThriftServeError, Unavailable
from thriftserve.models.session import Session, Signature
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.model_settings import UNSET, BatchingSettings
from thriftserve.repository.state_store import StateReader
from thriftserve.repository.version_states import VersionStatus
from thriftserve_idl.ttypes import ModelState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Servable:
    """A version of a model, ready to run."""

    name: str
    version: int
    session: Session
    #: Class names by class number; empty if the model has none.
    labels: tuple[str, ...] = ()
    #: How encoded images become the image input; None if the model takes none.
    image: ImageSettings | None = None
    #: How its requests share runs.
    batching: BatchingSettings = UNSET.batching
    #: Strings that it is likely to know, to try it with.
    words: tuple[bytes, ...] = ()
    #: How it is served, for the status: "frozen", "as loaded: …"; empty if there is nothing to say.
    note: str = ""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""
        return self.session.signatures


def close_all(servables: Iterable[Servable]) -> None:
    """Close every session; one that fails to close is logged."""
    for servable in servables:
        try:
            servable.session.close()
        except Exception:  # a Python model's own code; the others still want closing
            log.exception("model %s version %d failed to close", servable.name, servable.version)


#: States of a version that will answer soon, so that asking again makes sense.
_COMING = (ModelState.START, ModelState.LOADING)


class Registry:
    """The models served now. Thread-safe; in a worker process."""

    def __init__(self, servables: Iterable[Servable] = ()) -> None:
        self._changing = threading.Lock()
        self._table = _Table(_by_name(servables))

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """Return the servable that a request asks for: the newest version unless it names one.

        Raises:
            NotFound: No such model or version.
            Unavailable: The version, or the model's only one, is still loading.
            FailedPrecondition: No version has that label, or the one that has it is not available.
            InvalidArgument: Both a version and a label are given.
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
        """Return the names of the models served, sorted."""
        return sorted(self._table.models)

    def servables(self) -> list[Servable]:
        """Return every version of every model, by name, newest first."""
        models = self._table.models
        return [servable for name in sorted(models) for servable in models[name].by_version.values()]

    def statuses(self, name: str | None = None, version: int | None = None) -> dict[str, list[VersionStatus]]:
        """Return the state of every version, newest first, by model; of one model or one version if named.

        The versions that are served are there, and those that `remember` was given.

        Raises:
            NotFound: No such model or version.
        """
        table = self._table
        if name is None:
            return {each: _statuses(each, table) for each in sorted({*table.models, *table.others})}
        statuses = _statuses(name, table)
        if not statuses:
            raise _no_model(name, table)
        if version is None:
            return {name: statuses}
        asked = [status for status in statuses if status.version == version]
        if not asked:
            raise _no_version(name, table, version)
        return {name: asked}

    def transitions(self, name: str) -> dict[ModelState, int] | None:
        """Return how often a version of a model has come into each state; None if nobody counts."""
        return None

    def replace(
        self, servables: Iterable[Servable], labels: Mapping[str, Mapping[str, int]] | None = None
    ) -> list[Servable]:
        """Serve these and no others from now on; with these labels, if given.

        Returns:
            What is no longer served. Requests may still be running on it: the caller closes it when they are done.
        """
        models = _by_name(servables)
        with self._changing:
            before = self._table
            self._table = replace(before, models=models, labels=before.labels if labels is None else labels)
        still = {id(servable) for model in models.values() for servable in model.by_version.values()}
        served = (servable for model in before.models.values() for servable in model.by_version.values())
        return [servable for servable in served if id(servable) not in still]

    def relabel(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Point the labels of each model at these versions from now on, served or not."""
        with self._changing:
            self._table = replace(self._table, labels=labels)

    def remember(self, others: Mapping[str, Iterable[VersionStatus]]) -> None:
        """Add these versions to `statuses`; those that are served have their own status."""
        known = {name: tuple(statuses) for name, statuses in others.items() if statuses}
        with self._changing:
            self._table = replace(self._table, others=known)

    def close(self) -> None:
        """Serve nothing any more and close every session; one that fails to close is logged."""
        close_all(self.replace(()))


class SharedStateRegistry(Registry):
    """The models of a worker whose controller decides what is served; it reads the controller's state of all versions.

    Args:
        servables: what this worker serves.
        state: reads what the controller has published.
    """

    def __init__(self, servables: Iterable[Servable], state: StateReader) -> None:
        super().__init__(servables)
        self._state = state
        self._seen = -1

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """Return the servable that a request asks for, as any registry."""
        if label is not None or version is not None or name not in self._table.models:
            self._refresh()
        return super().get(name, version, label)

    def statuses(self, name: str | None = None, version: int | None = None) -> dict[str, list[VersionStatus]]:
        """Return the state of every version as the controller knows it, newest first, by model.

        Raises:
            NotFound: No such model or version.
        """
        self._refresh()
        statuses = self._state.statuses()
        if name is not None:
            asked = [status for status in statuses.get(name, ()) if version in (None, status.version)]
            if not asked:
                return super().statuses(name, version)
            statuses = {name: asked}
        notes = {(servable.name, servable.version): servable.note for servable in self.servables()}
        return {
            each: [replace(status, note=status.note or notes.get((each, status.version), "")) for status in versions]
            for each, versions in statuses.items()
        }

    def transitions(self, name: str) -> dict[ModelState, int] | None:
        """Return how often a version of a model has come into each state since the server started."""
        counts = {state: number for (each, state), number in self._state.counts().items() if each == name}
        return counts or None

    def _refresh(self) -> None:
        number = self._state.number()
        if number != self._seen:
            statuses = self._state.statuses()
            self.relabel({name: self._state.labels(name) for name in statuses})
            self.remember(statuses)
            self._seen = number


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


def _by_name(servables: Iterable[Servable]) -> dict[str, _Model]:
    grouped: dict[str, list[Servable]] = {}
    for servable in sorted(servables, key=lambda each: -each.version):
        grouped.setdefault(servable.name, []).append(servable)
    return {name: _Model(same[0], {each.version: each for each in same}) for name, same in grouped.items()}


def _numbered(name: str, table: _Table, version: int) -> Servable:
    servable = table.models[name].by_version.get(version)
    if servable is None:
        raise _no_version(name, table, version)
    return servable


def _labelled(name: str, table: _Table, label: str | None) -> Servable:
    labels = table.labels.get(name, {})
    version = labels.get(label or "")
    if version is None:
        raise FailedPrecondition(
            f"no version of model {name!r} has the label {label!r}; labels: {', '.join(map(repr, labels)) or 'none'}"
        )
    servable = table.models[name].by_version.get(version)
    if servable is None:
        raise FailedPrecondition(
            f"the label {label!r} of model {name!r} points at version {version}, which is not available; "
            f"served: {_served(table.models[name])}"
        )
    return servable


def _no_model(name: str, table: _Table) -> ThriftServeError:
    others = table.others.get(name, ())
    if not others:
        served = ", ".join(map(repr, sorted(table.models)))
        return NotFound(f"no model named {name!r} is served; served: {served or 'none'}")
    message = f"model {name!r} has no version available: {'; '.join(map(_describe, others))}"
    return Unavailable(message) if any(status.state in _COMING for status in others) else NotFound(message)


def _no_version(name: str, table: _Table, version: int) -> ThriftServeError:
    other = next((status for status in table.others.get(name, ()) if status.version == version), None)
    served = _served(table.models[name]) if name in table.models else "none"
    if other is not None and other.state in _COMING:
        return Unavailable(f"model {name!r}: version {_describe(other)}; served: {served}")
    known = "" if other is None else f" any more: {_describe(other)}"
    return NotFound(f"model {name!r} has no version {version}{known}; served: {served}")


def _served(model: _Model) -> str:
    return ", ".join(map(str, model.by_version))


def _describe(status: VersionStatus) -> str:
    reason = f" ({status.error_message})" if status.error_message else ""
    return f"{status.version} is {ModelState(status.state).name}{reason}"


def _statuses(name: str, table: _Table) -> list[VersionStatus]:
    served = table.models[name].by_version if name in table.models else {}
    labels: dict[int, list[str]] = {}
    for label, version in table.labels.get(name, {}).items():
        labels.setdefault(version, []).append(label)
    own = [VersionStatus(each.version, ModelState.AVAILABLE, note=each.note) for each in served.values()]
    others = [status for status in table.others.get(name, ()) if status.version not in served]
    return [
        replace(status, labels=tuple(labels.get(status.version, ())))
        for status in sorted([*own, *others], key=lambda status: -status.version)
    ]

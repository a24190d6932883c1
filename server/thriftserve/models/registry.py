"""The models that this process serves, by name and version.

    get("digits")  -->  the newest Servable of "digits", or NotFound saying what there is

Readers take no lock: they read one immutable table, which `replace` swaps for another. That is the
seam for changing models while serving.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thriftserve.errors import Code, FailedPrecondition, InvalidArgument, NotFound
from thriftserve.models.servable import Servable
from thriftserve_idl.ttypes import ModelState

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


@dataclass(frozen=True)
class _Model:
    """One model's versions, newest first, and who is asked for by label."""

    newest: Servable
    by_version: Mapping[int, Servable]
    by_label: Mapping[str, Servable]


class Registry:
    """What is served now."""

    def __init__(self, servables: Iterable[Servable] = ()) -> None:
        self._changing = threading.Lock()
        self._table: Mapping[str, _Model] = _table(servables)

    def get(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable that a request asks for: the newest version unless it names one.

        Raises:
            NotFound: no such model or version.
            FailedPrecondition: no version has that label.
            InvalidArgument: both a version and a label were given.
        """
        model = self._table.get(name)
        if model is None:
            raise self._no_model(name)
        if version is None and label is None:
            return model.newest
        return _pick(name, model, version, label)

    def names(self) -> list[str]:
        """Names of the models served, sorted."""
        return sorted(self._table)

    def servables(self) -> list[Servable]:
        """Every version of every model, by name, newest first."""
        table = self._table
        return [one for name in sorted(table) for one in table[name].by_version.values()]

    def statuses(self, name: str | None = None, version: int | None = None) -> dict[str, list[VersionStatus]]:
        """The state of every version, newest first, by model; of one model or one version where named.

        Raises:
            NotFound: no such model or version.
        """
        table = self._table
        if name is None:
            return {each: [_status(one) for one in table[each].by_version.values()] for each in sorted(table)}
        if version is not None:
            return {name: [_status(self.get(name, version))]}
        self.get(name)
        return {name: [_status(one) for one in table[name].by_version.values()]}

    def replace(self, servables: Iterable[Servable]) -> list[Servable]:
        """Serves these and no others from now on.

        Returns:
            What is no longer served. Requests may still be running on it: closing it is the caller's,
            when they are done.
        """
        fresh = _table(servables)
        with self._changing:
            before, self._table = self._table, fresh
        kept = {id(one) for model in fresh.values() for one in model.by_version.values()}
        return [one for model in before.values() for one in model.by_version.values() if id(one) not in kept]

    def close(self) -> None:
        """Serves nothing any more and closes every session; one that fails to close is told in the log."""
        for servable in self.replace(()):
            try:
                servable.session.close()
            except Exception:  # a Python model's own code; the others still want closing
                log.exception("model %s version %d failed to close", servable.name, servable.version)

    def _no_model(self, name: str) -> NotFound:
        served = ", ".join(repr(each) for each in self.names())
        return NotFound(f"no model named {name!r} is served; served: {served or 'none'}")


def _table(servables: Iterable[Servable]) -> dict[str, _Model]:
    grouped: dict[str, list[Servable]] = {}
    for servable in servables:
        grouped.setdefault(servable.name, []).append(servable)
    return {name: _model(sorted(many, key=lambda one: -one.version)) for name, many in grouped.items()}


def _model(newest_first: list[Servable]) -> _Model:
    labels = {label: one for one in newest_first for label in one.version_labels}
    return _Model(newest_first[0], {one.version: one for one in newest_first}, labels)


def _pick(name: str, model: _Model, version: int | None, label: str | None) -> Servable:
    if label is None and version is not None:
        found = model.by_version.get(version)
        if found is None:
            raise NotFound(f"model {name!r} has no version {version}; served: {', '.join(map(str, model.by_version))}")
        return found
    if version is not None:
        raise InvalidArgument(f"model {name!r} is asked for by version {version} and by label {label!r}: give one")
    found = model.by_label.get(label or "")
    if found is None:
        raise FailedPrecondition(
            f"no version of model {name!r} has the label {label!r}; "
            f"labels: {', '.join(map(repr, model.by_label)) or 'none'}"
        )
    return found


def _status(servable: Servable) -> VersionStatus:
    return VersionStatus(servable.version, ModelState.AVAILABLE, labels=servable.version_labels, note=servable.note)

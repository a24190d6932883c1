"""Which version each label of a model points at.

    configuration --configure-->   {"digits": {"stable": 42, "canary": 43}}   <--set, remove-- setVersionLabel
                                                     |  file: the labels that operators have set

Rules:

- The configuration says where its labels point.
- A label that an operator sets stays there, over restarts and reloads, until the configuration gives that label another
  version than it did when the label was set, no longer names it, or drops the model. A label that the configuration
  never names stays until it is removed.
- A label points at an available version, or stays where it was: no request is lost while a version loads. With
  `allow_unavailable`, a new label may point at any version; a label in use may not, as in TensorFlow Serving. Labels of
  a model that the configuration adds may always: no client calls it yet.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thriftserve.errors import ConfigError, FailedPrecondition, InvalidArgument, NotFound
from thriftserve.files import write_atomically

#: Versions by label, by model.
LabelMap = Mapping[str, Mapping[str, int]]
#: Longest label, in characters.
_MAX_LABEL_CHARS = 128
_FORMAT = 1


@dataclass(frozen=True)
class SetLabel:
    """A label that an operator has set."""

    version: int
    #: Where the configuration had the label at that time; None: it did not name the label.
    configured: int | None


class Labels:
    """The labels of all models. Threads may share it; each change is visible as a whole or not at all.

    Args:
        file: where the labels that operators set are kept, replaced at each change. None: they end with the process.

    Raises:
        ConfigError: the file is there and can't be read.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._changing = threading.Lock()
        self._configured: dict[str, dict[str, int]] = {}
        self._set: dict[str, dict[str, SetLabel]] = _read(file) if file is not None else {}
        self._current: LabelMap = {}

    def current(self) -> LabelMap:
        """Return where every label points. The result never changes: the next change makes another one."""
        return self._current

    def configure(
        self,
        configured: LabelMap,
        available: Mapping[str, Collection[int]] | None = None,
        *,
        allow_unavailable: bool = False,
    ) -> LabelMap:
        """Apply the labels of a configuration.

        Args:
            configured: the labels of every model in the configuration; labels of other models are dropped.
            available: the versions of each model that answer requests; None at the start, when every label may
                point at what is about to be loaded.
            allow_unavailable: let new labels point at any version.

        Raises:
            FailedPrecondition: a label of a model that was there before would point at a version that is not
                available; nothing is changed.
        """
        with self._changing:
            still_set = {model: _still_set(self._set.get(model, {}), labels) for model, labels in configured.items()}
            merged = {
                model: dict(labels) | {label: set_label.version for label, set_label in still_set[model].items()}
                for model, labels in configured.items()
            }
            if available is not None:
                self._check(merged, available, allow_unavailable=allow_unavailable)
            self._change({model: dict(labels) for model, labels in configured.items()}, still_set, merged)
            return self._current

    def set(
        self,
        model: str,
        label: str,
        version: int,
        available: Collection[int],
        *,
        allow_unavailable: bool = False,
    ) -> LabelMap:
        """Point a label of a model at a version, from now on and after a restart.

        Raises:
            NotFound: there is no such model.
            InvalidArgument: the label is empty or too long.
            FailedPrecondition: the version is not available.
        """
        if not 0 < len(label) <= _MAX_LABEL_CHARS:
            raise InvalidArgument(f"a label of {len(label)} characters: give 1 to {_MAX_LABEL_CHARS}")
        with self._changing:
            self._check_model(model)
            merged = {name: dict(labels) for name, labels in self._current.items()}
            merged[model][label] = version
            self._check({model: merged[model]}, {model: available}, allow_unavailable=allow_unavailable, only=label)
            configured = self._configured[model].get(label)
            changed = {name: dict(labels) for name, labels in self._set.items()}
            changed.setdefault(model, {})[label] = SetLabel(version, configured)
            if version == configured:
                del changed[model][label]
            self._change(self._configured, changed, merged)
            return self._current

    def remove(self, model: str, label: str) -> LabelMap:
        """Remove a label that an operator has set; if the configuration names it, it goes back to that version.

        Raises:
            NotFound: there is no such model, or it has no such label.
            FailedPrecondition: the label is where the configuration has it.
        """
        with self._changing:
            self._check_model(model)
            if label not in self._current[model]:
                raise NotFound(f"model {model!r} has no label {label!r}; labels: {_listed(self._current[model])}")
            if label not in self._set.get(model, {}):
                raise FailedPrecondition(
                    f"label {label!r} of model {model!r} is set in its configuration: remove it there"
                )
            merged = {name: dict(labels) for name, labels in self._current.items()}
            changed = {name: dict(labels) for name, labels in self._set.items()}
            del changed[model][label], merged[model][label]
            if label in self._configured[model]:
                merged[model][label] = self._configured[model][label]
            self._change(self._configured, changed, merged)
            return self._current

    def _check(
        self,
        merged: LabelMap,
        available: Mapping[str, Collection[int]],
        *,
        allow_unavailable: bool,
        only: str | None = None,
    ) -> None:
        """Raise FailedPrecondition if a label would move to a version that is not available."""
        faults = []
        for model, labels in merged.items():
            if model not in self._current:
                continue
            for label, version in labels.items():
                before = self._current[model].get(label)
                moves = label == only if only is not None else version != before
                if not moves or version in available.get(model, ()) or (allow_unavailable and before is None):
                    continue
                faults.append(
                    f"label {label!r} of model {model!r} can't point at version {version}, which is not available"
                )
        if faults:
            raise FailedPrecondition(
                f"{'; '.join(faults)}: have the version served first, and move the label when it is available"
            )

    def _check_model(self, model: str) -> None:
        if model not in self._current:
            raise NotFound(f"no model named {model!r} is served; served: {_listed(self._current)}")

    def _change(
        self, configured: dict[str, dict[str, int]], changed: dict[str, dict[str, SetLabel]], merged: LabelMap
    ) -> None:
        """Write the file, then show the change: what was visible once comes back after a restart."""
        changed = {model: labels for model, labels in changed.items() if labels}
        if self._file is not None and changed != self._set:
            _write(self._file, changed)
        self._configured, self._set, self._current = configured, changed, merged


def _still_set(set_labels: Mapping[str, SetLabel], configured: Mapping[str, int]) -> dict[str, SetLabel]:
    """Return the set labels of which the configuration says what it said when they were set."""
    return {
        label: set_label for label, set_label in set_labels.items() if configured.get(label) == set_label.configured
    }


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def _read(file: Path) -> dict[str, dict[str, SetLabel]]:
    """Return the labels in a file, by model and label; none if there is no file.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT}")
        return {
            str(model): {str(label): _set_label(entry) for label, entry in labels.items()}
            for model, labels in content["labels"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file}: the labels of an earlier run can't be read: {error!r}; restore the file, or remove it to go on "
            "with the labels of the configuration"
        ) from error


def _set_label(entry: Mapping[str, object]) -> SetLabel:
    version, configured = entry["version"], entry["configured"]
    if not isinstance(version, int) or not isinstance(configured, int | None):
        raise TypeError(f"{dict(entry)!r} is no label")
    return SetLabel(version, configured)


def _write(file: Path, set_labels: Mapping[str, Mapping[str, SetLabel]]) -> None:
    content = {
        "format": _FORMAT,
        "labels": {
            model: {label: asdict(set_label) for label, set_label in labels.items()}
            for model, labels in set_labels.items()
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(content, indent=1, sort_keys=True), mode=0o600)

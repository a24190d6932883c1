"""Which version each label of a model points at.

    configuration --configure-->   {"digits": {"stable": 42, "canary": 43}}   <--set-- setVersionLabel
                                                     |  file: those that were set while serving

The configuration says where its labels point, as often as it says something new. A label that was set while serving
stays where it was put, over restarts and reloads, until the configuration gives that label another version than it did
when the label was set, or names it no more, or drops the model. A label that it never names stays until it is removed.

A label points at a version that is available, or stays where it was: so no request is lost while a version loads.
Asked for with `allow_unavailable`, a label that does not exist yet may point at any version; one that is in use may
not, as in TensorFlow Serving. Labels of a model that comes with the configuration may always: nobody calls it yet.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thriftserve.errors import ConfigError, FailedPrecondition, InvalidArgument, NotFound
from thriftserve.files import write_whole

# The labels that were set while serving, kept for the next start.

_FORMAT = 1


@dataclass(frozen=True)
class SetLabel:
    """A label that was set while serving."""

    version: int
    #: Where the configuration had it then; None: it did not name it.
    configured: int | None


def read(file: Path) -> dict[str, dict[str, SetLabel]]:
    """The labels in a file, by model and label; none where there is no file.

    Raises:
        ConfigError: the file can't be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT}")
        return {
            str(model): {str(label): _made(one) for label, one in labels.items()}
            for model, labels in content["labels"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file}: the labels of an earlier run can't be read: {error!r}; restore the file, or remove it to go on "
            "with the labels of the configuration"
        ) from error


def _made(one: Mapping[str, object]) -> SetLabel:
    version, configured = one["version"], one["configured"]
    if not isinstance(version, int) or not isinstance(configured, int | None):
        raise TypeError(f"{dict(one)!r} is no label")
    return SetLabel(version, configured)


def write(file: Path, changed: Mapping[str, Mapping[str, SetLabel]]) -> None:
    """Puts a new file in the place of the old one, in one step: whenever the process ends, one of the two is there."""
    content = {
        "format": _FORMAT,
        "labels": {model: {label: asdict(one) for label, one in labels.items()} for model, labels in changed.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, indent=1, sort_keys=True), mode=0o600)


#: Versions by label, by model.
LabelMap = Mapping[str, Mapping[str, int]]
#: Longest label, in characters.
MOST_LABEL = 128


class Labels:
    """The labels of all models. Any thread may call it; each change is seen whole or not at all."""

    def __init__(self, file: Path | None = None) -> None:
        """Knows what the file of an earlier run says.

        Args:
            file: where labels that are set while serving are kept; it is replaced whole at each change. None: they
                end with the process.

        Raises:
            ConfigError: the file is there and can't be read.
        """
        self._file = file
        self._changing = threading.Lock()
        self._configured: dict[str, dict[str, int]] = {}
        self._set: dict[str, dict[str, SetLabel]] = read(file) if file is not None else {}
        self._now: LabelMap = {}

    def now(self) -> LabelMap:
        """Where every label points. It does not change any more: the next change makes another one."""
        return self._now

    def configure(
        self,
        configured: LabelMap,
        available: Mapping[str, Collection[int]] | None = None,
        *,
        allow_unavailable: bool = False,
    ) -> LabelMap:
        """Takes the labels of a configuration that was read.

        Args:
            configured: the labels of every model of the configuration; those of others are dropped.
            available: the versions of each model that answer requests; None at the start, when none does yet and
                every label may point at what is about to be loaded.
            allow_unavailable: let labels that are new point at any version.

        Raises:
            FailedPrecondition: a label of a model that was there before would point at a version that is not
                available; nothing is changed.
        """
        with self._changing:
            kept = {model: _kept(self._set.get(model, {}), labels) for model, labels in configured.items()}
            merged = {
                model: dict(labels) | {label: one.version for label, one in kept[model].items()}
                for model, labels in configured.items()
            }
            if available is not None:
                self._check(merged, available, allow_unavailable=allow_unavailable)
            self._change({model: dict(labels) for model, labels in configured.items()}, kept, merged)
            return self._now

    def set(
        self,
        model: str,
        label: str,
        version: int,
        available: Collection[int],
        *,
        allow_unavailable: bool = False,
    ) -> LabelMap:
        """Points a label of a model at a version, from now on and after a restart.

        Raises:
            NotFound: there is no such model.
            InvalidArgument: the label is empty or too long.
            FailedPrecondition: the version is not available.
        """
        if not 0 < len(label) <= MOST_LABEL:
            raise InvalidArgument(f"a label of {len(label)} characters: give 1 to {MOST_LABEL}")
        with self._changing:
            if model not in self._now:
                raise self._no_model(model)
            merged = {name: dict(labels) for name, labels in self._now.items()}
            merged[model][label] = version
            self._check({model: merged[model]}, {model: available}, allow_unavailable=allow_unavailable, only=label)
            configured = self._configured[model].get(label)
            changed = {name: dict(labels) for name, labels in self._set.items()}
            changed.setdefault(model, {})[label] = SetLabel(version, configured)
            if version == configured:
                del changed[model][label]
            self._change(self._configured, changed, merged)
            return self._now

    def remove(self, model: str, label: str) -> LabelMap:
        """Takes a label away that was set while serving; one of the configuration's goes back to where that has it.

        Raises:
            NotFound: there is no such model, or it has no such label.
            FailedPrecondition: the label is the configuration's, and where that has it.
        """
        with self._changing:
            if model not in self._now:
                raise self._no_model(model)
            if label not in self._now[model]:
                raise NotFound(f"model {model!r} has no label {label!r}; labels: {_listed(self._now[model])}")
            if label not in self._set.get(model, {}):
                raise FailedPrecondition(f"the label {label!r} of model {model!r} is set in its configuration: there")
            merged = {name: dict(labels) for name, labels in self._now.items()}
            changed = {name: dict(labels) for name, labels in self._set.items()}
            del changed[model][label], merged[model][label]
            if label in self._configured[model]:
                merged[model][label] = self._configured[model][label]
            self._change(self._configured, changed, merged)
            return self._now

    def _check(
        self,
        merged: LabelMap,
        available: Mapping[str, Collection[int]],
        *,
        allow_unavailable: bool,
        only: str | None = None,
    ) -> None:
        """Refuses labels that move to a version which is not available."""
        faults = []
        for model, labels in merged.items():
            if model not in self._now:
                continue
            there = available.get(model, ())
            for label, version in labels.items():
                before = self._now.get(model, {}).get(label)
                moves = label == only if only is not None else version != before
                if not moves or version in there or (allow_unavailable and before is None):
                    continue
                faults.append(
                    f"label {label!r} of model {model!r} can't point at version {version}, which is not available"
                )
        if faults:
            raise FailedPrecondition(
                f"{'; '.join(faults)}: have the version served first, and move the label when it is available"
            )

    def _change(
        self, configured: dict[str, dict[str, int]], changed: dict[str, dict[str, SetLabel]], merged: LabelMap
    ) -> None:
        """Writes the file before anybody sees the change: what was seen once comes back after a restart."""
        changed = {model: labels for model, labels in changed.items() if labels}
        if self._file is not None and changed != self._set:
            write(self._file, changed)
        self._configured, self._set, self._now = configured, changed, merged

    def _no_model(self, model: str) -> NotFound:
        return NotFound(f"no model named {model!r} is served; served: {_listed(self._now)}")


def _kept(changed: Mapping[str, SetLabel], configured: Mapping[str, int]) -> dict[str, SetLabel]:
    """Labels that were set while serving, and of which the configuration says what it said then."""
    return {label: one for label, one in changed.items() if configured.get(label) == one.configured}


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"

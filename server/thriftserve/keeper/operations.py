"""What operators may ask of a keeper, checked before it is done.

load | unload | label | reload  -->  Operations  -->  Keeper, its wishes  -->  the model's states
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from thriftserve.errors import (
    InvalidArgument,
    ModelLoadError,
    NotFound,
    StartError,
    Unimplemented,
)
from thriftserve.keeper.keeper import Keeper
from thriftserve.models import repository
from thriftserve.models.registry import VersionStatus
from thriftserve.models.repository import ModelConfig, parse_model_flag
from thriftserve_idl.ttypes import ModelState


class Operations:
    """They answer when the thing has begun; the states tell what becomes of it.

    Args:
        keeper: who does it.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def reload(self) -> None:
        """Has the configuration read again and every worker replaced."""
        self._keeper.ask_reload()

    def load(
        self, name: str, source: str, version: int | None = None, sha256: str | None = None
    ) -> list[VersionStatus]:
        """Has a model served from a base path: one version of it, or the newest.

        Raises:
            InvalidArgument: the name or the source can't be read.
            Unimplemented: the source is a URL.
            NotFound: there is no such version.
        """
        config = _config(name, source)
        if sha256:
            raise InvalidArgument(f"source is {source!r}, a base path: sha256 is for what is fetched from a URL")
        try:
            found = repository.versions(Path(config.source))
            if not found:
                raise NotFound(repository.why_none(Path(config.source)))
        except ModelLoadError as error:
            raise NotFound(error.message) from error
        numbers = [one.version for one in found]
        if version is not None and version not in numbers:
            raise NotFound(f"{config.source}: has no version {version}; it has {', '.join(map(str, numbers))}")
        with self._keeper.lock:
            self._keeper.wishes.load(name, config.source, version)
            self._keeper.try_anew(name)
            states, asked = self._states(name), numbers[-1] if version is None else version
            begun = [] if any(one.version == asked for one in states) else [VersionStatus(asked, ModelState.START)]
            return [*states, *begun]

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Has a model, or one version of it, served no more.

        Raises:
            NotFound: it is not served.
        """
        with self._keeper.lock:
            self._check(name, version)
            self._keeper.wishes.unload(name, version)
            self._keeper.reconfigure()
            return self._states(name)

    def label(
        self, name: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> list[VersionStatus]:
        """Points a label at a version, or at none.

        Raises:
            InvalidArgument: the label is empty or too long.
            NotFound: the model is not served.
            FailedPrecondition: the version is not available.
        """
        with self._keeper.lock:
            self._keeper.refresh()
            labels = self._keeper.labels
            if version is None:
                labels.remove(name, label)
            else:
                available = self._keeper.lives.available(name)
                labels.set(name, label, version, available, allow_unavailable=allow_unavailable)
            self._keeper.refresh()
            return self._states(name)

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The state of every version of a model, or of one.

        Raises:
            NotFound: nothing is known of it.
        """
        with self._keeper.lock:
            self._keeper.refresh()
            self._check(name, version)
            return [one for one in self._states(name) if version in (None, one.version)]

    def _check(self, name: str, version: int | None) -> None:
        served = [each.name for each in self._keeper.wishes.configs(self._keeper.configured)]
        if name not in served:
            raise NotFound(f"no model named {name!r} is served; served: {', '.join(map(repr, served)) or 'none'}")
        states = [one.version for one in self._keeper.statuses().get(name, ())]
        if version is not None and version not in states:
            raise NotFound(f"model {name!r} has no version {version}; known: {', '.join(map(str, states)) or 'none'}")

    def _states(self, name: str) -> list[VersionStatus]:
        labels = self._keeper.labels.now().get(name, {})
        return [
            replace(one, labels=tuple(sorted(each for each in labels if labels[each] == one.version)))
            for one in self._keeper.statuses().get(name, ())
        ]


def _config(name: str, source: str) -> ModelConfig:
    try:
        config = parse_model_flag(f"{name}={source}")
    except StartError as error:
        raise InvalidArgument(error.message) from error
    if config.platform != "tensorflow":
        raise InvalidArgument(f"source is {source!r}: a Python class has to be listed in the configuration")
    if config.remote:
        raise Unimplemented(f"source is {source!r}: models are not fetched yet: copy it here and give its base path")
    if not Path(source).is_absolute():
        raise InvalidArgument(f"source is {source!r}: give an absolute base path")
    return config

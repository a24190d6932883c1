"""What operators may ask of a keeper, checked before it is done.

load | unload | label | reload  -->  Operations  -->  Keeper, its wishes  -->  the model's states
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from thriftserve import remote
from thriftserve.controller.controller import ModelController
from thriftserve.controller.fetch_jobs import FetchRequest
from thriftserve.errors import FailedPrecondition, InvalidArgument, ModelLoadError, NotFound, StartError
from thriftserve.models.registry import VersionStatus
from thriftserve.repository import versions
from thriftserve.repository.versions import MAX_VERSION, ModelConfig, parse_model_flag
from thriftserve_idl.ttypes import ModelState


class ModelOperations:
    """They answer when the thing has begun; the states tell what becomes of it.

    Args:
        keeper: who does it.
    """

    def __init__(self, keeper: ModelController) -> None:
        self._keeper = keeper

    def reload(self) -> None:
        """Has the configuration read again and every worker replaced."""
        self._keeper.ask_reload()

    def load(
        self, name: str, source: str, version: int | None = None, sha256: str | None = None
    ) -> list[VersionStatus]:
        """Has a model served from a base path, one version of it or the newest; or fetched from a URL and served.

        Raises:
            InvalidArgument: the name, the source or the sum can't be read.
            NotFound: there is no such version.
            FailedPrecondition: the version was fetched from elsewhere, or nothing can be fetched.
        """
        config = _config(name, source)
        if config.remote:
            return self._fetch(name, source, version, sha256)
        if sha256:
            raise InvalidArgument(f"source is {source!r}, a base path: sha256 is for what is fetched from a URL")
        try:
            found = versions.list_versions(Path(config.source))
            if not found:
                raise NotFound(versions.explain_no_version(Path(config.source)))
        except ModelLoadError as error:
            raise NotFound(error.message) from error
        numbers = [one.version for one in found]
        if version is not None and version not in numbers:
            raise NotFound(f"{config.source}: has no version {version}; it has {', '.join(map(str, numbers))}")
        with self._keeper.lock:
            self._keeper.coming.fetches.cancel(name, why="another load of the model took its place")
            self._keeper.coming.ask(name, numbers[-1] if version is None else version)
            self._keeper.load(name, config.source, version)
            return self._begun(name, numbers[-1] if version is None else version)

    def _fetch(self, name: str, url: str, version: int | None, sha256: str | None) -> list[VersionStatus]:
        remote.hold(url, sha256)
        with self._keeper.lock:
            coming = self._keeper.coming
            same = coming.fetches.same(name, url, sha256)
            if version is None:
                version = same.version if same is not None else self._next_version(name)
            coming.fetches.begin(FetchRequest(name, version, url, sha256))
            return self._begun(name, version)

    def _next_version(self, name: str) -> int:
        """One more than the newest version that is known of a model."""
        never_came = self._keeper.coming.failures()  # tried again, they go on with what was downloaded
        known = [one.version for one in self._keeper.statuses().get(name, ()) if (name, one.version) not in never_came]
        for config in self._keeper.wishes.configs(self._keeper.configured):
            if config.name == name and config.platform != "python" and not config.remote:
                with contextlib.suppress(ModelLoadError):
                    known += [one.version for one in versions.list_versions(Path(config.source))]
        newest = max((*known, self._keeper.coming.shelf.newest(name) or 0), default=0)
        if newest >= MAX_VERSION:
            raise FailedPrecondition(f"model {name!r} has the highest version that there can be: give a version")
        return newest + 1

    def _begun(self, name: str, version: int) -> list[VersionStatus]:
        self._keeper.refresh()
        states = self._states(name)
        # Before every worker has loaded its first models, nothing is told of others.
        begun = [] if any(one.version == version for one in states) else [VersionStatus(version, ModelState.START)]
        return [*states, *begun]

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Has a model, or one version of it, served and fetched no more.

        Raises:
            NotFound: it is not served.
        """
        with self._keeper.lock:
            self._check(name, version)
            self._keeper.coming.fetches.cancel(name, version)
            self._keeper.wishes.unload(name, version)
            self._keeper.reconfigure()
            self._keeper.refresh()
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
        served = self._keeper.names()
        if name not in served:
            raise NotFound(f"no model named {name!r} is served; served: {', '.join(map(repr, served)) or 'none'}")
        states = [one.version for one in self._keeper.statuses().get(name, ())]
        if version is not None and version not in states:
            raise NotFound(f"model {name!r} has no version {version}; known: {', '.join(map(str, states)) or 'none'}")

    def _states(self, name: str) -> list[VersionStatus]:
        labels = self._keeper.labels.current().get(name, {})
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
    if not config.remote and not Path(source).is_absolute():
        raise InvalidArgument(f"source is {source!r}: give an absolute base path")
    return config

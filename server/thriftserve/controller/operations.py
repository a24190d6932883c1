"""What operators can ask the controller for, checked before it is done.

load | unload | label | reload  -->  ModelOperations  -->  ModelController  -->  the states of the model's versions
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from thriftserve.controller.controller import ModelController
from thriftserve.controller.fetch_jobs import FetchRequest
from thriftserve.errors import FailedPrecondition, InvalidArgument, ModelLoadError, NotFound, StartError
from thriftserve.remote.address import check_request
from thriftserve.repository import versions
from thriftserve.repository.version_states import VersionStatus
from thriftserve.repository.versions import MAX_VERSION, ModelConfig, parse_model_flag
from thriftserve_idl.ttypes import ModelState


class ModelOperations:
    """The operations of the control port. Each returns when its work has begun; the states show how it goes on.

    Threads may share one.
    """

    def __init__(self, controller: ModelController) -> None:
        self._controller = controller

    def reload(self) -> None:
        """Have the configuration read again and every worker replaced."""
        self._controller.ask_reload()

    def load(
        self, name: str, source: str, version: int | None = None, sha256: str | None = None
    ) -> list[VersionStatus]:
        """Serve a model from a base path, or fetch it from a URL and serve it.

        Args:
            name: of the model.
            source: an absolute base path, or a URL.
            version: to serve, or to fetch the model as; None: the newest, or the next.
            sha256: of what is fetched, in hexadecimal.

        Raises:
            InvalidArgument: the name, the source or the checksum can't be read.
            NotFound: there is no such version.
            FailedPrecondition: the version was fetched from elsewhere, or nothing can be fetched.
        """
        config = _model_config(name, source)
        if config.remote:
            return self._fetch(name, source, version, sha256)
        if sha256:
            raise InvalidArgument(f"source is {source!r}, a base path: sha256 is for what is fetched from a URL")
        base_path = Path(config.source)
        try:
            numbers = [directory.version for directory in versions.list_versions(base_path)]
            if not numbers:
                raise NotFound(versions.explain_no_version(base_path))
        except ModelLoadError as error:
            raise NotFound(error.message) from error
        if version is not None and version not in numbers:
            raise NotFound(f"{config.source}: has no version {version}; it has {', '.join(map(str, numbers))}")
        with self._controller.lock:
            pending = self._controller.pending
            pending.fetches.cancel(name, reason="another load of the model took its place")
            requested = numbers[-1] if version is None else version
            pending.request(name, requested)
            self._controller.load(name, config.source, version)
            return self._begun(name, requested)

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Serve and fetch a model, or one version of it, no more.

        Raises:
            NotFound: it is not served.
        """
        with self._controller.lock:
            self._check_known(name, version)
            self._controller.pending.fetches.cancel(name, version)
            self._controller.overrides.unload(name, version)
            self._controller.reconfigure()
            self._controller.refresh()
            return self._statuses(name)

    def label(
        self, name: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> list[VersionStatus]:
        """Point a label at a version; remove it if the version is None.

        Raises:
            InvalidArgument: the label is empty or too long.
            NotFound: the model is not served.
            FailedPrecondition: the version is not available.
        """
        with self._controller.lock:
            self._controller.refresh()
            labels = self._controller.labels
            if version is None:
                labels.remove(name, label)
            else:
                available = self._controller.tracker.available(name)
                labels.set(name, label, version, available, allow_unavailable=allow_unavailable)
            self._controller.refresh()
            return self._statuses(name)

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Return the state of every version of a model, or of one.

        Raises:
            NotFound: nothing is known of it.
        """
        with self._controller.lock:
            self._controller.refresh()
            self._check_known(name, version)
            return [status for status in self._statuses(name) if version in (None, status.version)]

    def _fetch(self, name: str, url: str, version: int | None, sha256: str | None) -> list[VersionStatus]:
        check_request(url, sha256)
        with self._controller.lock:
            fetches = self._controller.pending.fetches
            if version is None:
                running = fetches.running(name, url, sha256)
                version = running.version if running is not None else self._next_version(name)
            fetches.begin(FetchRequest(name, version, url, sha256))
            return self._begun(name, version)

    def _next_version(self, name: str) -> int:
        """Return one more than the newest version that is known of a model."""
        pending = self._controller.pending
        # A fetch that failed is tried again under its number: it resumes its download.
        failed = pending.failures()
        known = [
            status.version
            for status in self._controller.statuses().get(name, ())
            if (name, status.version) not in failed
        ]
        for config in self._controller.configs():
            if config.name == name and config.platform != "python" and not config.remote:
                with contextlib.suppress(ModelLoadError):
                    known += [directory.version for directory in versions.list_versions(Path(config.source))]
        newest = max((*known, pending.store.newest(name) or 0), default=0)
        if newest >= MAX_VERSION:
            raise FailedPrecondition(f"model {name!r} has the highest version that there can be: give a version")
        return newest + 1

    def _begun(self, name: str, version: int) -> list[VersionStatus]:
        self._controller.refresh()
        statuses = self._statuses(name)
        if all(status.version != version for status in statuses):
            # Until every worker has loaded the first plan, no other version has a state.
            statuses.append(VersionStatus(version, ModelState.START))
        return statuses

    def _check_known(self, name: str, version: int | None) -> None:
        served = self._controller.model_names()
        if name not in served:
            raise NotFound(f"no model named {name!r} is served; served: {', '.join(map(repr, served)) or 'none'}")
        known = [status.version for status in self._controller.statuses().get(name, ())]
        if version is not None and version not in known:
            raise NotFound(f"model {name!r} has no version {version}; known: {', '.join(map(str, known)) or 'none'}")

    def _statuses(self, name: str) -> list[VersionStatus]:
        labels = self._controller.labels.current().get(name, {})
        return [
            replace(status, labels=tuple(sorted(label for label in labels if labels[label] == status.version)))
            for status in self._controller.statuses().get(name, ())
        ]


def _model_config(name: str, source: str) -> ModelConfig:
    try:
        config = parse_model_flag(f"{name}={source}")
    except StartError as error:
        raise InvalidArgument(error.message) from error
    if config.platform != "tensorflow":
        raise InvalidArgument(f"source is {source!r}: a Python class has to be listed in the configuration")
    if not config.remote and not Path(source).is_absolute():
        raise InvalidArgument(f"source is {source!r}: give an absolute base path")
    return config

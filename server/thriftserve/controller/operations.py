"""What operators can ask the controller for, checked before it is done; and the port where they ask.

load | unload | label | reload  -->  ModelOperations  -->  ModelController  -->  the states of the model's versions
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from dataclasses import replace
from pathlib import Path

from thriftserve.controller.controller import ModelController
from thriftserve.controller.fetch_jobs import FetchRequest
from thriftserve.errors import ConfigError, FailedPrecondition, InvalidArgument, ModelLoadError, NotFound, StartError
from thriftserve.remote.address import check_request
from thriftserve.repository import versions
from thriftserve.repository.version_states import VersionStatus
from thriftserve.repository.versions import MAX_VERSION, ModelConfig, parse_model_flag
from thriftserve.service.control import ControlToken
from thriftserve.settings import HostSettings, ServeSettings
from thriftserve.supervisor.listener import tls_context
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


#: Operators are few and their calls short; idle connections cost a thread only while they call.
_THREADS = 4
_MAX_CONNECTIONS = 256
#: An operator's call is small, and a caller who is not let in must not cost memory.
_MAX_MESSAGE_BYTES = 1 << 20

log = logging.getLogger(__name__)


def control_port_settings(settings: ServeSettings) -> HostSettings | None:
    """Return how to serve the control port; None: don't.

    Raises:
        ConfigError: the token or a certificate can't be used, or callers from other machines would need neither.
    """
    control_token(settings)
    if settings.control_port is None:
        return None
    _check_guarded(settings)
    try:
        host_settings = _host_settings(settings, settings.control_port)
        tls_context(host_settings)
    except ConfigError as error:
        raise ConfigError(f"control port: {error.message.replace('tls_', 'control_tls_')}") from error
    return host_settings


def control_token(settings: ServeSettings) -> ControlToken | None:
    """Return the token that calls must carry; None: none.

    Raises:
        ConfigError: the file has no token.
    """
    return None if settings.control_token_file is None else ControlToken(Path(settings.control_token_file).expanduser())


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a host name or address; False if it can't be resolved."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in addresses)


def _host_settings(settings: ServeSettings, port: int) -> HostSettings:
    return HostSettings(
        server_type="TThreadPoolServer",
        host=settings.control_host,
        port=port,
        threads=_THREADS,
        transport=settings.transport,
        protocol=settings.protocol,
        max_message_bytes=_MAX_MESSAGE_BYTES,
        max_connections=_MAX_CONNECTIONS,
        max_queued=_MAX_CONNECTIONS,
        tls_cert=settings.control_tls_cert,
        tls_key=settings.control_tls_key,
        tls_client_ca=settings.control_tls_client_ca,
    )


def _check_guarded(settings: ServeSettings) -> None:
    if is_loopback(settings.control_host):
        return
    if not (settings.control_token_file or settings.control_tls_client_ca or settings.control_open):
        raise ConfigError(
            f"control_host is {settings.control_host!r}: anybody who can connect to it could replace every model; "
            "set control_token_file or control_tls_client_ca, or control_open if the network keeps others away"
        )
    if settings.control_token_file and not settings.control_tls_cert:
        log.warning("control_host is %r without control_tls_cert: tokens are sent unencrypted", settings.control_host)

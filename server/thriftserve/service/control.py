"""The ModelControl service, which operators call on a port of its own.

reloadConfig | loadModel | … --> ControlToken.admits? --> ControlOperations --> states of the model's versions
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import Protocol

from thriftserve.errors import ConfigError, InvalidArgument, Unauthenticated
from thriftserve.repository.version_states import VersionStatus
from thriftserve.service import convert
from thriftserve.service.errors import ErrorCounter, translate_errors
from thriftserve.service.validation import require_name
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, ModelStatus, SetVersionLabelRequest

logger = logging.getLogger(__name__)

#: A shorter token could be guessed; a longer file is none.
MIN_TOKEN_BYTES = 16
_MAX_TOKEN_BYTES = 4096


class ControlOperations(Protocol):
    """The operations behind ModelControl.

    Each method begins its operation, does not wait for its end, and returns the states of the model's versions.
    """

    def reload(self) -> None:
        """Read the configuration again."""

    def load(
        self, name: str, source: str, version: int | None = None, sha256: str | None = None
    ) -> list[VersionStatus]:
        """Serve a model from a base path, or fetch it from a URL and serve it."""

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Stop serving a model, or one version of it."""

    def label(
        self, name: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> list[VersionStatus]:
        """Point a label at a version, or remove it."""

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Return the states of the model's versions."""


class ControlHandler(ModelControl.Iface):
    """Answer the methods of `ModelControl`; each raises PredictError and no other exception.

    Args:
        operations: carries out the calls.
        counters: counts the requests that are answered with an error.
        token: must come with each call; None allows every call.
    """

    def __init__(
        self, operations: ControlOperations, *, counters: ErrorCounter, token: ControlToken | None = None
    ) -> None:
        self.counters = counters
        self._operations = operations
        self._token = token

    @translate_errors
    def reloadConfig(self, token: str | None = None) -> None:
        """Begin to read the configuration again, as SIGHUP does."""
        self._admit(token)
        self._operations.reload()

    @translate_errors
    def loadModel(self, request: LoadModelRequest, token: str | None = None) -> ModelStatus:
        """Begin to serve a model from a base path, or to fetch it from a URL."""
        self._admit(token)
        if not (request and request.name and request.source):
            raise InvalidArgument("name or source is not set: expected the name of a model, and a base path or a URL")
        states = self._operations.load(request.name, request.source, request.version, request.sha256 or None)
        return convert.model_status(request.name, states)

    @translate_errors
    def unloadModel(self, model_spec: ModelSpec, token: str | None = None) -> ModelStatus:
        """Begin to stop serving a model, or one version of it."""
        self._admit(token)
        spec = _spec_without_label(model_spec, "unloadModel")
        return convert.model_status(spec.name, self._operations.unload(spec.name, spec.version))

    @translate_errors
    def setVersionLabel(self, request: SetVersionLabelRequest, token: str | None = None) -> ModelStatus:
        """Point a label at a version, in every worker at once."""
        self._admit(token)
        if not (request and request.name):
            raise InvalidArgument("name is not set: expected the name of a model")
        states = self._operations.label(
            request.name, request.label or "", request.version, allow_unavailable=bool(request.allow_unavailable)
        )
        return convert.model_status(request.name, states)

    @translate_errors
    def getLoadStatus(self, model_spec: ModelSpec, token: str | None = None) -> ModelStatus:
        """Return the states of a model's versions."""
        self._admit(token)
        spec = _spec_without_label(model_spec, "getLoadStatus")
        return convert.model_status(spec.name, self._operations.status(spec.name, spec.version))

    def _admit(self, token: str | None) -> None:
        if self._token is None or self._token.admits(token):
            return
        if token:
            raise Unauthenticated("the token is wrong: expected that of the server's control_token_file")
        raise Unauthenticated("the call carries no token: expected that of the server's control_token_file")


def _spec_without_label(model_spec: ModelSpec, method: str) -> ModelSpec:
    spec = require_name(model_spec)
    if spec.version_label:
        raise InvalidArgument(f"version_label is {spec.version_label!r}: {method} expects the number of a version")
    return spec


class ControlToken:
    """The secret in a file that callers of ModelControl must send, without the white space around it.

    A changed file takes effect with the next call. Several threads may call `admits` at once.

    Args:
        path: of the file.

    Raises:
        ConfigError: the file can't be read, or does not hold a token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value = _read_token(path)

    def admits(self, token: str | None) -> bool:
        """Return whether a call with this token is allowed, in a time that does not depend on the token."""
        try:
            self._value = _read_token(self._path)
        except ConfigError as error:  # the file is being replaced, say: the token stays as it was
            logger.warning("%s; keeping the previous token", error.message)
        return hmac.compare_digest((token or "").encode(errors="replace"), self._value)


def _read_token(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            value = file.read(_MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(f"control_token_file {str(path)!r} can't be read: {error.strerror}") from None
    if not MIN_TOKEN_BYTES <= len(value) <= _MAX_TOKEN_BYTES:
        raise ConfigError(
            f"control_token_file {str(path)!r} holds {len(value)} bytes: expected a token of "
            f"{MIN_TOKEN_BYTES} to {_MAX_TOKEN_BYTES}; `head -c 32 /dev/urandom | base64` makes one"
        )
    return value

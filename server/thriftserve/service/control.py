"""The ModelControl service: what operators call.

reloadConfig | loadModel | unloadModel | setVersionLabel  --token?--> Operations --> states of the model's versions

It listens on a port of its own, for operators.
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import Protocol

from thriftserve.errors import ConfigError, InvalidArgument, Unauthenticated
from thriftserve.models.registry import VersionStatus
from thriftserve.service import convert
from thriftserve.service.errors import ErrorCounter, translate_errors
from thriftserve.service.validation import named
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, ModelStatus, SetVersionLabelRequest

# The secret that a caller of ModelControl has to know.

log = logging.getLogger(__name__)

#: Shorter ones could be guessed.
LEAST_CHARACTERS = 16
_MOST_BYTES = 4096


class ControlToken:
    """A token in a file, without the white space around it. A file that changes holds from the next call on.

    Args:
        path: of the file.

    Raises:
        ConfigError: it can't be read, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value = _read(path)

    def admits(self, given: str | None) -> bool:
        """Whether a call that carries this may be answered; how long that takes tells nothing of the token."""
        try:
            self._value = _read(self._path)
        except ConfigError as error:  # being replaced, say: nobody is let in by that, and nobody locked out
            log.warning("%s; the token that was there before holds", error.message)
        return hmac.compare_digest((given or "").encode(errors="replace"), self._value)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            value = file.read(_MOST_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(f"control_token_file {str(path)!r} can't be read: {error.strerror}") from None
    if not LEAST_CHARACTERS <= len(value) <= _MOST_BYTES:
        raise ConfigError(
            f"control_token_file {str(path)!r} holds {len(value)} bytes: a token has "
            f"{LEAST_CHARACTERS} to {_MOST_BYTES}; `head -c 32 /dev/urandom | base64` makes a good one"
        )
    return value


class ControlOperations(Protocol):
    """Who does what operators ask for; each answers, when it has begun, with the states of the model's versions."""

    def reload(self) -> None:
        """Reads the configuration again."""

    def load(
        self, name: str, source: str, version: int | None = None, sha256: str | None = None
    ) -> list[VersionStatus]:
        """Serves a model from a base path, or one that is fetched from a URL."""

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Serves a model, or a version, no more."""

    def label(
        self, name: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> list[VersionStatus]:
        """Points a label at a version, or at none."""

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Tells what became of it."""


class ControlHandler(ModelControl.Iface):
    """Answers the methods of `ModelControl`; every one raises PredictError and no other exception."""

    def __init__(
        self, operations: ControlOperations, *, counters: ErrorCounter, token: ControlToken | None = None
    ) -> None:
        """Keeps what it is given.

        Args:
            operations: does it.
            counters: told of every request that is answered with an error.
            token: what calls must carry; None: nothing.
        """
        self.counters = counters
        self._operations = operations
        self._token = token

    @translate_errors
    def reloadConfig(self, token: str | None = None) -> None:
        """Begins to read the configuration again, as SIGHUP does."""
        self._admit(token)
        self._operations.reload()

    @translate_errors
    def loadModel(self, request: LoadModelRequest, token: str | None = None) -> ModelStatus:
        """Begins to serve a model from a base path, or to fetch it from a URL."""
        self._admit(token)
        if not (request and request.name and request.source):
            raise InvalidArgument("the call needs a name and a source: a base path or a URL")
        states = self._operations.load(request.name, request.source, request.version, request.sha256 or None)
        return convert.model_status(request.name, states)

    @translate_errors
    def unloadModel(self, model_spec: ModelSpec, token: str | None = None) -> ModelStatus:
        """Begins to stop serving a model, or one version of it."""
        self._admit(token)
        spec = _numbered(model_spec, "unloadModel")
        return convert.model_status(spec.name, self._operations.unload(spec.name, spec.version))

    @translate_errors
    def setVersionLabel(self, request: SetVersionLabelRequest, token: str | None = None) -> ModelStatus:
        """Points a label at a version, in every worker at once."""
        self._admit(token)
        if not (request and request.name):
            raise InvalidArgument("name is not set: expected the name of a model")
        states = self._operations.label(
            request.name, request.label or "", request.version, allow_unavailable=bool(request.allow_unavailable)
        )
        return convert.model_status(request.name, states)

    @translate_errors
    def getLoadStatus(self, model_spec: ModelSpec, token: str | None = None) -> ModelStatus:
        """Tells what became of it."""
        self._admit(token)
        spec = _numbered(model_spec, "getLoadStatus")
        return convert.model_status(spec.name, self._operations.status(spec.name, spec.version))

    def _admit(self, token: str | None) -> None:
        if self._token is None or self._token.admits(token):
            return
        if token:
            raise Unauthenticated("the token is not this server's: see its control_token_file")
        raise Unauthenticated("the call carries no token, and this server wants one: see its control_token_file")


def _numbered(model_spec: ModelSpec, method: str) -> ModelSpec:
    spec = named(model_spec)
    if spec.version_label:
        raise InvalidArgument(f"{method} takes a version by its number: leave version_label out")
    return spec

"""The ModelControl service: what operators call.

reloadConfig | loadModel | unloadModel | setVersionLabel  --token?--> Operations --> states of the model's versions

It listens on a port of its own, for operators.
"""

from __future__ import annotations

from typing import Protocol

from thriftserve.errors import InvalidArgument, Unauthenticated
from thriftserve.handler import describe
from thriftserve.handler.door import ErrorCounter, door
from thriftserve.handler.plans import named
from thriftserve.handler.token import Token
from thriftserve.models.registry import VersionStatus
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, ModelStatus, SetVersionLabelRequest


class Operations(Protocol):
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

    def __init__(self, operations: Operations, *, counters: ErrorCounter, token: Token | None = None) -> None:
        """Keeps what it is given.

        Args:
            operations: does it.
            counters: told of every request that is answered with an error.
            token: what calls must carry; None: nothing.
        """
        self.counters = counters
        self._operations = operations
        self._token = token

    @door
    def reloadConfig(self, token: str | None = None) -> None:
        """Begins to read the configuration again, as SIGHUP does."""
        self._admit(token)
        self._operations.reload()

    @door
    def loadModel(self, request: LoadModelRequest, token: str | None = None) -> ModelStatus:
        """Begins to serve a model from a base path, or to fetch it from a URL."""
        self._admit(token)
        if not (request and request.name and request.source):
            raise InvalidArgument("the call needs a name and a source: a base path or a URL")
        states = self._operations.load(request.name, request.source, request.version, request.sha256 or None)
        return describe.model_status(request.name, states)

    @door
    def unloadModel(self, model_spec: ModelSpec, token: str | None = None) -> ModelStatus:
        """Begins to stop serving a model, or one version of it."""
        self._admit(token)
        spec = _numbered(model_spec, "unloadModel")
        return describe.model_status(spec.name, self._operations.unload(spec.name, spec.version))

    @door
    def setVersionLabel(self, request: SetVersionLabelRequest, token: str | None = None) -> ModelStatus:
        """Points a label at a version, in every worker at once."""
        self._admit(token)
        if not (request and request.name):
            raise InvalidArgument("name is not set: expected the name of a model")
        states = self._operations.label(
            request.name, request.label or "", request.version, allow_unavailable=bool(request.allow_unavailable)
        )
        return describe.model_status(request.name, states)

    @door
    def getLoadStatus(self, model_spec: ModelSpec, token: str | None = None) -> ModelStatus:
        """Tells what became of it."""
        self._admit(token)
        spec = _numbered(model_spec, "getLoadStatus")
        return describe.model_status(spec.name, self._operations.status(spec.name, spec.version))

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

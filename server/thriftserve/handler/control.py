"""The ModelControl service: what operators call.

reloadConfig | loadModel | unloadModel | setVersionLabel --> Operations --> states of the model's versions

It listens on a port of its own, for operators.
"""

from __future__ import annotations

from typing import Protocol

from thriftserve.errors import InvalidArgument, Unimplemented
from thriftserve.handler import describe
from thriftserve.handler.door import ErrorCounter, door
from thriftserve.handler.plans import named
from thriftserve.models.registry import VersionStatus
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, ModelStatus, SetVersionLabelRequest


class Operations(Protocol):
    """Who does what operators ask for; each answers, when it has begun, with the states of the model's versions."""

    def reload(self) -> None:
        """Reads the configuration again."""

    def load(self, name: str, source: str, version: int | None = None) -> list[VersionStatus]:
        """Serves a model from a base path."""

    def unload(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Serves a model, or a version, no more."""

    def label(
        self, name: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> list[VersionStatus]:
        """Points a label at a version, or at none."""


class ControlHandler(ModelControl.Iface):
    """Answers the methods of `ModelControl`; every one raises PredictError and no other exception."""

    def __init__(self, operations: Operations, *, counters: ErrorCounter) -> None:
        """Keeps what it is given.

        Args:
            operations: does it.
            counters: told of every request that is answered with an error.
        """
        self.counters = counters
        self._operations = operations

    @door
    def reloadConfig(self) -> None:
        """Begins to read the configuration again, as SIGHUP does."""
        self._operations.reload()

    @door
    def loadModel(self, request: LoadModelRequest) -> ModelStatus:
        """Begins to serve a model from a base path."""
        if not (request and request.name and request.source):
            raise InvalidArgument("the call needs a name and a source: a base path")
        if request.sha256:
            raise Unimplemented("sha256 is for models that are fetched, which is not there yet: leave it out")
        return describe.model_status(request.name, self._operations.load(request.name, request.source, request.version))

    @door
    def unloadModel(self, model_spec: ModelSpec) -> ModelStatus:
        """Begins to stop serving a model, or one version of it."""
        spec = named(model_spec)
        if spec.version_label:
            raise InvalidArgument("unloadModel takes a version by its number: leave version_label out")
        return describe.model_status(spec.name, self._operations.unload(spec.name, spec.version))

    @door
    def setVersionLabel(self, request: SetVersionLabelRequest) -> ModelStatus:
        """Points a label at a version, in every worker at once."""
        if not (request and request.name):
            raise InvalidArgument("name is not set: expected the name of a model")
        states = self._operations.label(
            request.name, request.label or "", request.version, allow_unavailable=bool(request.allow_unavailable)
        )
        return describe.model_status(request.name, states)

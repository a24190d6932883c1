"""The ModelControl service: what operators call.

reloadConfig --> the server's own reload;  the rest --> UNIMPLEMENTED, with what to do instead

It listens on a port of its own, for operators.
"""

from __future__ import annotations

from collections.abc import Callable

from thriftserve.errors import Unimplemented
from thriftserve.handler.door import ErrorCounter, door
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, ModelStatus, SetVersionLabelRequest


class ControlHandler(ModelControl.Iface):
    """Answers the methods of `ModelControl`; every one raises PredictError and no other exception."""

    def __init__(self, *, reload: Callable[[], None], counters: ErrorCounter) -> None:
        """Keeps what it is given.

        Args:
            reload: begins to read the configuration again and returns at once.
            counters: told of every request that is answered with an error.
        """
        self.counters = counters
        self._reload = reload

    @door
    def reloadConfig(self) -> None:
        """Begins to read the configuration again, as SIGHUP does."""
        self._reload()

    @door
    def loadModel(self, request: LoadModelRequest) -> ModelStatus:
        """Not there yet."""
        raise Unimplemented(
            "loadModel is not there yet: put a new version directory below the model's base path and "
            "send the server SIGHUP (or call reloadConfig); a new model needs a --model of its own and a restart"
        )

    @door
    def unloadModel(self, model_spec: ModelSpec) -> ModelStatus:
        """Not there yet."""
        raise Unimplemented(
            "unloadModel is not there yet: remove the version's directory and send the server SIGHUP "
            "(or call reloadConfig); to stop serving a model, restart without its --model"
        )

    @door
    def setVersionLabel(self, request: SetVersionLabelRequest) -> ModelStatus:
        """Not there yet."""
        raise Unimplemented(
            "setVersionLabel is not there yet: name the version by its number in model_spec.version, "
            "or leave it unset for the newest one"
        )

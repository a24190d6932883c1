"""The Predict service, on any registry of servables.

    PredictRequest --> Deadline --> Servable, Plan --> arrays --> Session.run --> PredictResponse

Everything that a request can have wrong is found before the session sees it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from thriftserve.errors import InvalidArgument, Unimplemented
from thriftserve.handler import describe
from thriftserve.handler.classify import classify
from thriftserve.handler.deadline import Deadline
from thriftserve.handler.detect import detect
from thriftserve.handler.door import ErrorCounter, door
from thriftserve.handler.plans import Plans, named
from thriftserve.handler.run import run
from thriftserve.models import images
from thriftserve.models.registry import Registry
from thriftserve.status import ServerSnapshot
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import (
    ClassifyRequest,
    ClassifyResponse,
    DetectRequest,
    DetectResponse,
    ModelMetadata,
    ModelSpec,
    ModelStatus,
    PredictRequest,
    PredictResponse,
    ServerStatus,
)


class PredictHandler(Predict.Iface):
    """Answers the methods of `Predict`; several threads may call it at once.

    Every method raises PredictError and no other exception.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        status: Callable[[], ServerSnapshot],
        counters: ErrorCounter,
        max_image_pixels: int,
        server_version: str,
    ) -> None:
        """Keeps what it is given; loads nothing.

        Args:
            registry: where servables are found by name, version and label.
            status: gives the server's state at the moment of the call.
            counters: told of every request that is answered with an error.
            max_image_pixels: the most pixels of an encoded image, and of a request's images once resized.
            server_version: what getServerStatus gives as the version.
        """
        self.counters = counters
        self._registry = registry
        self._plans = Plans(registry, max_image_pixels)
        self._status = status
        self._server_version = server_version

    def prepare(self) -> None:
        """Does now what the first requests would wait for: plans, and the decoders where a model takes images."""
        if self._plans.prepare():
            # A server whose Pillow is missing serves tensors all the same; requests with images are told.
            with contextlib.suppress(Unimplemented):
                images.prepare()

    @door
    def ping(self) -> None:
        """Does nothing."""

    @door
    def predict(self, request: PredictRequest) -> PredictResponse:
        """Runs one signature of one model on the tensors sent."""
        deadline = _deadline(request)
        servable, plan = self._plans.find(request.model_spec)
        wanted = plan.wanted(request.output_filter)
        arrays = plan.arrays(request.inputs, deadline)
        outputs, timing = run(servable, plan, arrays, wanted, deadline)
        return PredictResponse(describe.resolved(servable, plan), describe.tensors(outputs), timing)

    @door
    def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Names the best classes of each encoded image."""
        deadline = _deadline(request)
        servable, plan = self._plans.find(request.model_spec)
        results, timing = classify(servable, plan, request, deadline)
        return ClassifyResponse(describe.resolved(servable, plan), results, timing)

    @door
    def detect(self, request: DetectRequest) -> DetectResponse:
        """Finds the objects in each encoded image."""
        deadline = _deadline(request)
        servable, plan = self._plans.find(request.model_spec)
        results, timing = detect(servable, plan, request, deadline)
        return DetectResponse(describe.resolved(servable, plan), results, timing)

    @door
    def getModelMetadata(self, model_spec: ModelSpec) -> ModelMetadata:
        """Describes every signature of a model, or the one that is named."""
        servable = self._plans.servable(model_spec)
        if not model_spec.signature_name:
            return describe.metadata(servable, servable.signatures.values())
        _, plan = self._plans.find(model_spec)
        return describe.metadata(servable, [plan.signature])

    @door
    def getModelStatus(self, model_spec: ModelSpec) -> ModelStatus:
        """Tells the state of every version of a model, or of the one named by version or label."""
        spec = named(model_spec)
        version = self._plans.servable(spec).version if spec.version_label else spec.version
        return describe.model_status(spec.name, self._registry.statuses(spec.name, version)[spec.name])

    @door
    def listModels(self) -> list[ModelStatus]:
        """Tells the state of every version of every model."""
        return [describe.model_status(name, each) for name, each in self._registry.statuses().items()]

    @door
    def getServerStatus(self) -> ServerStatus:
        """Tells the state of the server and of each worker."""
        return describe.server_status(self._status(), self._registry.names(), self._server_version)


def _deadline(request: PredictRequest | ClassifyRequest | DetectRequest | None) -> Deadline:
    """The deadline of a request, which is not over yet; Thrift lets a caller leave the request itself out."""
    if request is None:
        raise InvalidArgument("the call carries no request: expected one")
    deadline = Deadline.after(request.timeout_ms)
    deadline.check()
    return deadline

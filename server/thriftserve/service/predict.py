"""The Predict service, on any registry of servables.

    PredictRequest --> Deadline --> Servable, Plan --> arrays --> Job --> Batcher --> Done --> PredictResponse

Everything that a request can have wrong is found before the session sees it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from thriftserve.batching import Batcher, Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import InvalidArgument, ThriftServeError, Unimplemented
from thriftserve.models import images
from thriftserve.models.registry import Registry, VersionStatus
from thriftserve.models.session import Array
from thriftserve.service import convert
from thriftserve.service.classify import classify
from thriftserve.service.detect import detect
from thriftserve.service.errors import RequestCounter, translate_errors
from thriftserve.service.execution import Steps, asked_for, job_for, run_through
from thriftserve.service.predict_templates import Part, PredictTemplate, template_for
from thriftserve.service.validation import RequestValidator, ValidatorCache, named
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
    Timing,
)

R = TypeVar("R", PredictRequest, ClassifyRequest, DetectRequest)


class PredictHandler(Predict.Iface):
    """Answers the methods of `Predict`; several threads may call it at once.

    Every method raises PredictError and no other exception.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        status: Callable[[], ServerSnapshot],
        counters: RequestCounter,
        max_image_pixels: int,
        server_version: str,
        batcher: Batcher | None = None,
    ) -> None:
        """Keeps what it is given; loads nothing.

        Args:
            registry: where servables are found by name, version and label.
            status: gives the server's state at the moment of the call.
            counters: told of every request that is answered with an error, and of the time that each other one took.
            max_image_pixels: the most pixels of an encoded image, and of a request's images once resized.
            server_version: what getServerStatus gives as the version.
            batcher: runs the requests' jobs; None: one that puts nothing together.
        """
        self.counters = counters
        self.batcher = batcher or Batcher(max_batch_size=1)
        self._registry = registry
        self._plans = ValidatorCache(registry, max_image_pixels)
        self._status = status
        self._server_version = server_version

    def prepare(self) -> None:
        """Does now what the first requests would wait for: plans, and the decoders where a model takes images."""
        if self._plans.prepare():
            # A server whose Pillow is missing serves tensors all the same; requests with images are told.
            with contextlib.suppress(Unimplemented):
                images.prepare()

    def lets_go_of_inputs(self, spec: ModelSpec) -> bool:
        """Whether nothing of a request's inputs is used any more once it is answered."""
        try:
            return self._plans.servable(spec).session.platform == "tensorflow"
        except ThriftServeError:  # its own call will say so
            return False

    def model_names(self) -> list[str]:
        """Names of the models served, sorted."""
        return self._registry.names()

    def most_enqueued(self) -> dict[str, int]:
        """How many requests may wait for a model, of those that limit it."""
        limits = {one.name: one.batching.max_enqueued for one in self._registry.servables()}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @translate_errors
    def ping(self) -> None:
        """Does nothing."""

    @translate_errors
    def predict(self, request: PredictRequest) -> PredictResponse:
        """Runs one signature of one model on the tensors sent."""
        return run_through(self.predict_steps(request), self.batcher)

    @translate_errors
    def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Names the best classes of each encoded image."""
        return run_through(self.classify_steps(request), self.batcher)

    @translate_errors
    def detect(self, request: DetectRequest) -> DetectResponse:
        """Finds the objects in each encoded image."""
        return run_through(self.detect_steps(request), self.batcher)

    def predict_steps(self, request: PredictRequest | None) -> Steps[PredictResponse]:
        """What `predict` does, its runs left to who takes the steps."""
        request, deadline = _checked(request)
        servable, plan = self._plans.find(request.model_spec)
        wanted = plan.wanted(request.output_filter)
        arrays = plan.arrays(request.inputs, deadline)
        done = yield job_for(servable, plan, arrays, wanted, deadline)
        response = _response(convert.resolved(servable, plan), plan, wanted, done)
        response.timing = self._timing(deadline, done)
        return response

    def form(self, request: PredictRequest, job: Task, parts: Sequence[Part]) -> PredictTemplate | None:
        """What holds for every `predict` like this one, which is right; see `thriftserve.service.predict_templates`.

        Args:
            request: an example.
            job: what it wants run.
            parts: what of it varies.

        Returns:
            None where others like it have to be looked at as a whole.
        """
        try:
            servable, plan = self._plans.find(request.model_spec)
        except ThriftServeError:  # it went a moment ago
            return None
        if servable is not job.servable:
            return None
        respond = partial(_response, convert.resolved(servable, plan), plan, job.wanted)
        return template_for(request, job, parts, self._plans.servable, self.counters.observe, respond)

    def classify_steps(self, request: ClassifyRequest | None) -> Steps[ClassifyResponse]:
        """What `classify` does, its runs left to who takes the steps."""
        request, deadline = _checked(request)
        servable, plan = self._plans.find(request.model_spec)
        results, done = yield from classify(servable, plan, request, deadline)
        return ClassifyResponse(convert.resolved(servable, plan), results, self._timing(deadline, done))

    def detect_steps(self, request: DetectRequest | None) -> Steps[DetectResponse]:
        """What `detect` does, its runs left to who takes the steps."""
        request, deadline = _checked(request)
        servable, plan = self._plans.find(request.model_spec)
        results, done = yield from detect(servable, plan, request, deadline)
        return DetectResponse(convert.resolved(servable, plan), results, self._timing(deadline, done))

    def _timing(self, deadline: Deadline, done: TaskResult) -> Timing:
        """Where a request's time went, counted: for every method that runs a model."""
        timing = convert.timing(deadline, done)
        self.counters.observe(timing.queue_us, done.compute_us, done.batch_size)
        return timing

    @translate_errors
    def getModelMetadata(self, model_spec: ModelSpec) -> ModelMetadata:
        """Describes every signature of a model, or the one that is named."""
        servable = self._plans.servable(model_spec)
        if not model_spec.signature_name:
            return convert.metadata(servable, servable.signatures.values())
        _, plan = self._plans.find(model_spec)
        return convert.metadata(servable, [plan.signature])

    @translate_errors
    def getModelStatus(self, model_spec: ModelSpec) -> ModelStatus:
        """Tells the state of every version of a model, or of the one named by version or label."""
        spec = named(model_spec)
        version = self._plans.servable(spec).version if spec.version_label else spec.version
        found = self._registry.statuses(spec.name, version)[spec.name]
        return convert.model_status(spec.name, self._noted(spec.name, found), self._registry.transitions(spec.name))

    def _noted(self, name: str, statuses: Sequence[VersionStatus]) -> list[VersionStatus]:
        """Statuses that also tell which requests do not share runs, and why."""
        own = {one.version: self.batcher.note(one) for one in self._registry.servables() if one.name == name}
        return [replace(one, note="; ".join(filter(None, (one.note, own.get(one.version, ""))))) for one in statuses]

    @translate_errors
    def listModels(self) -> list[ModelStatus]:
        """Tells the state of every version of every model."""
        registry = self._registry
        return [
            convert.model_status(name, self._noted(name, each), registry.transitions(name))
            for name, each in registry.statuses().items()
        ]

    @translate_errors
    def getServerStatus(self) -> ServerStatus:
        """Tells the state of the server and of each worker."""
        return convert.server_status(self._status(), self._registry.names(), self._server_version)


def _response(
    resolved: ModelSpec, plan: RequestValidator, wanted: tuple[str, ...], done: TaskResult
) -> PredictResponse:
    """What a run gave, as the answer; its timing is left to set."""
    outputs: Mapping[str, Array] = done.outputs
    if tuple(outputs) != wanted:
        outputs = asked_for(plan, outputs, wanted)
    return PredictResponse(resolved, convert.tensors(outputs))


def _checked(request: R | None) -> tuple[R, Deadline]:
    """The request and its deadline, which is not over yet; Thrift lets a caller leave the request itself out."""
    if request is None:
        raise InvalidArgument("the call carries no request: expected one")
    deadline = Deadline.after(request.timeout_ms)
    if deadline.expires is not None:
        deadline.check()
    return request, deadline

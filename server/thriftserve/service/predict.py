"""The Predict service: from a request struct to a response struct.

    PredictRequest --> Deadline --> Servable, RequestValidator --> arrays --> Task --> Batcher --> TaskResult
                   --> PredictResponse

A request is checked completely before the session runs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from thriftserve.batching import Batcher, Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import InvalidArgument, ThriftServeError, Unimplemented
from thriftserve.models import images
from thriftserve.models.registry import Registry
from thriftserve.models.session import Array
from thriftserve.repository.version_states import VersionStatus
from thriftserve.rpc.batch_processor import BatchProcessor, Path, Span, Varying
from thriftserve.service import convert
from thriftserve.service.classify import classify
from thriftserve.service.detect import detect
from thriftserve.service.errors import RequestCounter, to_predict_error, translate_errors
from thriftserve.service.execution import Steps, make_task, run_steps, select_outputs
from thriftserve.service.predict_templates import CONTENT, VARYING, PredictTemplate, make_predict_template
from thriftserve.service.validation import RequestValidator, ValidatorCache, require_name
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
    """Answer the methods of `Predict`; several threads of a worker may call it at once.

    Every method of `Predict` raises PredictError and no other exception.

    Args:
        registry: finds servables by name, version and label.
        status: returns the server's state at the moment of the call.
        counters: counts the requests that are answered with an error, and the times of those that ran.
        max_image_pixels: limit on the pixels of an encoded image, and of a request's images after resizing.
        server_version: the version that getServerStatus returns.
        batcher: runs the requests' tasks; None runs each alone.
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
        self.counters = counters
        self.batcher = batcher or Batcher(max_batch_size=1)
        self._registry = registry
        self._validators = ValidatorCache(registry, max_image_pixels)
        self._status = status
        self._server_version = server_version

    def prepare(self) -> None:
        """Build all validators, and load the image decoders if a model takes images, before a request needs them."""
        if self._validators.prepare():
            # Without Pillow a server still serves tensors; requests with images get this error.
            with contextlib.suppress(Unimplemented):
                images.prepare()

    def releases_inputs(self, spec: ModelSpec) -> bool:
        """Return whether the session uses nothing of a request's inputs after its response."""
        try:
            return self._validators.servable(spec).session.platform == "tensorflow"
        except ThriftServeError:  # the call itself raises it again
            return False

    def model_names(self) -> list[str]:
        """Return the names of the models served, sorted."""
        return self._registry.names()

    def enqueue_limits(self) -> dict[str, int]:
        """Return how many requests may wait for each model that limits this."""
        limits = {servable.name: servable.batching.max_enqueued for servable in self._registry.servables()}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @translate_errors
    def ping(self) -> None:
        """Do nothing."""

    @translate_errors
    def predict(self, request: PredictRequest) -> PredictResponse:
        """Run one signature of one model on the tensors of the request."""
        return run_steps(self.predict_steps(request), self.batcher)

    @translate_errors
    def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Return the best classes of each encoded image."""
        return run_steps(self.classify_steps(request), self.batcher)

    @translate_errors
    def detect(self, request: DetectRequest) -> DetectResponse:
        """Return the objects in each encoded image."""
        return run_steps(self.detect_steps(request), self.batcher)

    def predict_steps(self, request: PredictRequest | None) -> Steps[PredictResponse]:
        """Return the steps of `predict`; the caller runs their tasks."""
        request, deadline = _check_request(request)
        servable, validator = self._validators.find(request.model_spec)
        output_names = validator.output_names(request.output_filter)
        free_shapes = bool(request.free_shapes) and servable.session.takes_any_shape
        arrays = validator.arrays(request.inputs, deadline, free_shapes)
        task = make_task(servable, validator, arrays, output_names, deadline)
        if free_shapes and not validator.fits(arrays):
            task.rows = 0  # it can't be told what is a row of it: it is neither merged, split nor padded
        result = yield task
        response = _response(convert.resolved_spec(servable, validator), validator, output_names, result)
        response.timing = self._count_timing(deadline, result)
        return response

    def make_template(self, request: PredictRequest, task: Task, parts: Sequence[Span]) -> PredictTemplate | None:
        """Return the template of a valid `predict` request; see `thriftserve.service.predict_templates`.

        Args:
            request: an example.
            task: the example's task.
            parts: its varying parts.

        Returns:
            None if calls like it need the slow path.
        """
        try:
            servable, validator = self._validators.find(request.model_spec)
        except ThriftServeError:  # unloaded a moment ago
            return None
        if servable is not task.servable:
            return None
        respond = partial(_response, convert.resolved_spec(servable, validator), validator, task.wanted)
        return make_predict_template(request, task, parts, self._validators.servable, self.counters.observe, respond)

    def classify_steps(self, request: ClassifyRequest | None) -> Steps[ClassifyResponse]:
        """Return the steps of `classify`; the caller runs their tasks."""
        request, deadline = _check_request(request)
        servable, validator = self._validators.find(request.model_spec)
        classified, result = yield from classify(servable, validator, request, deadline)
        return ClassifyResponse(
            convert.resolved_spec(servable, validator), classified, self._count_timing(deadline, result)
        )

    def detect_steps(self, request: DetectRequest | None) -> Steps[DetectResponse]:
        """Return the steps of `detect`; the caller runs their tasks."""
        request, deadline = _check_request(request)
        servable, validator = self._validators.find(request.model_spec)
        detected, result = yield from detect(servable, validator, request, deadline)
        return DetectResponse(
            convert.resolved_spec(servable, validator), detected, self._count_timing(deadline, result)
        )

    def _count_timing(self, deadline: Deadline, result: TaskResult) -> Timing:
        """Count a request that ran a model; return where its time went."""
        timing = convert.timing(deadline, result)
        self.counters.observe(timing.queue_us, result.compute_us, result.batch_size)
        return timing

    @translate_errors
    def getModelMetadata(self, model_spec: ModelSpec) -> ModelMetadata:
        """Return every signature of a model, or the one that the spec names."""
        servable = self._validators.servable(model_spec)
        if not model_spec.signature_name:
            return convert.model_metadata(servable, servable.signatures.values())
        _, validator = self._validators.find(model_spec)
        return convert.model_metadata(servable, [validator.signature])

    @translate_errors
    def getModelStatus(self, model_spec: ModelSpec) -> ModelStatus:
        """Return the state of every version of a model, or of the one that version or label name."""
        spec = require_name(model_spec)
        version = self._validators.servable(spec).version if spec.version_label else spec.version
        statuses = self._with_notes(spec.name, self._registry.statuses(spec.name, version)[spec.name])
        return convert.model_status(spec.name, statuses, self._registry.transitions(spec.name))

    def _with_notes(self, name: str, statuses: Sequence[VersionStatus]) -> list[VersionStatus]:
        """Return the statuses with the batcher's notes: which requests do not share runs, and why."""
        notes = {
            servable.version: self.batcher.note(servable)
            for servable in self._registry.servables()
            if servable.name == name
        }
        return [
            replace(status, note="; ".join(filter(None, (status.note, notes.get(status.version, "")))))
            for status in statuses
        ]

    @translate_errors
    def listModels(self) -> list[ModelStatus]:
        """Return the state of every version of every model."""
        registry = self._registry
        return [
            convert.model_status(name, self._with_notes(name, statuses), registry.transitions(name))
            for name, statuses in registry.statuses().items()
        ]

    @translate_errors
    def getServerStatus(self) -> ServerStatus:
        """Return the state of the server and of each worker."""
        return convert.server_status(self._status(), self._registry.names(), self._server_version)


def _response(
    resolved_spec: ModelSpec, validator: RequestValidator, output_names: tuple[str, ...], result: TaskResult
) -> PredictResponse:
    """Return the response to a run, without its timing."""
    outputs: Mapping[str, Array] = result.outputs
    if tuple(outputs) != output_names:
        outputs = select_outputs(validator, outputs, output_names)
    return PredictResponse(resolved_spec, convert.tensors(outputs))


def _check_request(request: R | None) -> tuple[R, Deadline]:
    """Return the request and its deadline, which has not passed; Thrift lets a caller leave out the request itself."""
    if request is None:
        raise InvalidArgument("the call carries no request: expected one")
    deadline = Deadline.after(request.timeout_ms)
    if deadline.expires is not None:
        deadline.check()
    return request, deadline


class PredictProcessor(Predict.Processor, BatchProcessor):
    """The generated processor, extended by requests that are begun together and run as batches."""

    #: The methods that can be begun together, each with the structs of its arguments and of its result.
    together: Mapping[str, tuple[type[Any], type[Any]]] = {
        "predict": (Predict.predict_args, Predict.predict_result),
        "classify": (Predict.classify_args, Predict.classify_result),
        "detect": (Predict.detect_args, Predict.detect_result),
    }

    #: By method: the path of tensors' contents in its arguments: request, inputs, content.
    large: Mapping[str, Path] = {"predict": CONTENT}

    #: By method: the paths at which calls, and their replies, may differ while they share a template.
    varying: Mapping[str, Varying] = {"predict": VARYING}

    def __init__(self, handler: PredictHandler) -> None:
        super().__init__(handler)  # type: ignore[no-untyped-call]  # generated
        self._service = handler
        self.batcher = handler.batcher
        self._steps: dict[str, Callable[[Any], Steps[Any]]] = {
            "predict": handler.predict_steps,
            "classify": handler.classify_steps,
            "detect": handler.detect_steps,
        }

    def begin(self, method: str, args: Any) -> Generator[Task, TaskResult, Any]:
        """Return the steps of one request; they return its result struct.

        Call `next` on them right after `mark_arrival`: the first step reads the arrival there, and no other does.
        Each step yields a task; send its TaskResult in, or throw the exception that `run` returned for it. The steps
        raise no `Exception`: they put it into the result, counted and logged as for a single call.

        Args:
            method: a key of `together`.
            args: its decoded arguments.
        """
        result = self.together[method][1]()
        try:
            result.success = yield from self._steps[method](args.request)
        except Exception as error:
            result.error = to_predict_error(self._service, method, args.request, error)
        return result

    def holders(self, method: str, args: Any) -> tuple[Iterable[Any], bool]:
        """Return the tensors whose content may stay in shared memory, and whether the model may keep that content.

        A TensorFlow session does not use its inputs after its run; a Python model may store them.
        """
        request = args.request
        if request is None or not request.inputs:
            return (), True
        return request.inputs.values(), not self._service.releases_inputs(request.model_spec)

    def make_template(self, method: str, args: Any, task: Task, parts: Sequence[Span]) -> PredictTemplate | None:
        """Return a template for all calls like this valid one; see `BatchProcessor.make_template`."""
        return self._service.make_template(args.request, task, parts)

    def about(self) -> dict[str, Any]:
        """Return what a worker announces to its front: the "models" that it serves, and the "max_waiting" of some."""
        return {"models": self._service.model_names(), "max_waiting": self._service.enqueue_limits()}

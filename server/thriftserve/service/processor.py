"""The Predict service for servers that begin many requests together.

    args --begin--> steps: Task, yielded --run--> TaskResult | error, sent or thrown in --> result struct

The generated processor is part of it, unchanged: one message in, one message out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from thriftserve.batching import Task, TaskResult
from thriftserve.rpc.batch_processor import BatchProcessor, Path, Span, Varying
from thriftserve.service.errors import to_predict_error
from thriftserve.service.execution import Steps
from thriftserve.service.predict import PredictHandler
from thriftserve.service.predict_templates import CONTENT, VARYING, PredictTemplate
from thriftserve_idl import Predict


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

"""The Predict service for who begins many requests together.

    args --begin--> steps: Job, yielded --run--> Done | error, sent or thrown in --> result struct

The generated processor is in it unchanged: one message in, one message out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from thriftserve.batching import BatchHint, Task, TaskResult
from thriftserve.service.errors import to_predict_error
from thriftserve.service.execution import Steps
from thriftserve.service.predict import PredictHandler
from thriftserve.service.predict_templates import CONTENT, VARYING, Part, PredictTemplate
from thriftserve_idl import Predict


class PredictProcessor(Predict.Processor):
    """The generated processor, whose requests can also be begun together and run as batches."""

    #: By method: the structs of its arguments and of its result.
    together: Mapping[str, tuple[type[Any], type[Any]]] = {
        "predict": (Predict.predict_args, Predict.predict_result),
        "classify": (Predict.classify_args, Predict.classify_result),
        "detect": (Predict.detect_args, Predict.detect_result),
    }

    #: By method: where tensors' contents stand in its arguments: request, inputs, content.
    large: Mapping[str, tuple[int, ...]] = {"predict": CONTENT}

    #: By method: where its calls, and its replies, differ from each other, if they are alike otherwise.
    varying: Mapping[str, tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]] = {"predict": VARYING}

    def __init__(self, handler: PredictHandler) -> None:
        super().__init__(handler)  # type: ignore[no-untyped-call]  # generated
        self._service = handler
        self._steps: dict[str, Callable[[Any], Steps[Any]]] = {
            "predict": handler.predict_steps,
            "classify": handler.classify_steps,
            "detect": handler.detect_steps,
        }

    def begin(self, method: str, args: Any) -> Generator[Task, TaskResult, Any]:
        """The steps of one request, which end with its result struct.

        Take the first one (`next`) right after `mark_arrival`: the moment of arrival is read there, and not
        again. Each step yields a job; send its `Done` in, or throw the exception that `run` gave for it. No
        `Exception` comes out: every one is the result's error, counted and logged as for a single call.

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
        """The tensors of a request whose content may be left in shared memory, and whether the model may keep it.

        A TensorFlow session is done with its inputs when its run is; a Python model may do with them what it likes.
        """
        request = args.request
        if request is None or not request.inputs:
            return (), True
        return request.inputs.values(), not self._service.lets_go_of_inputs(request.model_spec)

    def form(self, method: str, args: Any, job: Task, parts: Sequence[Part]) -> PredictTemplate | None:
        """What holds for every call like this one, which was begun and is right; None: nothing is known of them.

        Args:
            method: a key of `varying`.
            args: its arguments.
            job: its first one.
            parts: what varies of it.
        """
        return self._service.form(args.request, job, parts)

    def run(self, jobs: Sequence[Task]) -> list[TaskResult | Exception]:
        """Runs the jobs of requests that were begun together: an answer or an error for each, in their order."""
        return self._service.batcher.run_all(jobs)

    def about(self) -> dict[str, Any]:
        """What a front is told of this process: "models", the names of those served, and "max_waiting" of some."""
        return {"models": self._service.model_names(), "max_waiting": self._service.most_enqueued()}

    def advice(self) -> BatchHint:
        """How many requests are worth beginning together, by this process's own measurements."""
        return self._service.batcher.advice()

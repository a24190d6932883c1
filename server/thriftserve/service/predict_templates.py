"""What holds for every `predict` that is like an earlier one: same model, signature, inputs, dtypes and shapes.

    (number, contents, timeout_ms, request_id) --job()--> Job --run--> parts(): contents of the outputs, Timing

Names, dtypes and shapes were found to fit the signature once, and they are the same bytes. What may have changed since
is looked at each time: which version answers, how much time there is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thriftserve.batching import Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import ThriftServeError
from thriftserve.models.servable import Servable
from thriftserve.service.convert import queue_us, timing
from thriftserve.service.front import TIMEOUTS
from thriftserve_idl.Predict import predict_result
from thriftserve_idl.ttypes import ModelSpec, PredictRequest, PredictResponse

#: Paths of the fields of a call and of its reply that vary; see `Form.job` and `Form.parts`.
CONTENT, TIMEOUT, REQUEST_ID = (1, 2, 3), TIMEOUTS["predict"], (1, 5)
VARYING = ((CONTENT, TIMEOUT, REQUEST_ID), ((0, 2, 3), (0, 3, 1), (0, 3, 2), (0, 3, 3)))
#: numpy's kinds of element whose content, as it came, is the array: not truth values, for any byte may have come. And
#: those whose array is the content.
_NUMBERS, _SENT_AS_THEY_ARE = "iuf", "iufb"

Find = Callable[[ModelSpec], Servable]
#: Counts a request: microseconds queued, microseconds in the model, rows of the run.
Observe = Callable[[int, int, int], None]
#: Makes the response, but for its timing.
Respond = Callable[[TaskResult], PredictResponse]
#: One of the parts that vary: its path, the keys of maps on the way, its bytes.
Part = tuple[tuple[int, ...], tuple[bytes, ...], bytes]


class PredictTemplate:
    """One such form; made by `form_of`.

    Args:
        request: an example.
        job: what it wants run.
        at: the place of each input's content among the parts that vary, and of `TIMEOUT` and `REQUEST_ID`.
        find: the servable that answers a spec at this moment.
        observe: counts.
        respond: makes the response.
    """

    def __init__(
        self, request: PredictRequest, job: Task, at: Mapping[Any, int], find: Find, observe: Observe, respond: Respond
    ) -> None:
        self._spec = request.model_spec
        self._find = find
        self._observe = observe
        self._respond = respond
        self._servable = weakref.ref(job.servable)
        self._signature = job.signature
        self._wanted = job.wanted
        self._rows = job.rows
        self._inputs = [(name, array.shape, array.dtype, at[name]) for name, array in job.arrays.items()]
        self._timeout_at = at.get(TIMEOUT)
        self._request_id_at = at.get(REQUEST_ID)

    def job(self, parts: Sequence[bytes], arrived: float) -> Task | None:
        """What a request with these parts wants run; None where it has to be looked at as a whole."""
        timeout_ms = None
        if self._timeout_at is not None:
            timeout_ms = int.from_bytes(parts[self._timeout_at], "big", signed=True)
            if timeout_ms < 0:
                return None
        if self._request_id_at is not None and not parts[self._request_id_at].isascii():
            return None
        try:
            servable = self._find(self._spec)
        except ThriftServeError:
            return None
        if servable is not self._servable():
            return None
        arrays = {name: np.ndarray(shape, dtype, parts[place]) for name, shape, dtype, place in self._inputs}
        return Task(servable, self._signature, arrays, self._wanted, Deadline(arrived, timeout_ms), self._rows)

    def outline(self, job: Task, done: TaskResult) -> Any:
        """Names, dtypes and shapes of the outputs; None where they are not those that were asked for, or no numbers."""
        if tuple(done.outputs) != self._wanted:
            return None
        outline: list[Any] = []
        for name, array in done.outputs.items():
            dtype = array.dtype
            if dtype.kind not in _SENT_AS_THEY_ARE or not dtype.isnative:
                return None
            outline += (name, dtype, array.shape)
        return tuple(outline)

    def count(self, job: Task, done: TaskResult) -> None:
        """Counts a request that is being answered."""
        self._observe(queue_us(job.deadline, done), done.compute_us, done.batch_size)

    def result(self, job: Task, done: TaskResult) -> predict_result:
        """The answer as a struct."""
        response = self._respond(done)
        response.timing = timing(job.deadline, done)
        return predict_result(response)

    def parts(self, job: Task, done: TaskResult) -> list[bytes]:
        """The outputs' contents, then what `Timing` says, but for the worker."""
        parts = [array.tobytes() for array in done.outputs.values()]
        parts += (
            queue_us(job.deadline, done).to_bytes(8, "big", signed=True),
            done.compute_us.to_bytes(8, "big"),
            done.batch_size.to_bytes(4, "big"),
        )
        return parts


def template_for(
    request: PredictRequest, job: Task, parts: Sequence[Part], find: Find, observe: Observe, respond: Respond
) -> PredictTemplate | None:
    """The form of a request that was found to be right; arguments as for `PredictForm`.

    Returns:
        None where the parts are not all that matters of the fields that they stand for: an input is an image, text or
        a truth value, or a field was sent in a way that the contract does not know.
    """
    at: dict[Any, int] = {}
    for place, (path, keys, value) in enumerate(parts, 1):  # the call's number is the first
        name = keys[0].decode() if keys else path
        if name in at or value != _sent(request, path, name):
            return None
        at[name] = place
    if not job.wanted:
        return None
    for name, array in job.arrays.items():
        if name not in at or array.dtype.kind not in _NUMBERS or array.nbytes != len(request.inputs[name].content):
            return None
    return PredictTemplate(request, job, at, find, observe, respond)


def _sent(request: PredictRequest, path: tuple[int, ...], name: Any) -> bytes | None:
    """What a field of the request was sent as, in the contract's way."""
    if path == CONTENT:
        content: bytes | None = request.inputs[name].content
        return content
    if path == TIMEOUT:
        return None if request.timeout_ms is None else request.timeout_ms.to_bytes(4, "big", signed=True)
    return None if request.request_id is None else request.request_id.encode()

"""Templates of predict calls: the work that calls with the same model, signature, dtypes and shapes skip.

    (number, contents, timeout_ms, request_id) --task()--> Task --run--> parts(): contents of the outputs, Timing

Names, dtypes and shapes were validated once, and later calls repeat the same bytes. What may have changed since is
read each time: the version that answers, and the deadline.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thriftserve.batching import Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import ThriftServeError
from thriftserve.models.registry import Servable
from thriftserve.rpc.batch_processor import Span
from thriftserve.service.convert import queue_us, timing
from thriftserve.service.front import TIMEOUT_PATHS
from thriftserve_idl.Predict import predict_result
from thriftserve_idl.ttypes import ModelSpec, PredictRequest, PredictResponse

#: Paths of the varying fields of a call. `VARYING` adds those of its reply: contents, and all of Timing but its pid.
CONTENT, TIMEOUT, REQUEST_ID = (1, 2, 3), TIMEOUT_PATHS["predict"], (1, 5)
VARYING = ((CONTENT, TIMEOUT, REQUEST_ID), ((0, 2, 3), (0, 3, 1), (0, 3, 2), (0, 3, 3)))
#: numpy's kinds of element whose bytes on the wire are the array's. A truth value is none on the way in: a client may
#: send any byte for it.
_INPUT_KINDS, _OUTPUT_KINDS = "iuf", "iufb"

FindServable = Callable[[ModelSpec], Servable]
#: Counts a request: microseconds queued, microseconds in the model, rows of the run.
Observe = Callable[[int, int, int], None]
#: Builds the response without its timing.
Respond = Callable[[TaskResult], PredictResponse]


class PredictTemplate:
    """What predict calls with the same model, signature, inputs, dtypes and shapes have in common.

    `make_predict_template` builds it; several threads of a worker may use it at once.

    Args:
        request: an example.
        task: the example's task.
        positions: the position of each input's content among the varying parts, and of `TIMEOUT` and `REQUEST_ID`.
        find_servable: returns the servable that answers a spec at this moment.
        observe: counts a request.
        respond: builds the response.
    """

    def __init__(
        self,
        request: PredictRequest,
        task: Task,
        positions: Mapping[Any, int],
        find_servable: FindServable,
        observe: Observe,
        respond: Respond,
    ) -> None:
        self._spec = request.model_spec
        self._find_servable = find_servable
        self._observe = observe
        self._respond = respond
        self._servable = weakref.ref(task.servable)
        self._signature = task.signature
        self._output_names = task.wanted
        self._rows = task.rows
        self._inputs = [(name, array.shape, array.dtype, positions[name]) for name, array in task.arrays.items()]
        self._timeout_position = positions.get(TIMEOUT)
        self._request_id_position = positions.get(REQUEST_ID)

    def task(self, parts: Sequence[bytes], arrived: float) -> Task | None:
        """Return the task of a call with these parts; None if the call needs the slow path."""
        timeout_ms = None
        if self._timeout_position is not None:
            timeout_ms = int.from_bytes(parts[self._timeout_position], "big", signed=True)
            if timeout_ms < 0:
                return None
        if self._request_id_position is not None and not parts[self._request_id_position].isascii():
            return None
        try:
            servable = self._find_servable(self._spec)
        except ThriftServeError:
            return None
        if servable is not self._servable():
            return None
        arrays = {name: np.ndarray(shape, dtype, parts[position]) for name, shape, dtype, position in self._inputs}
        return Task(servable, self._signature, arrays, self._output_names, Deadline(arrived, timeout_ms), self._rows)

    def layout(self, task: Task, result: TaskResult) -> Any:
        """Return names, dtypes and shapes of the outputs; None if they need the slow path."""
        if tuple(result.outputs) != self._output_names:
            return None
        layout: list[Any] = []
        for name, array in result.outputs.items():
            dtype = array.dtype
            if dtype.kind not in _OUTPUT_KINDS or not dtype.isnative:
                return None
            layout += (name, dtype, array.shape)
        return tuple(layout)

    def count(self, task: Task, result: TaskResult) -> None:
        """Count a request that is being answered."""
        self._observe(queue_us(task.deadline, result), result.compute_us, result.batch_size)

    def result(self, task: Task, result: TaskResult) -> predict_result:
        """Return the result struct."""
        response = self._respond(result)
        response.timing = timing(task.deadline, result)
        return predict_result(response)

    def parts(self, task: Task, result: TaskResult) -> list[bytes]:
        """Return the reply's varying parts: the outputs' contents, then queue_us, compute_us and batch_size."""
        parts = [array.tobytes() for array in result.outputs.values()]
        parts += (
            queue_us(task.deadline, result).to_bytes(8, "big", signed=True),
            result.compute_us.to_bytes(8, "big"),
            result.batch_size.to_bytes(4, "big"),
        )
        return parts


def make_predict_template(
    request: PredictRequest,
    task: Task,
    parts: Sequence[Span],
    find_servable: FindServable,
    observe: Observe,
    respond: Respond,
) -> PredictTemplate | None:
    """Return the template of a valid request; arguments as for `PredictTemplate`.

    Returns:
        None if the parts do not determine the fields that they stand for: an input is an image, text or truth values,
        or the client encoded a field in a way that the contract does not know.
    """
    positions: dict[Any, int] = {}
    for position, (path, keys, value) in enumerate(parts, 1):  # part 0 is the call's number
        name = keys[0].decode() if keys else path
        if name in positions or value != _encoded_field(request, path, name):
            return None
        positions[name] = position
    if not task.wanted:
        return None
    for name, array in task.arrays.items():
        content = request.inputs[name].content
        if name not in positions or array.dtype.kind not in _INPUT_KINDS or array.nbytes != len(content):
            return None
    return PredictTemplate(request, task, positions, find_servable, observe, respond)


def _encoded_field(request: PredictRequest, path: tuple[int, ...], name: Any) -> bytes | None:
    """Return the bytes of one varying field, encoded as the contract says."""
    if path == CONTENT:
        content: bytes | None = request.inputs[name].content
        return content
    if path == TIMEOUT:
        return None if request.timeout_ms is None else request.timeout_ms.to_bytes(4, "big", signed=True)
    return None if request.request_id is None else request.request_id.encode()

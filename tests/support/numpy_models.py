"""Models of a few lines of numpy, served for real: each session keeps count of its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.Thrift import TException
from thrift.transport.TTransport import TMemoryBuffer

from thriftserve.batching import Batcher
from thriftserve.models.registry import Registry, Servable
from thriftserve.models.session import DEFAULT_SIGNATURE, Array, Arrays, Session, Signature, TensorSpec
from thriftserve.service import PredictHandler
from thriftserve.status import ServerPhase, ServerSnapshot, WorkerPhase, WorkerSnapshot
from thriftserve_client.codec import from_tensor, to_tensor
from thriftserve_idl.ttypes import DataType, ErrorCode, ModelSpec, PredictError, PredictRequest, PredictResponse

Function = Callable[[Arrays], dict[str, Any]]
Shape = tuple[int | None, ...] | None

SNAPSHOT = ServerSnapshot(
    phase=ServerPhase.DEGRADED,
    server_type="TProcessPoolServer",
    pid=11,
    uptime_s=2.5,
    workers=(WorkerSnapshot(1, 12, WorkerPhase.BUSY, "gpu:1", 1000, 1.5, 2.0, 30, 4, 5, 6, 7),),
    past_requests=8,
    past_errors=9,
    refused=10,
)


class Counter:
    """Counts the errors that a handler answered; `ran` holds what it said of each request that ran."""

    def __init__(self) -> None:
        self.errors = 0
        self.ran: list[tuple[int, int, int]] = []

    def add_error(self) -> None:
        self.errors += 1

    def observe(self, queue_us: int, compute_us: int, batch_size: int) -> None:
        self.ran.append((queue_us, compute_us, batch_size))


class NumpySession(Session):
    """A session whose signatures are functions on arrays; `runs` holds the inputs and outputs of each call."""

    platform = "python"
    device = "cpu"

    def __init__(self, functions: Mapping[str, tuple[Signature, Function]]) -> None:
        self.signatures = {name: signature for name, (signature, _) in functions.items()}
        self._functions = {name: function for name, (_, function) in functions.items()}
        self.runs: list[tuple[dict[str, Array], tuple[str, ...]]] = []

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        self.runs.append((dict(inputs), tuple(outputs)))
        answer = self._functions[signature](inputs)
        return {name: answer[name] for name in outputs or answer if name in answer}

    def close(self) -> None:
        pass


def signature(
    inputs: Mapping[str, tuple[DataType, Shape]],
    outputs: Mapping[str, tuple[DataType, Shape]],
    name: str = DEFAULT_SIGNATURE,
) -> Signature:
    """A signature from names, element types and shapes."""
    return Signature(
        name,
        {each: TensorSpec(each, *spec) for each, spec in inputs.items()},
        {each: TensorSpec(each, *spec) for each, spec in outputs.items()},
        "test/method",
    )


def one_function(made: Signature, function: Function) -> NumpySession:
    """A session of one signature."""
    return NumpySession({made.name: (made, function)})


def half_plus_two() -> NumpySession:
    """The model x FLOAT [n, 3], k INT64 [] -> y = x / 2 + k, total: the sum of y."""
    takes: dict[str, tuple[DataType, Shape]] = {"x": (DataType.FLOAT, (None, 3)), "k": (DataType.INT64, ())}
    gives: dict[str, tuple[DataType, Shape]] = {"y": (DataType.FLOAT, (None, 3)), "total": (DataType.FLOAT, ())}

    def run(inputs: Arrays) -> dict[str, Array]:
        y = (inputs["x"] / 2 + inputs["k"]).astype(np.float32)
        return {"y": y, "total": y.sum(dtype=np.float32)}

    return one_function(signature(takes, gives), run)


def handler_of(
    registry: Registry, counter: Counter, *, max_image_pixels: int = 1_000_000, batcher: Batcher | None = None
) -> PredictHandler:
    """A handler as a server makes it."""
    return PredictHandler(
        registry,
        status=lambda: SNAPSHOT,
        counters=counter,
        max_image_pixels=max_image_pixels,
        server_version="1.2.3",
        batcher=batcher,
    )


class Server:
    """A handler on some servables, called as a client would: each struct crosses the wire's codec."""

    def __init__(self, *servables: Servable, max_image_pixels: int = 1_000_000) -> None:
        self.counter = Counter()
        self.registry = Registry(servables)
        self.handler = handler_of(self.registry, self.counter, max_image_pixels=max_image_pixels)

    def call(self, method: str, *structs: Any) -> Any:
        """What a method answers, as it looks on the client's side."""
        answer = getattr(self.handler, method)(*(over_the_wire(one) for one in structs))
        return over_the_wire(answer) if hasattr(answer, "thrift_spec") else answer

    def predict(self, inputs: Mapping[str, Any], model: str = "m", **fields: Any) -> PredictResponse:
        """Predict on arrays; fields of the request or of its model_spec by name."""
        of_spec = {key: fields.pop(key) for key in ("version", "version_label", "signature_name") if key in fields}
        tensors = {name: to_tensor(value) for name, value in inputs.items()}
        response: PredictResponse = self.call("predict", PredictRequest(ModelSpec(model, **of_spec), tensors, **fields))
        return response


def serve(session: Any, **fields: Any) -> Server:
    """A server of one model "m", version 3."""
    return Server(Servable("m", 3, session, **fields))


def arrays(response: PredictResponse) -> dict[str, Array]:
    """The outputs of a response."""
    return {name: from_tensor(tensor) for name, tensor in response.outputs.items()}


def refused(call: Callable[[], Any], code: ErrorCode, *words: str) -> PredictError:
    """The error that a call fails with; its message has all the words."""
    with pytest.raises(PredictError) as caught:
        call()
    error = caught.value
    assert error.code == code, error.message
    for word in words:
        assert word in error.message
    return error


def over_the_wire(struct: Any) -> Any:
    """The struct as it arrives: encoded and decoded by the accelerated protocol."""
    protocols = TBinaryProtocolAcceleratedFactory(fallback=False)
    buffer = TMemoryBuffer()
    struct.write(protocols.getProtocol(buffer))
    wire = protocols.getProtocol(TMemoryBuffer(buffer.getvalue()))
    if isinstance(struct, TException):  # generated exceptions are immutable: read makes a new one
        return type(struct).read(wire)
    arrived = type(struct)()
    arrived.read(wire)
    return arrived

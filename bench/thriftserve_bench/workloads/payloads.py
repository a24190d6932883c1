"""What is sent to an echo service or to any model: one predict call, encoded before anything is measured.

payload name                    -->  tensor of that size                            -->  frame
payload name, model's metadata  -->  inputs that fit it, of about that size         -->  frame
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thriftserve_bench.workloads.messages import predict_frame
from thriftserve_client import Client
from thriftserve_client.codec import numpy_dtype, to_tensor
from thriftserve_client.errors import ThriftServeClientError
from thriftserve_client.results import TensorInfo
from thriftserve_idl.ttypes import DataType, ModelSpec, PredictRequest, Tensor

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Payload:
    """A size of tensor."""

    name: str
    shape: tuple[int, ...]
    #: Whether serving it is mostly moving bytes: half of Apache's CPU is the target.
    large: bool

    @property
    def tensor_bytes(self) -> int:
        """Bytes of its content, float32."""
        return 4 * int(np.prod(self.shape))


PAYLOADS = {
    payload.name: payload
    for payload in (
        Payload("tiny", (3,), large=False),
        Payload("602 KB", (1, 224, 224, 3), large=True),
        Payload("19 MB", (32, 224, 224, 3), large=True),
    )
}


def payload_bytes(name: str) -> int:
    """Return the bytes of tensor content that a name of PAYLOADS, or a number, stands for."""
    return PAYLOADS[name].tensor_bytes if name in PAYLOADS else int(name)


def echo_frame(name: str) -> bytes:
    """Encode the call of the echo service."""
    return predict_frame(PredictRequest(model_spec=ModelSpec(name="echo"), inputs={"x": echo_tensor(name)}))


def echo_tensor(name: str) -> Tensor:
    """Return what the echo service gets: a float32 tensor of the payload's size."""
    shape = PAYLOADS[name].shape if name in PAYLOADS else (max(1, payload_bytes(name) // 4),)
    return to_tensor(_random(shape, np.dtype(np.float32)))


def model_frame(host: str, port: int, model: str, name: str) -> bytes:
    """Encode the call of a served model's default signature, with inputs that its metadata allows.

    Raises:
        ThriftServeClientError: the server has no metadata, or refuses the inputs.
    """
    with Client(host, port) as client:
        metadata = client.metadata(model)
        signature = metadata.signatures.get("serving_default") or next(iter(metadata.signatures.values()))
        inputs = inputs_for(signature.inputs, payload_bytes(name))
        if not inputs:
            inputs = _undeclared(client, model, name)
    return _frame(model, inputs)


def _undeclared(client: Client, model: str, name: str) -> dict[str, Array]:
    """Return inputs for a model that declares none: a float32 vector "x" of the payload's size, if it takes that."""
    inputs = {"x": _random((max(1, payload_bytes(name) // 4),), np.dtype(np.float32))}
    try:
        client.predict(model, inputs)
    except ThriftServeClientError:
        return {}
    return inputs


def inputs_for(declared: Mapping[str, TensorInfo], size: int) -> dict[str, Array]:
    """Return inputs that fit their declarations.

    The one with the most dimensions grows, along those that are free, to about `size` bytes; in the others a free
    dimension is 1. Where several are free, the first counts rows and stays 1.
    """
    if not declared:
        return {}
    largest = max(declared.values(), key=lambda info: len(info.shape or ()))
    return {name: _array(info, size if info is largest else 0) for name, info in declared.items()}


def _array(info: TensorInfo, size: int) -> Array:
    if info.dtype == DataType.STRING:
        return np.full(_filled(info.shape, size // 4), b"rain", object)
    dtype = numpy_dtype(int(info.dtype))
    return _random(_filled(info.shape, size // dtype.itemsize), dtype)


def _filled(shape: tuple[int | None, ...] | None, elements: int) -> tuple[int, ...]:
    """Return a shape with its free dimensions chosen for about so many elements, at least 1 each."""
    if shape is None:
        shape = (None,)
    free = [place for place, size in enumerate(shape) if size is None]
    grown = [place for place in free if place > 0] if len(free) > 1 else free
    known = int(np.prod([size for size in shape if size is not None]))
    each = max(1, round((elements / max(known, 1)) ** (1 / len(grown)))) if grown else 1
    return tuple(size if size is not None else each if place in grown else 1 for place, size in enumerate(shape))


def _random(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return random floats below 1, or ones of any other type."""
    if dtype.kind != "f":
        return np.ones(shape, dtype)
    return np.random.default_rng(1).random(shape, np.float32).astype(dtype)


def _frame(model: str, inputs: Mapping[str, Array]) -> bytes:
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    return predict_frame(PredictRequest(model_spec=ModelSpec(name=model), inputs=tensors))

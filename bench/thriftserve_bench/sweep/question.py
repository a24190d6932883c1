"""What is asked again and again: one predict call, encoded once.

payload, model's metadata  -->  inputs of about that size  -->  frame  -->  (the server)  -->  replies told apart by
their first bytes: an answer, or an error of a kind
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any

import numpy as np
from thrift.Thrift import TMessageType

from thriftserve_bench.payloads import PAYLOADS, call_frame, payload, read_reply
from thriftserve_client import Client
from thriftserve_client.codec import numpy_dtype, to_tensor
from thriftserve_client.errors import ThriftServeClientError
from thriftserve_client.results import TensorInfo
from thriftserve_idl.ttypes import DataType, ErrorCode, ModelSpec, PredictRequest, Timing

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

_NAMES = tuple(one.name for one in PAYLOADS)
_SUCCESS = b"\x0c\x00\x00"  # the field "success" of a struct's type
_HEAD = Struct("!II7si3s").pack(0x80010000 | TMessageType.REPLY, 7, b"predict", 7, _SUCCESS)


class Refused(Exception):
    """The server answered with an error; the message begins with its kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        #: The name of an ErrorCode.
        self.kind = kind


class FrameQuestion:
    """A call as a frame; its replies are answers or errors, and are not compared with anything."""

    #: What an answer's message begins with.
    head = _HEAD

    def __init__(self, frame: bytes) -> None:
        self.frame = frame

    def check(self, message: bytes) -> None:
        """Looks at a whole reply.

        Raises:
            Refused: it is an error.
            ValueError: it is no reply to a predict call.
        """
        result = read_reply(message)
        if result.error is not None:
            raise Refused(ErrorCode(result.error.code).name, result.error.message)


def timing_of(message: bytes) -> Timing | None:
    """Where the server says an answer's time went; None where it says nothing."""
    timing: Timing | None = read_reply(message).success.timing
    return timing


def payload_bytes(name: str) -> int:
    """Bytes of tensor content that a payload's name stands for: a name of PAYLOADS, or a number."""
    return payload(name).tensor_bytes if name in _NAMES else int(name)


def echo_frame(name: str) -> bytes:
    """The call of the echo service: a float32 tensor of the payload's size."""
    shape = payload(name).shape if name in _NAMES else (max(1, payload_bytes(name) // 4),)
    return _frame("echo", {"x": _random(shape, np.dtype(np.float32))})


def model_frame(host: str, port: int, model: str, name: str) -> bytes:
    """The call of a served model's default signature, with inputs as its metadata wants them.

    Raises:
        ThriftServeClientError: the server does not tell, or refuses the inputs.
    """
    with Client(host, port) as client:
        metadata = client.metadata(model)
        signature = metadata.signatures.get("serving_default") or next(iter(metadata.signatures.values()))
        inputs = inputs_for(signature.inputs, payload_bytes(name))
        if not inputs:
            inputs = _undeclared(client, model, name)
    return _frame(model, inputs)


def _undeclared(client: Client, model: str, name: str) -> Arrays:
    """Inputs for a model that declares none: a float32 vector "x" of the payload's size, unless it refuses that."""
    inputs = {"x": _random((max(1, payload_bytes(name) // 4),), np.dtype(np.float32))}
    try:
        client.predict(model, inputs)
    except ThriftServeClientError:
        return {}
    return inputs


def inputs_for(declared: Mapping[str, TensorInfo], size: int) -> Arrays:
    """Inputs that fit their declarations.

    The one with the most dimensions is grown, along those that are free, to about `size` bytes; in the others a free
    dimension is 1. Where several are free, the first counts rows and stays 1.
    """
    if not declared:
        return {}
    largest = max(declared.values(), key=lambda one: len(one.shape or ()))
    return {name: _array(one, size if one is largest else 0) for name, one in declared.items()}


def _array(info: TensorInfo, size: int) -> np.ndarray[Any, np.dtype[Any]]:
    if info.dtype == DataType.STRING:
        return np.full(_filled(info.shape, size // 4), b"rain", object)
    dtype = numpy_dtype(int(info.dtype))
    return _random(_filled(info.shape, size // dtype.itemsize), dtype)


def _filled(shape: tuple[int | None, ...] | None, elements: int) -> tuple[int, ...]:
    """A shape with its free dimensions chosen for about so many elements; at least 1 each."""
    if shape is None:
        shape = (None,)
    free = [at for at, one in enumerate(shape) if one is None]
    grown = [at for at in free if at > 0] if len(free) > 1 else free
    known = int(np.prod([one for one in shape if one is not None]))
    each = max(1, round((elements / max(known, 1)) ** (1 / len(grown)))) if grown else 1
    return tuple(one if one is not None else each if at in grown else 1 for at, one in enumerate(shape))


def _random(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Random floats below 1; ones of every other type."""
    if dtype.kind != "f":
        return np.ones(shape, dtype)
    return np.random.default_rng(1).random(shape, np.float32).astype(dtype)


def _frame(model: str, inputs: Arrays) -> bytes:
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    return call_frame(PredictRequest(model_spec=ModelSpec(name=model), inputs=tensors))

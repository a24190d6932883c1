"""Requests as TensorFlow Serving logs them, in TFRecord files, and arrays as they carry them, without TensorFlow.

    bytes of a PredictionLog  --decode-->  RecordedRequest("serving_default", {"x": array}, ("y",)), …
                              <--encode--  model, signature, inputs, outputs
    TensorProto  --to_array-->  array (STRING: objects that are bytes)  --to_tensor-->  TensorProto

The messages are those of idl/thriftserve_proto. The model that a request names is ignored: a version's file is about
that version.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from thriftserve.files import CorruptFile
from thriftserve.models.session import DEFAULT_SIGNATURE, Array, Arrays
from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType
from thriftserve_proto.prediction_pb2 import Input, ModelSpec, PredictionLog, PredictRequest
from thriftserve_proto.tensor_pb2 import TensorProto, TensorShapeProto


class Unsupported(Exception):
    """A record of a kind that is not run; the message says which."""


@dataclass(frozen=True)
class RecordedRequest:
    """A request: the signature that it calls, and with what."""

    signature: str
    inputs: Mapping[str, Array] = field(default_factory=dict)
    #: Outputs wanted; empty: all.
    outputs: Sequence[str] = ()
    #: Serialized Example messages, for the signature's only input; None: `inputs` are given by name.
    examples: Sequence[bytes] | None = None


def decode(record: bytes) -> list[RecordedRequest]:
    """Return the requests of one record: one, or one for each task of a MultiInference.

    Raises:
        CorruptFile: It can't be read.
        Unsupported: It is of a kind that is not run.
    """
    try:
        message = PredictionLog.FromString(record)
    except DecodeError as error:
        raise CorruptFile("it is cut short, or no PredictionLog") from error
    kind = message.WhichOneof("log_type")
    if kind == "session_run_log":
        raise Unsupported("a SessionRun request names tensors of the graph, and only signatures are served")
    if kind == "predict_streamed_log":
        requests = list(message.predict_streamed_log.request)
    else:
        log = getattr(message, kind) if kind else None
        requests = [log.request] if log is not None and log.HasField("request") else []
    if not requests:
        raise CorruptFile("it has no request in it")
    if kind in ("predict_log", "predict_streamed_log"):
        return [_predict(request) for request in requests]
    (request,) = requests
    examples = _examples(request.input)
    specs = [task.model_spec for task in request.tasks] if kind == "multi_inference_log" else [request.model_spec]
    return [RecordedRequest(_signature(spec), examples=examples) for spec in specs]


def encode(model: str, signature: str, inputs: Arrays, outputs: Sequence[str] = ()) -> bytes:
    """Return a PredictionLog with a PredictRequest.

    Raises:
        TensorError: An input has a type that requests can't carry.
    """
    message = PredictionLog()
    request = message.predict_log.request
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(array))
    request.output_filter.extend(outputs)
    record: bytes = message.SerializeToString(deterministic=True)
    return record


def to_array(tensor: TensorProto) -> Array:
    """Return the array of a TensorProto. Of fewer elements than its shape has, the last one is repeated.

    Raises:
        CorruptFile: It makes no array, or one of a type that requests can't carry.
    """
    try:
        dtype = DataType(tensor.dtype)
    except ValueError:
        raise CorruptFile(f"a tensor of type number {tensor.dtype}, which requests can't carry") from None
    shape = _shape(tensor.tensor_shape)
    try:
        return _elements(tensor, dtype, shape)
    except (TensorError, ValueError, OverflowError) as error:
        raise CorruptFile(f"{dtype.name} tensor of shape {list(shape)}: {error}") from None


def to_tensor(array: Array) -> TensorProto:
    """Return the TensorProto of an array; the inverse of `to_array`.

    Raises:
        TensorError: No DataType carries its element type.
    """
    dtype = data_type(array.dtype)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    tensor = TensorProto(dtype=f"DT_{dtype.name}", tensor_shape=shape)
    if dtype is DataType.STRING:
        tensor.string_val.extend(
            text.encode() if isinstance(text, str) else bytes(text) for text in array.ravel().tolist()
        )
    else:
        tensor.tensor_content = np.ascontiguousarray(array, numpy_dtype(dtype)).tobytes()
    return tensor


def _predict(request: PredictRequest) -> RecordedRequest:
    inputs = {name: to_array(tensor) for name, tensor in request.inputs.items()}
    return RecordedRequest(_signature(request.model_spec), inputs, list(request.output_filter))


def _signature(spec: ModelSpec) -> str:
    return spec.signature_name or DEFAULT_SIGNATURE


def _examples(message: Input) -> list[bytes]:
    """Return the examples of an Input. The shared context goes before each: one message behind another merges both."""
    if message.WhichOneof("kind") == "example_list_with_context":
        shared = message.example_list_with_context
        return [shared.context + example for example in shared.examples]
    return list(message.example_list.examples)


def _shape(message: TensorShapeProto) -> tuple[int, ...]:
    if message.unknown_rank:
        raise CorruptFile("a tensor of unknown rank")
    sizes = tuple(dimension.size for dimension in message.dim)
    if len(sizes) > _MOST_RANK or any(size < 0 for size in sizes) or math.prod(sizes) > _MOST_ELEMENTS:
        raise CorruptFile(f"a tensor of the impossible shape {list(sizes[:8])}")
    return sizes


def _elements(tensor: TensorProto, dtype: DataType, shape: tuple[int, ...]) -> Array:
    count, kind = math.prod(shape), numpy_dtype(dtype)
    if tensor.tensor_content and dtype is not DataType.STRING:
        if len(tensor.tensor_content) != count * kind.itemsize:
            raise CorruptFile(f"{len(tensor.tensor_content)} bytes of content for {count} elements")
        return np.frombuffer(tensor.tensor_content, np.uint8).view(kind).reshape(shape).copy()
    elements: Any = list(getattr(tensor, _LISTS.get(dtype, "int_val")))
    if len(elements) > count:
        raise CorruptFile(f"{len(elements)} values for {count} elements")
    values = np.array(elements, np.uint16).view(kind) if dtype in _BY_BITS else np.array(elements, kind)
    last = values[-1] if len(values) else b"" if dtype is DataType.STRING else 0
    full = np.full(count, last, kind)
    full[: len(values)] = values
    return full.reshape(shape)


_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def read_records(path: Path) -> Iterator[tuple[int, bytes | CorruptFile]]:
    """Yield the records of a file with their numbers, from 1 on.

    A record whose content is damaged is a CorruptFile that says how, and the next one follows. After a damaged length,
    or the end of the file within a record, there is no next one.

    Raises:
        OSError: The file can't be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        number = 0
        while file.tell() < size:
            number += 1
            length = _read_length(file, size)
            if isinstance(length, CorruptFile):
                yield number, length
                return
            yield number, _read_content(file, length)


def frame_record(content: bytes) -> bytes:
    """Return a record as a file has it."""
    length = struct.pack("<Q", len(content))
    return length + _FOOT.pack(_checksum(length)) + content + _FOOT.pack(_checksum(content))


def _checksum(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _read_length(file: IO[bytes], size: int) -> int | CorruptFile:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return CorruptFile(f"the file ends {len(head)} bytes into it")
    length, checksum = _HEAD.unpack(head)
    if _checksum(head[:8]) != checksum:
        return CorruptFile("its length is damaged, or the file is no TFRecord file: what follows can't be found")
    left = size - file.tell() - _FOOT.size
    if length > left:
        return CorruptFile(f"it has {length} bytes and the file has {max(0, left)} more")
    return int(length)


def _read_content(file: IO[bytes], length: int) -> bytes | CorruptFile:
    content = file.read(length)
    (checksum,) = _FOOT.unpack(file.read(_FOOT.size))
    if _checksum(content) != checksum:
        return CorruptFile("its content is damaged: the checksum is another")
    return content


#: The list that has a type's elements one by one; INT32 and the smaller integers share int_val.
_LISTS = {
    DataType.FLOAT: "float_val", DataType.DOUBLE: "double_val", DataType.INT64: "int64_val", DataType.BOOL: "bool_val",
    DataType.HALF: "half_val", DataType.BFLOAT16: "half_val", DataType.UINT32: "uint32_val",
    DataType.UINT64: "uint64_val", DataType.STRING: "string_val",
}  # fmt: skip
#: Types whose elements are in their list as the number that their 16 bits make.
_BY_BITS = (DataType.HALF, DataType.BFLOAT16)
#: A record of some bytes may represent a tensor of any size: one element, repeated.
_MOST_ELEMENTS = 1 << 27
_MOST_RANK = 64

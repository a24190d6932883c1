"""Tensors as the Open Inference Protocol (version 2, with its binary extension) writes them.

    {"name", "shape", "datatype", "data": […]} | the same with "binary_data_size" and bytes behind the JSON --> Tensor
    output array --> {"name", "datatype", "shape", "data"} | the same without data, and bytes

Bytes of BYTES: each element's length in four, little-endian, then the element.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from thriftserve.gateway.failures import Refusal
from thriftserve.gateway.json_answers import Array, written
from thriftserve.gateway.json_faults import tensor_of
from thriftserve.gateway.json_tensors import quick_tensor
from thriftserve.gateway.json_text import shown, without_nulls
from thriftserve.gateway.v2_request import parameters_of
from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_idl.ttypes import DataType, Tensor

DATATYPES = {
    "BOOL": DataType.BOOL,
    "UINT8": DataType.UINT8,
    "UINT16": DataType.UINT16,
    "UINT32": DataType.UINT32,
    "UINT64": DataType.UINT64,
    "INT8": DataType.INT8,
    "INT16": DataType.INT16,
    "INT32": DataType.INT32,
    "INT64": DataType.INT64,
    "FP16": DataType.HALF,
    "FP32": DataType.FLOAT,
    "FP64": DataType.DOUBLE,
    "BF16": DataType.BFLOAT16,
    "BYTES": DataType.STRING,
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_LENGTH = struct.Struct("<I")
_MOST_DIMENSIONS = 64


def tensors_in(inputs: Any, tail: memoryview) -> dict[str, Tensor]:
    """The tensors of a request.

    Args:
        inputs: the JSON value of its "inputs".
        tail: what follows the JSON: the bytes of those that say so, one after the other.

    Raises:
        Refusal: one is not well formed, or bytes are missing or left over.
    """
    if type(inputs) is not list or not all(type(one) is dict for one in inputs):
        raise Refusal('"inputs" must be a list of objects')
    found: dict[str, Tensor] = {}
    for one in map(without_nulls, inputs):
        name, dtype, shape = _head(one)
        if name in found:
            raise Refusal(f"input {name!r} is there more than once")
        size = parameters_of(one, f"input {name!r}: parameters").get("binary_data_size")
        if size is not None and "data" in one:
            raise Refusal(f"input {name!r} has data and binary_data_size: give one of them")
        if size is None:
            found[name] = _of_values(name, dtype, shape, one.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(tail):
            raise Refusal(f"input {name!r} has binary_data_size {shown(size)}, {len(tail)} bytes are left")
        found[name] = of_bytes(name, dtype, shape, tail[:size])
        tail = tail[size:]
    if len(tail):
        raise Refusal(f"{len(tail)} bytes behind the JSON belong to no input")
    return found


def _head(one: dict[str, Any]) -> tuple[str, DataType, list[int]]:
    name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
    if type(name) is not str or not name:
        raise Refusal(f"an input has the name {shown(name)}: expected text")
    if type(datatype) is not str or datatype not in DATATYPES:
        raise Refusal(f"input {name!r} has datatype {shown(datatype)}: expected one of {', '.join(DATATYPES)}")
    fine = type(shape) is list and len(shape) <= _MOST_DIMENSIONS
    if not fine or not all(type(size) is int and 0 <= size < 2**63 for size in shape or ()):
        raise Refusal(f"input {name!r} has shape {shown(shape)}: expected a list of sizes")
    return name, DATATYPES[datatype], shape or []


def _of_values(name: str, dtype: DataType, shape: list[int], data: Any) -> Tensor:
    """A tensor of JSON values, in one list or nested like the tensor."""
    if type(data) is not list:
        raise Refusal(f"input {name!r} has data {shown(data)}: expected a list")
    try:
        tensor = quick_tensor(data, dtype) or tensor_of(data, dtype)
    except Refusal as error:
        raise Refusal(f"input {name!r}: {error.message}", error.status) from None
    if math.prod(tensor.shape) != math.prod(shape):
        raise Refusal(f"input {name!r} has {math.prod(tensor.shape)} values, shape {shape} has {math.prod(shape)}")
    tensor.shape = shape
    return tensor


def of_bytes(name: str, dtype: DataType, shape: list[int], content: memoryview) -> Tensor:
    """A tensor of bytes as they lie in memory.

    Raises:
        Refusal: they are too few or too many.
    """
    if dtype == DataType.STRING:
        texts = list(_texts(name, content))
        if len(texts) != math.prod(shape):
            raise Refusal(f"input {name!r} has {len(texts)} elements, shape {shape} has {math.prod(shape)}")
        return Tensor(dtype, shape, None, texts)
    size = math.prod(shape) * (2 if dtype == DataType.BFLOAT16 else numpy_dtype(dtype).itemsize)
    if size != len(content):
        raise Refusal(f"input {name!r} has {len(content)} bytes, shape {shape} of {NAMES[dtype]} has {size}")
    return Tensor(dtype, shape, bytes(content))


def _texts(name: str, content: memoryview) -> Iterator[bytes]:
    while len(content):
        length = _LENGTH.unpack_from(content)[0] if len(content) >= _LENGTH.size else len(content)
        if _LENGTH.size + length > len(content):
            raise Refusal(f"input {name!r} ends within an element")
        yield bytes(content[_LENGTH.size : _LENGTH.size + length])
        content = content[_LENGTH.size + length :]


def output(name: str, array: Array, binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output's JSON value, and its bytes where they go behind the JSON."""
    told: dict[str, Any] = {"name": name, "datatype": NAMES[data_type(array.dtype)], "shape": list(array.shape)}
    if not binary:
        told["data"] = orjson.Fragment(written(array.reshape(-1)))
        return told, b""
    if array.dtype == object:
        content = b"".join(_LENGTH.pack(len(text)) + text for text in array.reshape(-1).tolist())
    else:
        content = np.ascontiguousarray(array).tobytes()
    told["parameters"] = {"binary_data_size": len(content)}
    return told, content

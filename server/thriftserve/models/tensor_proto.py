"""TensorFlow's TensorProto and numpy arrays, without TensorFlow.

bytes  --decode-->  array (STRING: objects that are bytes)  --encode-->  bytes

The numbers of its fields and types are those of tensorflow/core/framework/tensor.proto and types.proto; `DataType`
of our contract has the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from thriftserve.models.session import Array
from thriftserve.repository.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    CorruptFile,
    WireField,
    fields,
    number_field,
    packed_field,
    read_varint,
)
from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_DIM, _UNKNOWN_RANK, _SIZE = 2, 3, 1
_STRINGS = 8
#: The field that has a type's values where `tensor_content` has not, and how a value stands there.
_VALUES = {
    DataType.FLOAT: (5, FIXED32), DataType.DOUBLE: (6, FIXED64), DataType.INT32: (7, VARINT),
    DataType.UINT8: (7, VARINT), DataType.INT16: (7, VARINT), DataType.INT8: (7, VARINT),
    DataType.UINT16: (7, VARINT), DataType.INT64: (10, VARINT), DataType.BOOL: (11, VARINT),
    DataType.HALF: (13, VARINT), DataType.BFLOAT16: (13, VARINT), DataType.UINT32: (16, VARINT),
    DataType.UINT64: (17, VARINT),
}  # fmt: skip
#: Types of 16 bits whose values stand as the number that their bits make.
_BY_BITS = (DataType.HALF, DataType.BFLOAT16)
#: A record of some bytes may mean a tensor of any size: one value, repeated.
_MOST_ELEMENTS = 1 << 27
_MOST_RANK = 64


def decode(message: memoryview) -> Array:
    """The array of a TensorProto.

    Fewer values than elements mean that the last one is repeated, none that all are zero.

    Raises:
        Damaged: it makes no array, or one of a type that requests can't carry.
    """
    found: dict[int, list[WireField]] = {}
    for one in fields(message):
        found.setdefault(one.number, []).append(one)
    number = found[_DTYPE][-1].number_value if _DTYPE in found else 0
    try:
        dtype = DataType(number)
    except ValueError:
        raise CorruptFile(f"a tensor of type number {number}, which requests can't carry") from None
    shape = _shape(found.get(_SHAPE, []))
    try:
        return _array(dtype, shape, found)
    except (TensorError, ValueError, OverflowError) as error:
        raise CorruptFile(f"{dtype.name} tensor of shape {list(shape)}: {error}") from None


def encode(array: Array) -> bytes:
    """The TensorProto of an array; the inverse of `decode`.

    Raises:
        TensorError: no DataType carries its element type.
    """
    dtype = data_type(array.dtype)
    dims = b"".join(packed_field(_DIM, number_field(_SIZE, size)) for size in array.shape)
    head = number_field(_DTYPE, int(dtype)) + packed_field(_SHAPE, dims)
    if dtype is DataType.STRING:
        return head + b"".join(packed_field(_STRINGS, _bytes(one)) for one in array.ravel().tolist())
    return head + packed_field(_CONTENT, np.ascontiguousarray(array, numpy_dtype(dtype)).tobytes())


def _bytes(element: Any) -> bytes:
    return element.encode() if isinstance(element, str) else bytes(element)


def _shape(found: list[WireField]) -> tuple[int, ...]:
    sizes = []
    for shape in found:
        for one in fields(shape.content):
            if one.number == _UNKNOWN_RANK and one.number_value:
                raise CorruptFile("a tensor of unknown rank")
            if one.number == _DIM:
                sizes.append(next((_signed(each.number_value) for each in fields(one.content) if each.number == 1), 0))
    if len(sizes) > _MOST_RANK or any(size < 0 for size in sizes) or math.prod(sizes) > _MOST_ELEMENTS:
        raise CorruptFile(f"a tensor of the impossible shape {sizes[:8]}")
    return tuple(sizes)


def _array(dtype: DataType, shape: tuple[int, ...], found: dict[int, list[WireField]]) -> Array:
    count = math.prod(shape)
    if dtype is DataType.STRING:
        return _filled(np.array([bytes(one.content) for one in found.get(_STRINGS, [])], object), shape, b"")
    kind = numpy_dtype(dtype)
    if _CONTENT in found and (content := found[_CONTENT][-1].content):
        if len(content) != count * kind.itemsize:
            raise CorruptFile(f"{len(content)} bytes of content for {count} elements")
        return np.frombuffer(content, np.uint8).view(kind).reshape(shape).copy()
    number, wire = _VALUES[dtype]
    values = [value for one in found.get(number, []) for value in _READ[wire](one)]
    if dtype in _BY_BITS:
        return _filled(np.array(values, np.uint16).view(kind), shape, 0)
    return _filled(_numbers(values, wire, kind), shape, 0)


def _numbers(values: list[int], wire: int, kind: np.dtype[Any]) -> Array:
    if wire != VARINT:  # the bits of floats
        return np.array(values, np.dtype(f"<u{kind.itemsize}")).view(kind)
    return np.array(values if kind.kind == "u" else [_signed(one) for one in values], object).astype(kind)


def _filled(values: Array, shape: tuple[int, ...], empty: Any) -> Array:
    count = math.prod(shape)
    if len(values) > count:
        raise CorruptFile(f"{len(values)} values for {count} elements")
    full = np.full(count, values[-1] if len(values) else empty, values.dtype)
    full[: len(values)] = values
    return full.reshape(shape)


def _varints(one: WireField) -> list[int]:
    if one.kind == VARINT:
        return [one.number_value]
    content, at, found = one.content, 0, []
    while at < len(content):
        value, at = read_varint(content, at)
        found.append(value)
    return found


def _fixed(size: int) -> Callable[[WireField], list[int]]:
    def read(one: WireField) -> list[int]:
        if one.kind != BYTES:
            return [one.number_value]
        values: list[int] = np.frombuffer(one.content, f"<u{size}").tolist()
        return values

    return read


_READ: dict[int, Callable[[WireField], list[int]]] = {VARINT: _varints, FIXED32: _fixed(4), FIXED64: _fixed(8)}


def _signed(value: int) -> int:
    """A number of 64 bits as its two's complement means it."""
    return value - (1 << 64) if value >> 63 else value

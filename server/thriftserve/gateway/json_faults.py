"""JSON values of one tensor to that tensor, one by one: what is wrong with them is told as TensorFlow Serving tells it.

    value  -->  shape of its first elements  -->  each element held against shape and type  -->  Tensor | Refusal

Base64 values ({"b64": …}) are read here, too.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_tensors import FLOATS, LARGEST_WHOLE, MAX_RANK, bounds, packed
from thriftserve.gateway.json_text import shown
from thriftserve_client.codec import numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType, Tensor

_JSON_TYPES: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
_BLANK = re.compile(r"[ \t\r\n\v\f]")
_SPECIAL_NAMES = {DataType.DOUBLE: "double", DataType.FLOAT: "float"}


def tensor_of(value: Any, dtype: DataType) -> Tensor:
    """The tensor of a value, of nested lists or a scalar.

    Raises:
        Refusal: a list is ragged, or a value is not of the type.
    """
    shape = dense_shape(value)
    try:
        numpy_dtype(dtype)
    except TensorError:
        raise Refusal(f"Conversion of JSON Value: {shown(value)} to type: {type_name(dtype)}", 501) from None
    flat = list(_values(value, 0, shape, dtype))
    if dtype == DataType.STRING:
        return Tensor(dtype, shape, None, flat)
    return packed(flat, shape, dtype)


def dense_shape(value: Any) -> list[int]:
    """The shape that a value's first elements give.

    Raises:
        Refusal: no tensor is that deep.
    """
    shape: list[int] = []
    while type(value) is list:
        shape.append(len(value))
        if len(shape) > MAX_RANK:
            raise Refusal(f"Encountered lists nested deeper than {MAX_RANK}, the most dimensions of a tensor")
        if not value:
            break
        value = value[0]
    return shape


def type_name(dtype: DataType) -> str:
    """TensorFlow's name of a type, as in "int32"."""
    return dtype.name.lower()


def is_base64(value: Any) -> bool:
    """Whether a value stands for bytes: an object with the one key "b64" and text behind it."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def from_base64(value: Any) -> bytes:
    """The bytes that {"b64": text} stands for; the padding may be left out, blanks may stand between.

    Raises:
        Refusal: it has another form, or its text is no base64.
    """
    if not is_base64(value):
        raise Refusal(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    if _BLANK.search(text):  # `base64` of a shell breaks lines
        text = _BLANK.sub("", text)
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("Unable to base64 decode") from None


def json_type(value: Any) -> str:
    """How TensorFlow Serving names the kind of a JSON value."""
    if value is None:
        return "Null"
    if type(value) is bool:
        return str(value)
    return _JSON_TYPES.get(type(value), "Number")


def lossless(value: float, dtype: DataType) -> bool:
    """Whether a float type holds a number: whole ones exactly, others within its range; NaN and infinities always."""
    if type(value) is int:
        return abs(value) <= LARGEST_WHOLE[dtype]
    if not math.isfinite(value):
        return True
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float64(value).astype(numpy_dtype(dtype))))


def lossy(value: Any, dtype: DataType) -> Refusal:
    """What is said of a number that the type does not hold."""
    name = _SPECIAL_NAMES.get(dtype, type_name(dtype))
    return Refusal(f"Cannot convert JSON value: {shown(value)} to {name} without loss of precision.")


def _values(value: Any, level: int, shape: list[int], dtype: DataType) -> Iterator[Any]:
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            raise Refusal(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}"
            )
        yield _checked(value, dtype)
        return
    if level >= rank:
        raise Refusal(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise Refusal(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for one in value:
        yield from _values(one, level + 1, shape, dtype)


def _checked(value: Any, dtype: DataType) -> Any:
    """A value as the tensor takes it: a number, a truth value, bytes."""
    if dtype == DataType.STRING:
        if type(value) is dict:
            return from_base64(value)
        if type(value) is str:
            return value.encode("utf-8", "replace")
    elif dtype == DataType.BOOL:
        if type(value) is bool:
            return value
    elif dtype in FLOATS:
        if type(value) in (int, float):
            if not lossless(value, dtype):
                raise lossy(value, dtype)
            return value
    elif type(value) is int and bounds(dtype)[0] <= value <= bounds(dtype)[1]:
        return value
    raise Refusal(f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {type_name(dtype)}")

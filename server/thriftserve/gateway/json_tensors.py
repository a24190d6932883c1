"""JSON values to tensors: nested lists of one type quickly, everything else value by value.

    [[1, 2.5], [3, 4]], FLOAT --decode_fast--> flat list, shape --> Tensor
    anything unusual          --decode_checked--> each element against shape and type --> Tensor | Refusal

Both ways accept the same values and give the same tensors. The messages are TensorFlow Serving's. Base64 values
({"b64": …}) are decoded here, too.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_text import show
from thriftserve_client.codec import numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType, Tensor

#: numpy's limit on dimensions.
MAX_RANK = 64
FLOATS = frozenset((DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16))
#: The largest n for which a type has every whole number from 0 to n.
LARGEST_WHOLE = {
    DataType.DOUBLE: 2**53 - 1,
    DataType.FLOAT: 2**24 - 1,
    DataType.HALF: 2**11 - 1,
    DataType.BFLOAT16: 255,
}
_JSON_TYPES: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
_BLANK = re.compile(r"[ \t\r\n\v\f]")


def decode(value: Any, dtype: DataType) -> Tensor:
    """Return the tensor of a JSON value: nested lists, or a scalar.

    Raises:
        Refusal: a list is ragged, or a value is not of the type.
    """
    return decode_fast(value, dtype) or decode_checked(value, dtype)


def decode_fast(value: Any, dtype: DataType) -> Tensor | None:
    """Return the tensor of nested lists of one kind of value; None if `decode_checked` has to decide."""
    if type(value) is not list:
        return None
    flattened = _flatten(value)
    if flattened is None:
        return None
    flat, shape = flattened
    if dtype in FLOATS:
        return _floats(flat, shape, dtype)
    kinds = set(map(type, flat))
    if dtype == DataType.STRING:
        return Tensor(dtype, shape, None, _encode_texts(flat)) if kinds <= {str} else None
    if dtype == DataType.BOOL:
        return _pack(flat, shape, dtype) if kinds <= {bool} else None
    return _integers(flat, shape, dtype) if kinds <= {int} else None


def decode_checked(value: Any, dtype: DataType) -> Tensor:
    """Return the tensor of a JSON value, checked element by element.

    Raises:
        Refusal: a list is ragged, or a value is not of the type.
    """
    shape = dense_shape(value)
    try:
        numpy_dtype(dtype)
    except TensorError:
        raise Refusal(f"Conversion of JSON Value: {show(value)} to type: {_type_name(dtype)}", 501) from None
    flat = list(_elements(value, 0, shape, dtype))
    if dtype == DataType.STRING:
        return Tensor(dtype, shape, None, flat)
    return _pack(flat, shape, dtype)


def dense_shape(value: Any) -> list[int]:
    """Return the shape that a value's first elements imply.

    Raises:
        Refusal: it has more dimensions than a tensor can have.
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


def is_base64(value: Any) -> bool:
    """Return whether a value stands for bytes: an object with the one key "b64" and text for it."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def from_base64(value: Any) -> bytes:
    """Return the bytes of {"b64": text}; the text may lack its padding and contain white space.

    Raises:
        Refusal: the value has another form, or its text is not base64.
    """
    if not is_base64(value):
        raise Refusal(f"JSON Value: {show(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    if _BLANK.search(text):  # a shell's `base64` breaks lines
        text = _BLANK.sub("", text)
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("Unable to base64 decode") from None


def json_type(value: Any) -> str:
    """Return TensorFlow Serving's name of a value's JSON type."""
    if value is None:
        return "Null"
    if type(value) is bool:
        return str(value)
    return _JSON_TYPES.get(type(value), "Number")


def check_lossless(value: float, dtype: DataType) -> None:
    """Check that a float type holds a number: whole ones exactly, others in its range; NaN and infinities always.

    Raises:
        Refusal: it does not.
    """
    if type(value) is int:
        lossless = abs(value) <= LARGEST_WHOLE[dtype]
    elif not math.isfinite(value):
        lossless = True
    else:
        with np.errstate(over="ignore"):
            lossless = bool(np.isfinite(np.float64(value).astype(numpy_dtype(dtype))))
    if not lossless:
        raise Refusal(f"Cannot convert JSON value: {show(value)} to {_type_name(dtype)} without loss of precision.")


def _type_name(dtype: DataType) -> str:
    return dtype.name.lower()


def _flatten(value: list[Any]) -> tuple[list[Any], list[int]] | None:
    """Return the values row by row, and the shape; None if the lists are ragged or too deep."""
    shape = [len(value)]
    level = value
    while level and type(level[0]) is list:
        size = len(level[0])
        # Counting is quicker than a set: an image of 224x224 has 50,000 rows of three.
        rows = list(map(type, level)).count(list)
        if rows != len(level) or list(map(len, level)).count(size) != rows or len(shape) == MAX_RANK:
            return None
        level = list(chain.from_iterable(level))
        shape.append(size)
    return level, shape


def _pack(flat: list[Any], shape: list[int], dtype: DataType) -> Tensor:
    """Return the tensor of numbers that fit the type.

    Raises:
        TensorError: the type needs a package that is not installed.
    """
    return Tensor(dtype, shape, np.array(flat, dtype=numpy_dtype(dtype)).tobytes())


def _floats(flat: list[Any], shape: list[int], dtype: DataType) -> Tensor | None:
    code = "f" if dtype == DataType.FLOAT else "d"
    try:
        # Twice as fast as numpy on a list.
        numbers = np.frombuffer(struct.pack(f"{len(flat)}{code}", *flat), code)
    except (struct.error, OverflowError):  # not a number, or one beyond every float
        return None
    # Checking the type of every value would take as long again. Only these values may have had a wrong one: 0 and 1,
    # which may be true and false, and whole numbers beyond those that the type has all of.
    if bool in _types_at(flat, (numbers == 0) | (numbers == 1)) or int in _types_at(
        flat, np.abs(numbers) > LARGEST_WHOLE[dtype]
    ):
        return None
    with np.errstate(over="ignore"):
        narrow = numbers.astype(numpy_dtype(dtype), copy=False)
    if dtype != DataType.DOUBLE and np.isinf(narrow).any():
        return None  # sent as infinity, or too large for the narrower type
    return Tensor(dtype, shape, narrow.tobytes())


def _types_at(flat: list[Any], where: np.ndarray[Any, np.dtype[np.bool_]]) -> set[type]:
    return set(map(type, map(flat.__getitem__, np.flatnonzero(where).tolist())))


def _integers(flat: list[int], shape: list[int], dtype: DataType) -> Tensor | None:
    low, high = _bounds(dtype)
    if flat and not (low <= min(flat) and max(flat) <= high):
        return None
    return _pack(flat, shape, dtype)


@cache
def _bounds(dtype: DataType) -> tuple[int, int]:
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def _encode_texts(flat: list[str]) -> list[bytes]:
    # Half a surrogate pair is not a character, but the standard library's parser accepts it.
    return [text.encode("utf-8", "replace") for text in flat]


def _elements(value: Any, level: int, shape: list[int], dtype: DataType) -> Iterator[Any]:
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            raise Refusal(
                f"JSON Value: {show(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}"
            )
        yield _element(value, dtype)
        return
    if level >= rank:
        raise Refusal(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise Refusal(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        yield from _elements(item, level + 1, shape, dtype)


def _element(value: Any, dtype: DataType) -> Any:
    """Return a value as the tensor holds it: a number, a truth value, bytes."""
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
            check_lossless(value, dtype)
            return value
    elif type(value) is int and _bounds(dtype)[0] <= value <= _bounds(dtype)[1]:
        return value
    raise Refusal(f"JSON Value: {show(value)} Type: {json_type(value)} is not of expected type: {_type_name(dtype)}")

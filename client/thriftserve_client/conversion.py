"""Convert arrays to another element type without losing a value.

    array, DataType --converted--> array of that type | ConversionError: "300 (int64) does not fit UINT8"
    array --storable--> array for a .npy file
    0.10000000149011612 --shortest--> 0.1

Floats are rounded to a narrower float type; any other value stays equal, or the conversion fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType

Array = np.ndarray[Any, np.dtype[Any]]
Lost = np.ndarray[Any, np.dtype[np.bool_]]


class ConversionError(TensorError):
    """A value that the other element type can't represent, or an array that is not numeric."""


def converted(array: Array, code: DataType) -> Array:
    """Return an array of the element type `code` and the same shape; the same array if it has that type.

    Floats are rounded to a narrower float type; NaN and infinities stay. Integers and truth values must stay equal: 300
    does not fit UINT8, 0.5 does not fit INT64, 2 does not fit BOOL, and 2**24 + 1 does not fit FLOAT. Text does not
    become numbers, nor numbers text. An empty array fits every type.

    Raises ConversionError, which names the first value that does not fit; TensorError for BFLOAT16 without ml_dtypes.
    """
    dtype = numpy_dtype(code)
    if array.dtype == dtype:
        return array
    if not array.size:
        return np.empty(array.shape, dtype)
    if code is DataType.STRING:
        return _text(array)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise ConversionError(f"{_kind_of(array)} does not fit {code.name}")
    with np.errstate(all="ignore"):
        result = array.astype(dtype)
        lost = _lost(array, result, code)
    if lost is not None and lost.any():
        raise ConversionError(f"{array[lost][0].item()!r} ({array.dtype.name}) does not fit {code.name}")
    return result


def storable(array: Array) -> Array:
    """Return an array that a .npy file holds without a pickle: text as fixed-width bytes, BFLOAT16 as float32.

    Raises TensorError for text that ends in a zero byte, which numpy would drop.
    """
    if array.dtype == object:
        if any(text.endswith(b"\0") for text in array.ravel().tolist()):
            raise TensorError("it has text that ends in a zero byte, which a .npy file can't hold")
        return array.astype(bytes)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def shortest(value: float) -> float:
    """Return the float with the fewest digits that identify `value`, as a float32 if it is one.

    The contract carries scores as doubles, whatever their type in the model.

    >>> shortest(float(np.float32(0.1))), shortest(0.1), shortest(1 / 3)
    (0.1, 0.1, 0.3333333333333333)
    """
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def _text(array: Array) -> Array:
    try:
        known = data_type(array.dtype)
    except TensorError:
        known = None
    if known is not DataType.STRING:
        raise ConversionError(f"{_kind_of(array)} does not fit STRING")
    return array


def _lost(array: Array, result: Array, code: DataType) -> Lost | None:
    """Return where a value changed; None for nowhere."""
    kind = array.dtype.kind
    if code is DataType.BOOL:
        return np.asarray((array != 0) & (array != 1))
    if kind == "b":
        return None
    if result.dtype.kind in "iu":
        return _beyond_integers(array, result)
    if kind == "f":
        return np.asarray(np.isfinite(array) & ~np.isfinite(result))
    return _between_floats(array, result)


def _beyond_integers(array: Array, result: Array) -> Lost:
    """Return where numbers are out of an integer type's range, or fractions."""
    low, high = np.iinfo(result.dtype).min, np.iinfo(result.dtype).max
    if array.dtype.kind == "f":
        wide = array.astype(np.float64)
        # The bounds are powers of two, which float64 represents exactly; NaN is within none.
        within = (wide >= float(low)) & (wide < float(high + 1))
        return np.asarray(~within | (np.trunc(wide) != wide))
    given = np.iinfo(array.dtype)
    return np.asarray((array < max(low, given.min)) | (array > min(high, given.max)))


def _between_floats(array: Array, result: Array) -> Lost:
    """Return where whole numbers are not exact in a float type, such as 2**24 + 1 in float32."""
    wide = result.astype(np.float64)
    # A number may be rounded up beyond its own type; converting that back depends on the processor.
    within = np.isfinite(wide) & (wide < float(np.iinfo(array.dtype).max + 1))
    return np.asarray(np.where(within, wide, 0).astype(array.dtype) != array)


def _kind_of(array: Array) -> str:
    """Return an array's element type in words."""
    if array.dtype == object:
        return type(array.ravel()[0]).__name__
    return "str" if array.dtype.kind in "UT" else "bytes" if array.dtype.kind == "S" else array.dtype.name

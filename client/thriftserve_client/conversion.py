"""Arrays as another element type, where no number is lost by that.

    array, DataType --converted--> array of that type | ConversionError: "300 (int64) does not fit UINT8"
    array --storable--> array as a .npy file has it
    0.10000000149011612 --shortest--> 0.1

A float is rounded to a narrower float type; everything else comes out equal, or not at all.
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
    """A number that another element type does not have, or an array without numbers."""


def converted(array: Array, code: DataType) -> Array:
    """Makes an array of the element type `code`, of the same shape; an array that has it comes back as it is.

    Floats that another float type has only nearly are rounded, NaN and infinities stay. Integers and truth values must
    come out equal: 300 does not fit UINT8, 0.5 no INT64, 2 no BOOL, and 2**24 + 1 no FLOAT. Text is never a number, nor
    numbers text. Arrays without elements become whatever is asked for.

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
        made = array.astype(dtype)
        lost = _lost(array, made, code)
    if lost is not None and lost.any():
        raise ConversionError(f"{array[lost][0].item()!r} ({array.dtype.name}) does not fit {code.name}")
    return made


def storable(array: Array) -> Array:
    """Makes an array that a .npy file holds without a pickle: text as numpy's fixed-width bytes, BFLOAT16 as float32.

    Raises TensorError for text that ends in a zero byte, which numpy would drop.
    """
    if array.dtype == object:
        if any(text.endswith(b"\0") for text in array.ravel().tolist()):
            raise TensorError("it has text that ends in a zero byte, which a .npy file can't hold")
        return array.astype(bytes)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def shortest(value: float) -> float:
    """The float with the fewest digits that stands for `value`: of one that is a float32, as few as a float32 needs.

    The contract carries scores as doubles, whatever type the model has them in.

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


def _lost(array: Array, made: Array, code: DataType) -> Lost | None:
    """Where a number does not come out as it went in; None: nowhere."""
    kind = array.dtype.kind
    if code is DataType.BOOL:
        return np.asarray((array != 0) & (array != 1))
    if kind == "b":
        return None
    if made.dtype.kind in "iu":
        return _beyond_integers(array, made)
    if kind == "f":
        return np.asarray(np.isfinite(array) & ~np.isfinite(made))
    return _between_floats(array, made)


def _beyond_integers(array: Array, made: Array) -> Lost:
    """Numbers that an integer type does not have: those out of its range, and fractions."""
    least, most = np.iinfo(made.dtype).min, np.iinfo(made.dtype).max
    if array.dtype.kind == "f":
        wide = array.astype(np.float64)
        # The bounds of the range are powers of two, which float64 has; NaN is within none.
        within = (wide >= float(least)) & (wide < float(most + 1))
        return np.asarray(~within | (np.trunc(wide) != wide))
    given = np.iinfo(array.dtype)
    return np.asarray((array < max(least, given.min)) | (array > min(most, given.max)))


def _between_floats(array: Array, made: Array) -> Lost:
    """Whole numbers that a float type does not have: 2**24 + 1 as float32."""
    wide = made.astype(np.float64)
    # A number may be rounded up to one that its own type does not have: what a processor makes of that differs.
    within = np.isfinite(wide) & (wide < float(np.iinfo(array.dtype).max + 1))
    return np.asarray(np.where(within, wide, 0).astype(array.dtype) != array)


def _kind_of(array: Array) -> str:
    """An array's element type in words."""
    if array.dtype == object:
        return type(array.ravel()[0]).__name__
    return "str" if array.dtype.kind in "UT" else "bytes" if array.dtype.kind == "S" else array.dtype.name

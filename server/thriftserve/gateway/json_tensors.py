"""JSON values of one tensor to that tensor, fast where nothing is wrong with them.

    [[1, 2.5], [3, 4]], FLOAT  -->  flat list, shape, kinds of its values  -->  Tensor
    anything unusual           -->  None: json_faults.tensor_of decides, value by value

What is taken here is exactly what would be taken there; only the way is shorter.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from thriftserve_client.codec import numpy_dtype
from thriftserve_idl.ttypes import DataType, Tensor

#: numpy's own limit.
MAX_RANK = 64
FLOATS = frozenset((DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16))
#: The largest whole number up to which every one is a value of the type.
LARGEST_WHOLE = {
    DataType.DOUBLE: 2**53 - 1,
    DataType.FLOAT: 2**24 - 1,
    DataType.HALF: 2**11 - 1,
    DataType.BFLOAT16: 255,
}


def quick_tensor(value: Any, dtype: DataType) -> Tensor | None:
    """The tensor of nested lists; None where they must be looked at one by one."""
    if type(value) is not list:
        return None
    levels = flattened(value)
    if levels is None:
        return None
    flat, shape = levels
    if dtype in FLOATS:
        return _floats(flat, shape, dtype)
    kinds = set(map(type, flat))
    if dtype == DataType.STRING:
        return Tensor(dtype, shape, None, _encoded(flat)) if kinds <= {str} else None
    if dtype == DataType.BOOL:
        return packed(flat, shape, dtype) if kinds <= {bool} else None
    return _integers(flat, shape, dtype) if kinds <= {int} else None


def flattened(value: list[Any]) -> tuple[list[Any], list[int]] | None:
    """The values row by row, and the shape; None where it is ragged or too deep."""
    shape = [len(value)]
    level = value
    while level and type(level[0]) is list:
        size = len(level[0])
        # Counting is quicker than a set: 50,000 rows of three are the rule for an image.
        rows = list(map(type, level)).count(list)
        if rows != len(level) or list(map(len, level)).count(size) != rows or len(shape) == MAX_RANK:
            return None
        level = list(chain.from_iterable(level))
        shape.append(size)
    return level, shape


def packed(flat: list[Any], shape: list[int], dtype: DataType) -> Tensor:
    """The tensor of numbers that fit its type.

    Raises:
        TensorError: the type needs a package that is not there.
    """
    return Tensor(dtype, shape, np.array(flat, dtype=numpy_dtype(dtype)).tobytes())


def _floats(flat: list[Any], shape: list[int], dtype: DataType) -> Tensor | None:
    code = "f" if dtype == DataType.FLOAT else "d"
    try:
        # Twice as quick as numpy is with a list.
        numbers = np.frombuffer(struct.pack(f"{len(flat)}{code}", *flat), code)
    except (struct.error, OverflowError):  # what is no number; a number beyond every float
        return None
    # A look at every value's type would take as long again. Only these may have been something else: true and false,
    # and whole numbers of which the type has not every one.
    if bool in _types(flat, (numbers == 0) | (numbers == 1)) or int in _types(
        flat, np.abs(numbers) > LARGEST_WHOLE[dtype]
    ):
        return None
    with np.errstate(over="ignore"):
        narrow = numbers.astype(numpy_dtype(dtype), copy=False)
    if dtype != DataType.DOUBLE and np.isinf(narrow).any():
        return None  # sent so, or made so by the narrower type
    return Tensor(dtype, shape, narrow.tobytes())


def _types(flat: list[Any], where: np.ndarray[Any, np.dtype[np.bool_]]) -> set[type]:
    return set(map(type, map(flat.__getitem__, np.flatnonzero(where).tolist())))


def _integers(flat: list[int], shape: list[int], dtype: DataType) -> Tensor | None:
    low, high = bounds(dtype)
    if flat and not (low <= min(flat) and max(flat) <= high):
        return None
    return packed(flat, shape, dtype)


@cache
def bounds(dtype: DataType) -> tuple[int, int]:
    """The smallest and the largest value of an integer type."""
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def _encoded(flat: list[str]) -> list[bytes]:
    # Half a surrogate pair is no character; the standard library's parser lets it pass all the same.
    return [text.encode("utf-8", "replace") for text in flat]

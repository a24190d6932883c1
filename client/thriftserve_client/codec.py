"""Convert between numpy arrays and the contract's Tensor; client and server both use it.

    array --to_tensor--> Tensor --wire--> Tensor --from_tensor--> array (read-only, no copy)

>>> from_tensor(to_tensor([[1.0, 2.0]]))
array([[1., 2.]])
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from thriftserve_client.errors import TensorError
from thriftserve_client.wire.encoder import LARGE_BYTES
from thriftserve_idl.ttypes import DataType, Tensor

_NUMERIC: dict[DataType, np.dtype[Any]] = {
    DataType.FLOAT: np.dtype("<f4"),
    DataType.DOUBLE: np.dtype("<f8"),
    DataType.INT32: np.dtype("<i4"),
    DataType.UINT8: np.dtype("u1"),
    DataType.INT16: np.dtype("<i2"),
    DataType.INT8: np.dtype("i1"),
    DataType.INT64: np.dtype("<i8"),
    DataType.BOOL: np.dtype("?"),
    DataType.UINT16: np.dtype("<u2"),
    DataType.HALF: np.dtype("<f2"),
    DataType.UINT32: np.dtype("<u4"),
    DataType.UINT64: np.dtype("<u8"),
}
# The accelerated protocols decode an enum as a plain int. Int keys match an IntEnum, too, and a look-up takes half the
# time of one among IntEnum keys. The second value is the element's size in bytes.
_BY_NUMBER: dict[int, tuple[np.dtype[Any], int]] = {
    int(code): (dtype, dtype.itemsize) for code, dtype in _NUMERIC.items() if code is not DataType.BOOL
}
_BY_DTYPE: dict[np.dtype[Any], DataType] = {dtype: code for code, dtype in _NUMERIC.items()}
_OBJECT = np.dtype(object)
# numpy's limit. Checked before the sizes are multiplied: the product of a million sizes takes minutes.
_MAX_RANK = 64


def to_tensor(value: Any, *, share: bool = False) -> Tensor:
    """Return the Tensor of an array, a scalar or nested sequences.

    Any memory layout and byte order is accepted; the elements are copied once. Arrays of str, bytes or objects of these
    become STRING (str as UTF-8) of the same shape.

    With `share`, the content of a large row-major array is its memory, as a memoryview. Only this package's wire code
    sends such a Tensor (Apache's needs bytes), and the array must not change until it is sent.

    Raises TensorError if the element type has no DataType (complex numbers, dates) or the sequences are ragged.
    """
    array = value if type(value) is np.ndarray else to_array(value)
    code = _BY_DTYPE.get(array.dtype)
    if code is None:
        code = data_type(array.dtype)
        if code is DataType.STRING:
            return Tensor(code, list(array.shape), None, _byte_strings(array))
        array = array.astype(numpy_dtype(code), copy=False)
    if share and array.nbytes >= LARGE_BYTES and array.flags.c_contiguous:
        return Tensor(code, list(array.shape), array.reshape(-1).view(np.uint8).data)
    return Tensor(code, list(array.shape), array.tobytes())


def from_tensor(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the array of a Tensor, read-only, which shares its memory.

    Only BOOL is copied: any byte but zero counts as true, and numpy accepts only 0 and 1. STRING becomes an object
    array of bytes.

    Raises TensorError if dtype, shape, content and strings contradict each other.
    """
    known = _BY_NUMBER.get(tensor.dtype)
    if known is None:
        return _from_other(tensor)
    return _view(tensor, *known)


def to_array(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the array of an array-like, a scalar or nested sequences; str and bytes stay objects.

    Raises TensorError if the sequences are ragged.
    """
    try:
        try:
            array = np.asarray(value)
        except UnicodeDecodeError:  # numpy decodes bytes beside str as ASCII
            return np.asarray(value, dtype=object)
        # numpy's bytes type drops zero bytes at the end of an element; objects keep them. One string among numbers
        # makes numpy convert all to text; as objects they can be refused.
        if array.dtype.kind in "SU" and not hasattr(value, "dtype"):
            array = np.asarray(value, dtype=object)
    except (ValueError, TypeError, OverflowError) as error:
        raise TensorError(f"{type(value).__name__} can't become an array: {error}") from None
    return array


def numpy_dtype(code: int) -> np.dtype[Any]:
    """Return the little-endian numpy dtype of a DataType or its number; object for STRING.

    Raises TensorError for a number that is not a DataType, and for BFLOAT16 without ml_dtypes.
    """
    known = _data_type_of(code)
    if known is DataType.STRING:
        return _OBJECT
    return _bfloat16() if known is DataType.BFLOAT16 else _NUMERIC[known]


def data_type(dtype: np.dtype[Any]) -> DataType:
    """Return the DataType of a numpy dtype, of any byte order; STRING for object, str and bytes.

    Raises TensorError if there is none.
    """
    code = _BY_DTYPE.get(dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype)
    if code is not None:
        return code
    if dtype.kind in "OSUT":
        return DataType.STRING
    if dtype.name == "bfloat16":
        return DataType.BFLOAT16
    raise TensorError(f"numpy dtype {dtype.name} has no DataType; convert it to one of {_names()} first")


def _names() -> str:
    return ", ".join(dtype.name for dtype in _NUMERIC.values())


def _data_type_of(code: Any) -> DataType:
    try:
        return DataType(code)
    except ValueError:
        expected = ", ".join(f"{known.name} {known.value}" for known in DataType)
        raise TensorError(f"dtype {code!r} is no DataType; expected one of {expected}") from None


@cache
def _bfloat16() -> np.dtype[Any]:
    """Return ml_dtypes' bfloat16, imported when a tensor first needs it."""
    try:
        import ml_dtypes
    except ImportError:
        raise TensorError("BFLOAT16 needs the package ml_dtypes: pip install ml_dtypes") from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _byte_strings(array: np.ndarray[Any, np.dtype[Any]]) -> list[bytes]:
    """Return the elements of a string array as bytes, row by row."""
    strings = []
    for element in array.ravel().tolist():
        if isinstance(element, str):
            strings.append(_utf8(element))
        elif isinstance(element, bytes):
            strings.append(element)
        else:
            raise TensorError(f"a STRING tensor takes str and bytes, not {type(element).__name__} ({element!r:.60})")
    return strings


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TensorError(f"{text!r:.60} can't be written as UTF-8: {error.reason}; send bytes") from None


def _from_other(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the array of a type that is not a plain view, or raise for a wrong dtype."""
    code = _data_type_of(tensor.dtype)
    if code is DataType.STRING:
        return _string_array(tensor)
    if code is DataType.BOOL:
        truth: np.ndarray[Any, np.dtype[Any]] = np.not_equal(_view(tensor, np.dtype("u1"), 1), 0, out=...)
        truth.flags.writeable = False
        return truth
    return _view(tensor, numpy_dtype(code), 2)


def _view(tensor: Tensor, dtype: np.dtype[Any], itemsize: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the content as an array, without a copy."""
    shape, content = tensor.shape, tensor.content
    # Python's integers do not overflow: a huge shape is only a wrong length.
    if (
        content is None
        or shape is None
        or tensor.strings is not None
        or len(shape) > _MAX_RANK
        or len(content) != prod(shape) * itemsize
        or (shape and min(shape) < 0)
    ):
        raise TensorError(_misfit(tensor, itemsize))
    try:
        array: np.ndarray[Any, np.dtype[Any]] = np.ndarray(shape, dtype, content)
    except ValueError as error:  # [0, 2**62], or a numpy that has fewer dimensions
        raise TensorError(f"{_title(tensor)} does not fit a numpy array: {error}") from None
    if type(content) is not bytes:
        array.flags.writeable = False
    return array


def _string_array(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    shape, strings = tensor.shape, tensor.strings
    if (
        strings is None
        or shape is None
        or tensor.content is not None
        or len(shape) > _MAX_RANK
        or len(strings) != prod(shape)
        or (shape and min(shape) < 0)
    ):
        raise TensorError(_misfit(tensor, None))
    array = np.empty(len(strings), _OBJECT)
    array[:] = strings
    try:
        array = array.reshape(shape)
    except ValueError as error:  # as above
        raise TensorError(f"{_title(tensor)} does not fit a numpy array: {error}") from None
    array.flags.writeable = False
    return array


def _title(tensor: Tensor) -> str:
    return f"{DataType(tensor.dtype).name} tensor of shape {list(tensor.shape)}"


def _misfit(tensor: Tensor, itemsize: int | None) -> str:
    """Return what is wrong with a malformed tensor; `itemsize` is None for STRING."""
    name, shape = DataType(tensor.dtype).name, tensor.shape
    if shape is None:
        return f"{name} tensor without a shape; an empty list is a scalar"
    if len(shape) > _MAX_RANK:
        return f"{name} tensor of {len(shape)} dimensions; at most {_MAX_RANK} are possible"
    if any(size < 0 for size in shape):
        return f"{_title(tensor)}: a size is negative"
    if itemsize is None:
        return _string_misfit(tensor)
    if tensor.strings is not None:
        return f"{_title(tensor)} carries strings; only STRING does, {name} carries content"
    expected = f"expected {_count_text(shape, itemsize)} bytes of content"
    return f"{_title(tensor)}: {expected}, got {'none' if tensor.content is None else len(tensor.content)}"


def _string_misfit(tensor: Tensor) -> str:
    if tensor.content is not None:
        return f"{_title(tensor)} carries content; STRING carries strings"
    got = "none" if tensor.strings is None else len(tensor.strings)
    return f"{_title(tensor)}: expected {_count_text(tensor.shape)} strings, got {got}"


def _count_text(shape: Sequence[int], itemsize: int = 1) -> str:
    """Return product(shape) * itemsize as readable text."""
    expected = prod(shape) * itemsize
    return str(expected) if expected.bit_length() < 128 else "more than 2**127"

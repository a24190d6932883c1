"""Arrays to Tensors and back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from thriftserve_client.codec import data_type, from_tensor, numpy_dtype, to_tensor
from thriftserve_client.errors import TensorError
from thriftserve_idl.ttypes import DataType, Tensor

NUMERIC = [one for one in DataType if one is not DataType.STRING]


@pytest.mark.parametrize("code", NUMERIC, ids=lambda code: code.name)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_round_trip(code: DataType, shape: tuple[int, ...]) -> None:
    """Every numeric type keeps its elements, dtype and shape; scalars and empty arrays too."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(numpy_dtype(code))
    tensor = to_tensor(array)
    assert (tensor.dtype, tensor.shape, tensor.strings) == (code, list(shape), None)
    back = from_tensor(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


def test_content_is_little_endian_and_row_major() -> None:
    """The bytes are the contract's whatever the array's layout and byte order."""
    expected = np.array([[1, 2], [3, 4]], "<i4").tobytes()
    for array in (
        np.array([[1, 2], [3, 4]], ">i4"),
        np.array([[1, 2], [3, 4]], "<i4", order="F"),
        np.array([[1, 9, 2, 9], [3, 9, 4, 9]], "<i4")[:, ::2],
    ):
        tensor = to_tensor(array)
        assert (tensor.dtype, tensor.content) == (DataType.INT32, expected)


def test_from_tensor_shares_memory() -> None:
    """Reading a tensor copies nothing."""
    tensor = to_tensor(np.arange(4, dtype=np.float32))
    assert np.shares_memory(from_tensor(tensor), np.frombuffer(tensor.content, np.uint8))


@pytest.mark.parametrize("code", NUMERIC, ids=lambda code: code.name)
def test_shared_content_is_the_arrays_own_memory(code: DataType) -> None:
    """With `share` a large array is not copied, and its content is what a copy would be."""
    array = np.ones((64, 256), numpy_dtype(code))
    tensor = to_tensor(array, share=True)
    assert np.shares_memory(np.frombuffer(tensor.content, np.uint8), array.view(np.uint8))
    assert bytes(tensor.content) == to_tensor(array).content
    assert len(tensor.content) == array.nbytes


def test_shared_content_is_bytes_where_the_encoder_needs_bytes() -> None:
    """Small arrays, and those that do not lie row-major, become bytes even with `share`."""
    assert type(to_tensor(np.ones(3), share=True).content) is bytes
    assert type(to_tensor(np.ones((100, 200)).T, share=True).content) is bytes


def test_arrays_of_a_mutable_buffer_are_read_only() -> None:
    """Who reads a tensor can't write into the message that it came in."""
    assert not from_tensor(Tensor(DataType.UINT8, [2], bytearray(2))).flags.writeable


def test_bool_bytes_other_than_0_and_1_are_true() -> None:
    """numpy never sees a bool that is neither 0 nor 1."""
    array = from_tensor(Tensor(DataType.BOOL, [4], b"\0\1\2\xff"))
    assert array.view(np.uint8).tolist() == [0, 1, 1, 1]
    assert from_tensor(Tensor(DataType.BOOL, [], b"\2")).shape == ()


@pytest.mark.parametrize(
    ("value", "shape", "strings"),
    [
        ("é", [], [b"\xc3\xa9"]),
        (b"a\0", [], [b"a\0"]),
        (["a", "b"], [2], [b"a", b"b"]),
        (["a", b"\xff\0"], [2], [b"a", b"\xff\0"]),
        ([[b"a\0"], [b""]], [2, 1], [b"a\0", b""]),
        (np.array([["a", "bé"]]), [1, 2], [b"a", b"b\xc3\xa9"]),
        (np.array(["a", b"b"], dtype=object), [2], [b"a", b"b"]),
        (np.empty((0, 2), dtype=object), [0, 2], []),
    ],
)
def test_strings(value: Any, shape: list[int], strings: list[bytes]) -> None:
    """str becomes UTF-8, bytes stay as they are, zero bytes at the end included; back come objects."""
    tensor = to_tensor(value)
    assert (tensor.dtype, tensor.shape, tensor.content, tensor.strings) == (DataType.STRING, shape, None, strings)
    back = from_tensor(tensor)
    assert (back.dtype, list(back.shape), back.ravel().tolist()) == (np.dtype(object), shape, strings)


def test_plain_ints_stand_for_enums() -> None:
    """The accelerated protocols decode enums as ints."""
    assert from_tensor(Tensor(1, [1], b"\0\0\x80?")).tolist() == [1.0]
    assert from_tensor(Tensor(7, [1], None, [b"a"])).tolist() == [b"a"]
    assert numpy_dtype(10) == np.dtype(bool)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(99, [], b""), "dtype 99 is no DataType; expected one of FLOAT 1"),
        (Tensor(None, [], b""), "dtype None is no DataType"),
        (Tensor(1, None, b""), "FLOAT tensor without a shape"),
        (Tensor(1, [2, 3], b"xy"), "FLOAT tensor of shape [2, 3]: expected 24 bytes of content, got 2"),
        (Tensor(1, [1], b"12345678"), "expected 4 bytes of content, got 8"),
        (Tensor(1, [], None), "expected 4 bytes of content, got none"),
        (Tensor(1, [1], b"1234", [b""]), "carries strings; only STRING does"),
        (Tensor(1, [-1], b"1234"), "shape [-1]: a size is negative"),
        (Tensor(1, [-1, -1], b"1234"), "a size is negative"),
        (Tensor(1, [2**62, 4], b""), "expected 73786976294838206464 bytes of content, got 0"),
        (Tensor(1, [2**62] * 9, b""), "expected more than 2**127 bytes"),
        (Tensor(1, [0, 2**62, 5], b""), "does not fit a numpy array"),
        (Tensor(1, [1] * 65, b"1234"), "FLOAT tensor of 65 dimensions; at most 64"),
        (Tensor(10, [2], b"\1"), "BOOL tensor of shape [2]: expected 2 bytes of content, got 1"),
        (Tensor(14, [2], b"\1"), "BFLOAT16 tensor of shape [2]: expected 4 bytes of content, got 1"),
        (Tensor(7, [2], None, [b"a"]), "STRING tensor of shape [2]: expected 2 strings, got 1"),
        (Tensor(7, [2], None, None), "expected 2 strings, got none"),
        (Tensor(7, [], b"a"), "STRING tensor of shape [] carries content; STRING carries strings"),
        (Tensor(7, [-1, -1], None, [b"a"]), "a size is negative"),
        (Tensor(7, [1] * 65, None, [b"a"]), "at most 64"),
        (Tensor(7, [0, 2**62, 8], None, []), "does not fit a numpy array"),
    ],
)
def test_malformed_tensors(tensor: Tensor, message: str) -> None:
    """Whatever does not fit is refused with what was expected and what was there."""
    with pytest.raises(TensorError) as caught:
        from_tensor(tensor)
    assert message in str(caught.value)


def test_a_shape_of_a_million_huge_sizes_is_refused_at_once() -> None:
    """The sizes are not multiplied: their product would take minutes (the suite's time limit would end this)."""
    with pytest.raises(TensorError, match="1000000 dimensions"):
        from_tensor(Tensor(1, [2**62] * 1_000_000, b""))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1 + 2j, "numpy dtype complex128 has no DataType; convert it to one of float32"),
        (np.datetime64("2020-01-01"), "datetime64"),
        ([[1], [1, 2]], "list can't become an array"),
        (None, "a STRING tensor takes str and bytes, not NoneType"),
        ([1, "a"], "a STRING tensor takes str and bytes, not int (1)"),
        (2**70, "not int"),
        ("\ud800", "can't be written as UTF-8"),
    ],
)
def test_values_without_a_tensor(value: Any, message: str) -> None:
    """What no DataType carries is refused by name."""
    with pytest.raises(TensorError) as caught:
        to_tensor(value)
    assert message in str(caught.value)


def test_dtypes_map_both_ways() -> None:
    """Every DataType has a numpy dtype and comes back from it."""
    for code in DataType:
        assert data_type(numpy_dtype(code)) is code
    assert data_type(np.dtype(">f8")) is DataType.DOUBLE
    assert data_type(np.dtype("U5")) is data_type(np.dtype("S5")) is DataType.STRING
    assert numpy_dtype(DataType.BFLOAT16) == np.dtype(ml_dtypes.bfloat16)


def test_bfloat16_without_ml_dtypes_names_the_remedy() -> None:
    """ml_dtypes is only imported for BFLOAT16, and its absence is one clear error."""
    code = """
import sys
sys.modules["ml_dtypes"] = None  # what an import of a missing package finds
from thriftserve_client import DataType, TensorError, to_tensor, numpy_dtype
to_tensor([1.0])
try:
    numpy_dtype(DataType.BFLOAT16)
except TensorError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install ml_dtypes" in done.stdout

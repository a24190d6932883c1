"""What Python models answer: taken in every form, converted to what they declare, refused before a number is lost."""

from __future__ import annotations

import doctest
import math
from typing import Any, ClassVar

import numpy as np
import pytest

from batching_models import answered, job
from numpy_models import arrays, refused, serve
from thriftserve.batching import Batcher
from thriftserve.errors import Internal
from thriftserve.models.python.outputs import Outputs
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Servable
from thriftserve.models.session import Signature, TensorSpec
from thriftserve.repository.model_settings import BatchingSettings
from thriftserve_client import conversion
from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_idl.ttypes import DataType, ErrorCode

FLOATS = (DataType.FLOAT, DataType.DOUBLE, DataType.HALF, DataType.BFLOAT16)
NUMBERS = [one for one in DataType if one is not DataType.STRING]
#: Where types begin and end, and what lies beside.
EDGES = [0, 1, 0.5, 1 / 3, 1e-40, 1e5, 1e39, math.nan, math.inf, 255.9999999999]
RANGES = {dtype: range(np.iinfo(dtype).min, np.iinfo(dtype).max + 1) for dtype in map(np.dtype, "bhilqBHILQ")}
EDGES += [2**power + more for power in (7, 8, 11, 15, 16, 24, 31, 32, 53, 63, 64) for more in (-1, 0, 1)]


def taken(value: Any, declared: DataType, shape: tuple[int | None, ...] | None = None) -> Any:
    """What becomes of a value that a model gives for an output declared so."""
    signature = Signature("serving_default", {}, {"y": TensorSpec("y", declared, shape)})
    return Outputs("m:M", signature).arrays({"y": value}, ("y",))["y"]


class ArrayLike:
    """Not an array, but one can be had: as tensors of other frameworks are."""

    def __init__(self, array: Any, fault: Exception | None = None) -> None:
        self.array, self.fault = array, fault

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if self.fault:
            raise self.fault
        return self.array


class Gives:
    """Answers with what it was made with, whatever it is asked."""

    signatures: ClassVar[Any] = {"inputs": {}, "outputs": {"y": ("float32", [None])}}

    def __init__(self, *answers: Any) -> None:
        self.answers = answers

    def predict(self, inputs: Any) -> Any:
        return self.answers[0]

    def predict_batch(self, batch: Any) -> Any:
        return self.answers


class GivesUndeclared(Gives):
    signatures = None


def test_what_is_declared_passes_as_it_is() -> None:
    """An array of the declared type and shape is not copied."""
    given = np.zeros((2, 3), np.float32)
    assert taken(given, DataType.FLOAT, (None, 3)) is given
    texts = np.array([b"a", "b"], object)
    assert taken(texts, DataType.STRING) is texts


def samples(dtype: Any) -> list[Any]:
    """Arrays of one number each: the edges that an element type has."""
    values = [*EDGES, *(-one for one in EDGES)]
    if dtype.kind in "iu":
        return [np.array([one], dtype) for one in values if type(one) is int and one in RANGES[dtype]]
    with np.errstate(all="ignore"):
        return [np.array([float(one)]).astype(dtype) for one in values]


def holds(value: Any, declared: DataType) -> bool:
    """Whether a type has a number: integers and truth values exactly, floats as near as their own type comes."""
    dtype = numpy_dtype(declared)
    if declared is DataType.BOOL:
        return bool(value in (0, 1))
    if dtype.kind in "iu":
        return math.isfinite(value) and value == int(value) and int(value) in RANGES[dtype]
    with np.errstate(all="ignore"):
        made = float(np.array([value]).astype(np.float64).astype(dtype)[0])
    if isinstance(value, float):
        return math.isfinite(made) or not math.isfinite(value)
    return bool(made == value)


@pytest.mark.parametrize("declared", NUMBERS, ids=lambda one: one.name)
@pytest.mark.parametrize("given", NUMBERS, ids=lambda one: one.name)
def test_no_number_is_lost(given: DataType, declared: DataType) -> None:
    """Of every type, at the edges of every type: what comes out is what went in, or the output is refused by name."""
    for array in samples(numpy_dtype(given)):
        value = array[0].item() if given is not DataType.BFLOAT16 else float(array[0])
        if holds(value, declared):
            made = taken(array, declared)
            assert made.dtype == numpy_dtype(declared)
            if declared in FLOATS and isinstance(value, float):
                np.testing.assert_allclose(made.astype(np.float64), [value], rtol=2**-7, atol=1e-7)
            else:
                assert made[0].item() == value
        else:
            with pytest.raises(
                Internal,
                match=rf"'y' does not match its signature: .* does not fit {declared.name}",
            ):
                taken(array, declared)


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        ([0.5, 2], DataType.FLOAT, np.array([0.5, 2], np.float32)),
        ((1, 2), DataType.INT32, np.array([1, 2], np.int32)),
        (0.25, DataType.DOUBLE, np.float64(0.25)),
        (np.float64(0.1), DataType.FLOAT, np.float32(0.1)),
        ([True, False], DataType.INT8, np.array([1, 0], np.int8)),
        (np.array([1.0, 0.0]), DataType.BOOL, np.array([True, False])),
        (np.arange(3.0), DataType.INT64, np.arange(3)),
        (np.array([1.5], ">f4"), DataType.FLOAT, np.array([1.5], np.float32)),
        (np.array([1, 2.5], object), DataType.FLOAT, np.array([1, 2.5], np.float32)),
        (ArrayLike(np.array([1.5])), DataType.HALF, np.array([1.5], np.float16)),
        ([np.zeros(1), ArrayLike(np.ones(1))], DataType.FLOAT, np.array([[0], [1]], np.float32)),
        ([], DataType.INT32, np.zeros(0, np.int32)),
        ([[], []], DataType.STRING, np.zeros((2, 0), object)),
        (["a", b"\0"], DataType.STRING, np.array(["a", b"\0"], object)),
        ("text", DataType.STRING, np.array("text", object)),
        (np.array(["a", "bc"]), DataType.STRING, np.array(["a", "bc"])),
        (np.ma.MaskedArray([1.0, 2.0]), DataType.FLOAT, np.array([1, 2], np.float32)),
        (np.array([math.nan, -math.inf]), DataType.FLOAT, np.array([math.nan, -math.inf], np.float32)),
    ],
)
def test_every_form_is_taken(value: Any, declared: DataType, expected: Any) -> None:
    """Lists, tuples, scalars, text, other frameworks' tensors and arrays of other types become the declared array."""
    made = taken(value, declared)
    np.testing.assert_array_equal(made, expected)
    assert made.dtype == expected.dtype
    assert made.shape == np.shape(expected)


@pytest.mark.parametrize(
    ("value", "declared", "said"),
    [
        (np.array([1, 3_000_000_000]), DataType.INT32, r"signature: 3000000000 \(int64\) does not fit INT32"),
        (np.array([-1], np.int8), DataType.UINT64, r"signature: -1 \(int8\) does not fit UINT64"),
        (
            np.array([2**64 - 1], np.uint64),
            DataType.INT64,
            r"18446744073709551615 \(uint64\) does not fit INT64",
        ),
        ([0.0, 0.5], DataType.INT64, r"signature: 0.5 \(float64\) does not fit INT64"),
        ([math.nan], DataType.INT64, r"signature: nan \(float64\) does not fit INT64"),
        (np.array([1e300]), DataType.FLOAT, r"signature: 1e\+300 \(float64\) does not fit FLOAT"),
        (np.array([2**24 + 1]), DataType.FLOAT, r"signature: 16777217 \(int64\) does not fit FLOAT"),
        ([2], DataType.BOOL, r"signature: 2 \(int64\) does not fit BOOL"),
        ([1.5], DataType.STRING, "signature: float64 does not fit STRING"),
        (["1"], DataType.FLOAT, "signature: str does not fit FLOAT"),
        (np.array([b"1"]), DataType.INT64, "signature: bytes does not fit INT64"),
        ([1j], DataType.FLOAT, "signature: complex128 does not fit FLOAT"),
        ([[1.0], [2.0, 3.0]], DataType.FLOAT, "gave no array for the output 'y': list can't become an array: .*homog"),
        (None, DataType.FLOAT, "gave a NoneType for the output 'y': expected numbers"),
        ([1.0, None], DataType.FLOAT, "gave a list for the output 'y' with a NoneType in it, None: expected numbers"),
        (["a", 1], DataType.STRING, "gave a list for the output 'y' with a int in it, 1: expected numbers"),
        ([1, 2**64], DataType.INT64, "with a int in it, 18446744073709551616: expected numbers of at most 64 bits"),
        ({"a": 1}, DataType.FLOAT, "gave a dict for the output 'y': expected numbers"),
        (
            ArrayLike(None, RuntimeError("on a GPU")),
            DataType.FLOAT,
            "no array .*: ArrayLike does not make .*: on a GPU",
        ),
        (np.ma.MaskedArray([1.0, 2.0], [False, True]), DataType.FLOAT, "gave a MaskedArray .* with masked elements"),
    ],
)
def test_what_can_not_be_taken_is_named(value: Any, declared: DataType, said: str) -> None:
    """An output that is no array, or not what is declared, is Internal: model, output, type and value."""
    with pytest.raises(Internal, match=said) as caught:
        taken(value, declared)
    assert caught.value.message.startswith("m:M")
    assert "'y'" in caught.value.message


@pytest.mark.parametrize(
    ("shape", "declared", "said"),
    [
        ((2,), (None, 3), r"'y' does not match its signature: shape \[2\] does not fit \[\?, 3\]"),
        ((2, 4), (None, 3), r"\[2, 4\] .* \[\?, 3\]"),
        ((1,), (), r"\[1\] .* \[\]"),
        ((), (None,), r"\[\] .* \[\?\]"),
    ],
)
def test_the_declared_shape_holds(shape: tuple[int, ...], declared: tuple[int | None, ...], said: str) -> None:
    """Rank and sizes are held against the declaration, of arrays and of lists; what is free may be anything."""
    for value in (np.zeros(shape, np.float32), np.zeros(shape).tolist()):
        with pytest.raises(Internal, match=said):
            taken(value, DataType.FLOAT, declared)
    assert taken(np.zeros((0, 3), np.float32), DataType.FLOAT, (None, 3)).shape == (0, 3)
    assert taken(np.zeros(shape), DataType.FLOAT).shape == shape


def test_every_missing_output_is_named() -> None:
    """All outputs that are declared and were not given are told at once, beside those that were."""
    signature = Signature("s", {}, {name: TensorSpec(name, DataType.FLOAT) for name in "abc"})
    with pytest.raises(Internal, match="m:M gave no output 'a', 'c'; it gave 'b', 'x'"):
        Outputs("m:M", signature).arrays({"b": 1.0, "x": 2}, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("value", "dtype", "content"),
    [
        ([0.1, 2], DataType.DOUBLE, [0.1, 2.0]),
        ([1, 2], DataType.INT64, [1, 2]),
        (3, DataType.INT64, 3),
        ([True], DataType.BOOL, [True]),
        (["a", b"\xff\0"], DataType.STRING, [b"a", b"\xff\0"]),
        ("a", DataType.STRING, b"a"),
        (ArrayLike(np.array([1.5], np.float32)), DataType.FLOAT, [1.5]),
        (np.array([1, 2], np.int16), DataType.INT16, [1, 2]),
    ],
)
def test_without_a_declaration_the_value_says_its_type(value: Any, dtype: DataType, content: Any) -> None:
    """Numbers of Python go as numpy takes them, text as STRING, arrays as they are: as a client sees it."""
    response = serve(PythonSession(GivesUndeclared({"y": value}), "m:M", "cpu")).predict({})
    assert response.outputs["y"].dtype == dtype
    assert arrays(response)["y"].tolist() == content


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"y": [[1], [1, 2]]}, "gave no array for the output 'y': list can't become an array: "),
        ({"y": None}, "gave a NoneType for the output 'y'"),
        ({"y": ["a", 1]}, "gave a list for the output 'y' with a int in it, 1"),
        ({1: [1.0]}, "named an output 1 of type int: expected a str"),
        ([1.0], "answered 'serving_default' with a list, not a dict of arrays"),
    ],
)
def test_without_a_declaration_what_is_no_array_is_named(answer: Any, said: str) -> None:
    """Whatever can't be sent is the model's failure, by the output's name."""
    server = serve(PythonSession(GivesUndeclared(answer), "m:M", "cpu"))
    refused(lambda: server.predict({}), ErrorCode.INTERNAL, said)


def test_clients_get_what_is_declared() -> None:
    """float64 of a model that declares float32 goes out as FLOAT, by `predict` and by `predict_batch`."""
    session = PythonSession(Gives({"y": np.array([0.1])}, {"y": [0.2, 0.3]}), "m:M", "cpu")
    response = serve(session).predict({})
    assert response.outputs["y"].dtype == DataType.FLOAT
    assert arrays(response)["y"].tolist() == [np.float32(0.1)]
    servable = Servable("p", 1, session, batching=BatchingSettings(max_batch_size=8))
    done = [answered(one) for one in Batcher().run_all([job(servable, {}, wanted=("y",)) for _ in range(2)])]
    assert [data_type(one.outputs["y"].dtype) for one in done] == [DataType.FLOAT, DataType.FLOAT]
    assert [one.outputs["y"].tolist() for one in done] == [[np.float32(0.1)], [np.float32(0.2), np.float32(0.3)]]


def test_predict_batch_is_held_to_the_declaration() -> None:
    """An answer of several that does not fit fails the call, by the output's name."""
    session = PythonSession(Gives({"y": [1.0]}, {"y": [[1.0]]}), "m:M", "cpu")
    with pytest.raises(Internal, match=r"'y' does not match its signature: shape \[1, 1\] does not fit \[\?\]"):
        session.run_each("serving_default", [{}, {}], ("y",))
    session = PythonSession(Gives({"y": [1.0]}, {"z": [1.0]}), "m:M", "cpu")
    with pytest.raises(Internal, match="no output 'y'; it gave 'z'"):
        session.run_each("serving_default", [{}, {}], ("y",))


def test_examples_of_conversion() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(conversion).failed == 0

"""What a signature declares of its tensors: which shapes it accepts, whether it has rows, and its words for people."""

from __future__ import annotations

import pytest

from thriftserve.models.session import TensorSpec, describe_shape
from thriftserve_idl.ttypes import DataType

Shape = tuple[int | None, ...] | None


@pytest.mark.parametrize(
    ("declared", "shape", "accepted"),
    [
        (None, (), True),
        (None, (7, 8), True),
        ((), (), True),
        ((), (1,), False),
        ((None, 3), (0, 3), True),
        ((None, 3), (5, 3), True),
        ((None, 3), (5, 4), False),
        ((None, 3), (5,), False),
        ((2, None), (2, 9), True),
        ((2, None), (3, 9), False),
    ],
)
def test_shapes_that_are_accepted(declared: Shape, shape: tuple[int, ...], accepted: bool) -> None:
    """A free rank accepts all, a free size any size; other sizes and the rank must be as declared."""
    assert TensorSpec("x", DataType.FLOAT, declared).accepts(shape) is accepted


@pytest.mark.parametrize(
    ("declared", "rows", "text"),
    [
        (None, False, "any"),
        ((), False, "[]"),
        ((2, None), False, "[2, ?]"),
        ((None,), True, "[?]"),
        ((None, 3), True, "[?, 3]"),
    ],
)
def test_rows_and_words(declared: Shape, rows: bool, text: str) -> None:
    """Only a free leading size is one of rows; free sizes are question marks for people."""
    assert TensorSpec("x", DataType.FLOAT, declared).has_rows is rows
    assert describe_shape(declared) == text

"""The short way from JSON numbers to a tensor takes exactly what the long one takes, and as the same bytes."""

from typing import Any

import pytest

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_tensors import decode_checked, decode_fast
from thriftserve_idl.ttypes import DataType

_VALUES: list[Any] = [
    [1.5, 2], [0, 1, 0.0, 1.0], [-0.0], [[1.0, 2.0], [3.0, 4.0]], [float("nan"), float("-inf"), 1], [2**24, 1.0],
    [2**24 + 1, 1.0], [1e30, 1],
    [1e39], [2**53 + 1], [10**400], [True, 1.0], [False], [0.0, False], ["1"], [None], [{}],
    [[1.0], 2.0], [[1.0], [2.0, 3.0]], [255, 256, 257, 2049],
]  # fmt: skip


@pytest.mark.parametrize("dtype", [DataType.FLOAT, DataType.DOUBLE, DataType.HALF])
@pytest.mark.parametrize("value", _VALUES, ids=lambda value: str(value)[:24])
def test_the_short_way_takes_what_the_long_one_takes(value: Any, dtype: DataType) -> None:
    """What the short way makes, the long one makes as well; what the long one refuses, the short one leaves to it."""
    quick = decode_fast(value, dtype)
    try:
        slow = decode_checked(value, dtype)
    except Refusal:
        assert quick is None
    else:
        assert quick is None or (quick.shape, quick.content) == (slow.shape, slow.content)


@pytest.mark.parametrize("value", [[1.5, 2], [0, 1, 0.0, 1.0], [[1.0, 2.0], [3.0, 4.0]], [float("nan"), 1]])
def test_usual_numbers_go_the_short_way(value: Any) -> None:
    """Floats and small whole numbers are not looked at one by one."""
    assert decode_fast(value, DataType.FLOAT) is not None

"""Output tensors to the JSON of TensorFlow Serving, in the form of the request.

    {"y": [2.5, 3.0]}, ROW       -->  {"predictions": [2.5, 3.0]}
    {"a": …, "b": …}, ROW        -->  {"predictions": [{"a": …, "b": …}, …]}
    the same, COLUMNAR           -->  {"outputs": [2.5, 3.0]} | {"outputs": {"a": …, "b": …}}

Numbers have the fewest digits that tell them apart in their own type; NaN, Infinity and -Infinity are written so.
STRING values are text, or {"b64": …} where the output's name ends in _bytes or a value is not UTF-8.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_decode import JsonForm
from thriftserve_client.conversion import shortest

Array = np.ndarray[Any, np.dtype[Any]]
#: Kinds of numpy types that orjson writes by itself; others are made float32 first.
_PLAIN = frozenset("fiub")
_NULL = re.compile(rb"null")


def answer(outputs: Mapping[str, Array], form: JsonForm) -> bytes:
    """The body of the answer.

    Raises:
        Refusal: the outputs have no rows that belong together, and the request was in rows.
    """
    if not outputs:
        raise Refusal("Cannot convert empty tensor map to JSON")
    if form is JsonForm.ROW:
        _check_rows(outputs)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return b'{"%s":%s}' % (form.value.encode(), written(array, name.endswith("_bytes")))
    if form is JsonForm.COLUMNAR:
        columns = {name: _fragment(array, name) for name, array in sorted(outputs.items())}
        return orjson.dumps({form.value: columns})
    return orjson.dumps({form.value: _rows(outputs)}, option=orjson.OPT_SERIALIZE_NUMPY)


def written(array: Array, as_bytes: bool = False) -> bytes:
    """An array as JSON; of no dimensions: its one value."""
    if array.dtype == object:
        return orjson.dumps(_texts(array, as_bytes))
    if array.dtype.kind not in _PLAIN:
        array = array.astype(np.float32)
    plain = array[()] if array.ndim == 0 else np.ascontiguousarray(array)
    text = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind != "f":
        return text
    odd = array[~np.isfinite(array)]
    if not odd.size:
        return text
    tokens = _tokens(odd)
    return _NULL.sub(lambda _: next(tokens), text)  # orjson writes null for each of them, and for nothing else


def number(value: float) -> float | orjson.Fragment:
    """A score or a coordinate, by the same rules, as orjson takes it."""
    return shortest(value) if math.isfinite(value) else orjson.Fragment(token(value))


def _tokens(values: Array) -> Iterator[bytes]:
    return map(token, values.tolist())


def token(value: float) -> bytes:
    """What stands for a number that JSON has not: NaN or an infinity."""
    return b"NaN" if math.isnan(value) else (b"Infinity" if value > 0 else b"-Infinity")


def _texts(array: Array, as_bytes: bool) -> Any:
    return _nested(array.tolist(), as_bytes)


def _nested(values: Any, as_bytes: bool) -> Any:
    return [_nested(one, as_bytes) for one in values] if type(values) is list else _text(values, as_bytes)


def _text(value: bytes, as_bytes: bool) -> Any:
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass  # JSON has no other way to carry it
    return {"b64": base64.b64encode(value).decode()}


def _fragment(array: Array, name: str) -> orjson.Fragment:
    return orjson.Fragment(written(array, name.endswith("_bytes")))


def _check_rows(outputs: Mapping[str, Array]) -> None:
    batch = 0
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise Refusal(f"Tensor name: {name} has no shape information ")
        size = array.shape[0]
        if size < 1:
            raise Refusal(f"Tensor name: {name} has invalid batch size: {size}")
        if batch not in (0, size):
            raise Refusal(f"Tensor name: {name} has inconsistent batch size: {size} expecting: {batch}")
        batch = size


def _rows(outputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    columns = {name: _row_values(name, array) for name, array in sorted(outputs.items())}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _row_values(name: str, array: Array) -> list[Any]:
    """One value a row, as orjson takes it."""
    if array.dtype == object:
        return list(_texts(array, name.endswith("_bytes")))
    if array.dtype.kind in "iub":
        return list(array.tolist())
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return list(np.ascontiguousarray(array))
    return [orjson.Fragment(written(row)) for row in array]

"""Encode output tensors as TensorFlow Serving's JSON, in the layout of the request.

    {"y": [2.5, 3.0]}, ROW       -->  {"predictions": [2.5, 3.0]}
    {"a": …, "b": …}, ROW        -->  {"predictions": [{"a": …, "b": …}, …]}
    the same, COLUMNAR           -->  {"outputs": [2.5, 3.0]} | {"outputs": {"a": …, "b": …}}

Numbers have the fewest digits that identify them in their own type; NaN, Infinity and -Infinity are written as such.
STRING values are text, or {"b64": …} if the output's name ends in _bytes or a value is not UTF-8.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_decode import JsonLayout
from thriftserve_client.conversion import shortest

Array = np.ndarray[Any, np.dtype[Any]]
#: Kinds of numpy types that orjson writes itself; others become float32 first.
_ORJSON_KINDS = frozenset("fiub")
_NULL = re.compile(rb"null")


def encode_response(outputs: Mapping[str, Array], layout: JsonLayout) -> bytes:
    """Return the body of a predict response.

    Raises:
        Refusal: the request was in rows, and the outputs do not have the same number of rows.
    """
    if not outputs:
        raise Refusal("Cannot convert empty tensor map to JSON")
    if layout is JsonLayout.ROW:
        _check_rows(outputs)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return b'{"%s":%s}' % (layout.value.encode(), encode_array(array, name.endswith("_bytes")))
    if layout is JsonLayout.COLUMNAR:
        columns = {name: _fragment(array, name) for name, array in sorted(outputs.items())}
        return orjson.dumps({layout.value: columns})
    return orjson.dumps({layout.value: _rows(outputs)}, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_array(array: Array, as_bytes: bool = False) -> bytes:
    """Return an array as JSON; its one value if it has no dimensions."""
    if array.dtype == object:
        return orjson.dumps(_nest_texts(array.tolist(), as_bytes))
    if array.dtype.kind not in _ORJSON_KINDS:
        array = array.astype(np.float32)
    plain = array[()] if array.ndim == 0 else np.ascontiguousarray(array)
    text = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind != "f":
        return text
    not_finite = array[~np.isfinite(array)]
    if not not_finite.size:
        return text
    tokens = map(token, not_finite.tolist())
    return _NULL.sub(lambda _: next(tokens), text)  # orjson writes null for these, and for nothing else


def number(value: float) -> float | orjson.Fragment:
    """Return a score or a coordinate by the same rules, in a form that orjson writes."""
    return shortest(value) if math.isfinite(value) else orjson.Fragment(token(value))


def token(value: float) -> bytes:
    """Return the token for a number that JSON does not have: NaN or an infinity."""
    return b"NaN" if math.isnan(value) else (b"Infinity" if value > 0 else b"-Infinity")


def _nest_texts(values: Any, as_bytes: bool) -> Any:
    if type(values) is list:
        return [_nest_texts(value, as_bytes) for value in values]
    return _text(values, as_bytes)


def _text(value: bytes, as_bytes: bool) -> Any:
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass  # JSON has no other way to carry it
    return {"b64": base64.b64encode(value).decode()}


def _fragment(array: Array, name: str) -> orjson.Fragment:
    return orjson.Fragment(encode_array(array, name.endswith("_bytes")))


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
    """Return one value per row, in a form that orjson writes."""
    if array.dtype == object:
        return list(_nest_texts(array.tolist(), name.endswith("_bytes")))
    if array.dtype.kind in "iub":
        return list(array.tolist())
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return list(np.ascontiguousarray(array))
    return [orjson.Fragment(encode_array(row)) for row in array]

"""Decode the body of a predict request into tensors, in both of TensorFlow Serving's formats.

    {"instances": [row, …]}                 --row by row-->  {input: Tensor}, ROW
    {"inputs": tensor | {input: tensor}}    --as given-->    {input: Tensor}, COLUMNAR

The model's signature gives the types. A model that declares none (a Python model may) gets the types that the JSON
suggests: decimals FLOAT, whole numbers INT64, truth values BOOL, text and base64 STRING. An input of pixels takes
{"b64": …} as an encoded image, which the server decodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_tensors import decode, decode_checked, decode_fast, dense_shape, is_base64
from thriftserve.gateway.json_text import show
from thriftserve_idl.ttypes import DataType, Tensor

#: The types of a signature's inputs by name; None if it declares none.
Types = Mapping[str, DataType] | None


class JsonLayout(Enum):
    """How a request lays out its tensors; its response uses the same layout. The value is the response's key."""

    ROW = "predictions"
    COLUMNAR = "outputs"


def signature_name(document: dict[str, Any]) -> str | None:
    """Return the signature that a request names; None for the default one.

    Raises:
        Refusal: the name is not text.
    """
    name = document.get("signature_name")
    if name is None:
        return None
    if type(name) is not str:
        raise Refusal(
            f"JSON Value: {show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or None


def with_images(document: dict[str, Any], types: Types, pixels: Iterable[str]) -> Types:
    """Return the types as a request sends them: STRING for those of the inputs `pixels` that it gives as base64."""
    encoded = {name: DataType.STRING for name in pixels if types and _starts_with_base64(document, name, types)}
    return {**types, **encoded} if types and encoded else types


def _starts_with_base64(document: dict[str, Any], name: str, types: Mapping[str, DataType]) -> bool:
    rows = document.get("instances")
    value = rows[0] if type(rows) is list and rows else document.get("inputs")
    if type(value) is dict and not is_base64(value):
        value = value.get(name)
    elif len(types) > 1:
        return False
    while type(value) is list and value:
        value = value[0]
    return is_base64(value)


def decode_tensors(
    document: dict[str, Any], types: Types, signature: str | None
) -> tuple[dict[str, Tensor], JsonLayout]:
    """Return the tensors of a request, and its layout.

    Raises:
        Refusal: it has neither layout or both, or its values do not fit the types.
    """
    rows, inputs = document.get("instances"), document.get("inputs")
    empty = types is not None and not types
    if empty and inputs != {}:
        raise Refusal(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise Refusal(
            f"JSON Value: {show(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        if type(rows) is not list:
            raise Refusal(f"JSON Value: {show(document)} Excepting 'instances' to be an list/array")
        if not rows:
            raise Refusal(f"JSON Value: {show(document)} No values in 'instances' array")
        return _decode_rows(rows, types), JsonLayout.ROW
    if "inputs" in document:
        return _decode_columns(inputs, types), JsonLayout.COLUMNAR
    raise Refusal("Missing 'inputs' or 'instances' key")


def _suggested_type(value: Any) -> DataType:
    """Return the type for a value whose input declares none: by all its elements, FLOAT if they are mixed."""
    dense_shape(value)
    level = [value]
    while any(type(item) is list for item in level):
        level = [element for item in level for element in (item if type(item) is list else [item])]
    kinds = set(map(type, level))
    if kinds == {int}:
        return DataType.INT64
    if kinds == {bool}:
        return DataType.BOOL
    return DataType.STRING if kinds <= {str, dict} and kinds else DataType.FLOAT


def _is_object(value: Any) -> bool:
    return type(value) is dict and not is_base64(value)


def _decode_columns(inputs: Any, types: Types) -> dict[str, Tensor]:
    if not _is_object(inputs):
        if types is not None and len(types) == 1:
            ((name, dtype),) = types.items()
            return {name: decode(inputs, dtype)}
        raise Refusal(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if types is None:
        return {name: decode(value, _suggested_type(value)) for name, value in inputs.items()}
    for name in types:
        if name not in inputs:
            raise Refusal(f"Missing named input: {name} in 'inputs' object.")
    for name in inputs:
        if name not in types:
            raise Refusal(f"JSON object: does not have named input: {name}")
    return {name: decode(inputs[name], dtype) for name, dtype in types.items()}


def _decode_rows(rows: list[Any], types: Types) -> dict[str, Tensor]:
    first = rows[0]
    if not _is_object(first) and (types is None or len(types) > 1):
        raise Refusal(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if not _is_object(first):
        name, dtype = next(iter(types.items())) if types else ("", DataType.STRING)
        return {name: decode_fast(rows, dtype) or _decode_plain_rows(rows, dtype)}
    names = types if types is not None else dict.fromkeys(first)
    if all(_is_object(row) and row.keys() == names.keys() for row in rows):
        columns = {name: [row[name] for row in rows] for name in names}
        tensors: dict[str, Tensor] = {}
        for name, column in columns.items():
            tensor = decode_fast(column, (types or {}).get(name) or _suggested_type(column))
            if tensor is None:
                break
            tensors[name] = tensor
        else:
            return tensors
    return _decode_object_rows(rows, types)


def _decode_plain_rows(rows: list[Any], dtype: DataType) -> Tensor:
    """Return the tensor of rows, decoded one by one."""
    tensors: list[Tensor] = []
    for number, row in enumerate(rows):
        if _is_object(row):
            raise Refusal(f"Expecting value/list but got object at item {number} of input list")
        try:
            tensors.append(_check_shape(decode_checked(row, dtype), tensors))
        except Refusal as error:
            raise _in_element(str(number), error) from None
    return _stack(tensors)


def _decode_object_rows(rows: list[Any], types: Types) -> dict[str, Tensor]:
    """Return the tensors of rows that name their inputs, decoded one by one."""
    known: Mapping[str, DataType] = (
        types if types is not None else {name: _suggested_type(value) for name, value in rows[0].items()}
    )
    columns: dict[str, list[Tensor]] = {name: [] for name in known}
    for number, row in enumerate(rows):
        if not _is_object(row):
            raise Refusal(f"Expecting object but got list at item {number} of input list")
        for name, value in row.items():
            try:
                if name not in known:
                    raise Refusal(f"JSON object: does not have named input: {name}")
                columns[name].append(_check_shape(decode_checked(value, known[name]), columns[name]))
            except Refusal as error:
                raise _in_element(f"{number} key: {name}", error) from None
        if row.keys() != known.keys():
            raise Refusal(
                f"Failed to process element: {number} of 'instances' list. JSON object: {show(row)} "
                f"must only have keys: {','.join(sorted(known))}"
            )
    return {name: _stack(tensors) for name, tensors in columns.items()}


def _in_element(where: str, error: Refusal) -> Refusal:
    kind = "INVALID_ARGUMENT" if error.status == 400 else "UNIMPLEMENTED"
    return Refusal(f"Failed to process element: {where} of 'instances' list. Error: {kind}: {error.message}")


def _check_shape(tensor: Tensor, before: list[Tensor]) -> Tensor:
    if not before or before[0].shape == tensor.shape:
        return tensor
    expected, got = math.prod(before[0].shape), math.prod(tensor.shape)
    if expected != got:
        raise Refusal(f"Expecting tensor size: {expected} but got: {got}")
    raise Refusal(f"Expecting shape {_format_shape(before[0])} but got: {_format_shape(tensor)}")


def _format_shape(tensor: Tensor) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _stack(rows: list[Tensor]) -> Tensor:
    shape = [len(rows), *rows[0].shape]
    if rows[0].strings is not None:
        return Tensor(rows[0].dtype, shape, None, [text for row in rows for text in row.strings])
    return Tensor(rows[0].dtype, shape, b"".join(row.content for row in rows))

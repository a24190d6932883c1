"""The body of a predict request to its tensors, in both of TensorFlow Serving's forms.

    {"instances": [row, …]}                 --row by row-->     {input: Tensor}, ROW
    {"inputs": tensor | {input: tensor}}    --as they stand-->  {input: Tensor}, COLUMNAR

What a model takes is told by its signature; one that declares nothing (a Python model may) is sent what the JSON
looks like: numbers with a point FLOAT, whole ones INT64, truth values BOOL, text and base64 STRING. An input of pixels
takes {"b64": …} as an encoded image, which the server decodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from thriftserve.gateway.http import Refusal
from thriftserve.gateway.json_faults import dense_shape, is_base64, tensor_of
from thriftserve.gateway.json_tensors import quick_tensor
from thriftserve.gateway.json_text import shown
from thriftserve_idl.ttypes import DataType, Tensor

#: The types of a signature's inputs by name; None where nothing is declared.
Types = Mapping[str, DataType] | None


class JsonForm(Enum):
    """How a request laid out its tensors; the answer is laid out the same way."""

    ROW = "predictions"
    COLUMNAR = "outputs"


def signature_name(document: dict[str, Any]) -> str | None:
    """The signature that a request names; None: the default one.

    Raises:
        Refusal: it is not text.
    """
    name = document.get("signature_name")
    if name is None:
        return None
    if type(name) is not str:
        raise Refusal(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or None


def with_images(document: dict[str, Any], types: Types, pixels: Iterable[str]) -> Types:
    """The types as a request sends them: STRING for those of the inputs `pixels` that it gives as base64."""
    sent = {name: DataType.STRING for name in pixels if types and _begins_with_base64(document, name, types)}
    return {**types, **sent} if types and sent else types


def _begins_with_base64(document: dict[str, Any], name: str, types: Mapping[str, DataType]) -> bool:
    rows = document.get("instances")
    value = rows[0] if type(rows) is list and rows else document.get("inputs")
    if type(value) is dict and not is_base64(value):
        value = value.get(name)
    elif len(types) > 1:
        return False
    while type(value) is list and value:
        value = value[0]
    return is_base64(value)


def tensors_of(document: dict[str, Any], types: Types, signature: str | None) -> tuple[dict[str, Tensor], JsonForm]:
    """The tensors of a request.

    Raises:
        Refusal: it has neither form or both, or what it holds does not fit the types.
    """
    rows, inputs = document.get("instances"), document.get("inputs")
    empty = types is not None and not types
    if empty and inputs != {}:
        raise Refusal(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise Refusal(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        if type(rows) is not list:
            raise Refusal(f"JSON Value: {shown(document)} Excepting 'instances' to be an list/array")
        if not rows:
            raise Refusal(f"JSON Value: {shown(document)} No values in 'instances' array")
        return _of_rows(rows, types), JsonForm.ROW
    if "inputs" in document:
        return _of_columns(inputs, types), JsonForm.COLUMNAR
    raise Refusal("Missing 'inputs' or 'instances' key")


def _tensor(value: Any, dtype: DataType | None) -> Tensor:
    if dtype is None:
        dtype = looks_like(value)
    return quick_tensor(value, dtype) or tensor_of(value, dtype)


def looks_like(value: Any) -> DataType:
    """The type that a value is sent as where none is declared: that of its first element, whole numbers apart."""
    dense_shape(value)
    kinds = set()
    level = [value]
    while level and any(type(one) is list for one in level):
        level = [each for one in level for each in (one if type(one) is list else [one])]
    kinds = set(map(type, level))
    if kinds == {int}:
        return DataType.INT64
    if kinds == {bool}:
        return DataType.BOOL
    return DataType.STRING if kinds <= {str, dict} and kinds else DataType.FLOAT


def _is_object(value: Any) -> bool:
    return type(value) is dict and not is_base64(value)


def _of_columns(inputs: Any, types: Types) -> dict[str, Tensor]:
    if not _is_object(inputs):
        if types is not None and len(types) == 1:
            ((name, dtype),) = types.items()
            return {name: _tensor(inputs, dtype)}
        raise Refusal(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if types is None:
        return {name: _tensor(value, None) for name, value in inputs.items()}
    for name in types:
        if name not in inputs:
            raise Refusal(f"Missing named input: {name} in 'inputs' object.")
    for name in inputs:
        if name not in types:
            raise Refusal(f"JSON object: does not have named input: {name}")
    return {name: _tensor(inputs[name], dtype) for name, dtype in types.items()}


def _of_rows(rows: list[Any], types: Types) -> dict[str, Tensor]:
    first = rows[0]
    if not _is_object(first) and (types is None or len(types) > 1):
        raise Refusal(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if not _is_object(first):
        name, dtype = next(iter(types.items())) if types else ("", DataType.STRING)
        quick = quick_tensor(rows, dtype)
        return {name: quick if quick is not None else _plain_rows(rows, dtype)}
    names = types if types is not None else dict.fromkeys(first)
    if all(_is_object(row) and row.keys() == names.keys() for row in rows):
        columns = {name: [row[name] for row in rows] for name in names}
        quick_ones = {
            name: quick_tensor(column, (types or {}).get(name) or looks_like(column))
            for name, column in columns.items()
        }
        found = {name: tensor for name, tensor in quick_ones.items() if tensor is not None}
        if len(found) == len(names):
            return found
    return _object_rows(rows, types)


def _plain_rows(rows: list[Any], dtype: DataType) -> Tensor:
    """The tensor of rows that are looked at one by one."""
    made: list[Tensor] = []
    for number, row in enumerate(rows):
        if _is_object(row):
            raise Refusal(f"Expecting value/list but got object at item {number} of input list")
        try:
            made.append(_like_the_first(tensor_of(row, dtype), made))
        except Refusal as error:
            raise _in_element(str(number), error) from None
    return _stacked(made)


def _object_rows(rows: list[Any], types: Types) -> dict[str, Tensor]:
    """The tensors of rows that name their inputs, looked at one by one."""
    known: Mapping[str, DataType]
    known = types if types is not None else {name: looks_like(value) for name, value in rows[0].items()}
    made: dict[str, list[Tensor]] = {name: [] for name in known}
    for number, row in enumerate(rows):
        if not _is_object(row):
            raise Refusal(f"Expecting object but got list at item {number} of input list")
        for name, value in row.items():
            try:
                if name not in known:
                    raise Refusal(f"JSON object: does not have named input: {name}")
                made[name].append(_like_the_first(tensor_of(value, known[name]), made[name]))
            except Refusal as error:
                raise _in_element(f"{number} key: {name}", error) from None
        if row.keys() != known.keys():
            raise Refusal(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} "
                f"must only have keys: {','.join(sorted(known))}"
            )
    return {name: _stacked(several) for name, several in made.items()}


def _in_element(where: str, error: Refusal) -> Refusal:
    kind = "INVALID_ARGUMENT" if error.status == 400 else "UNIMPLEMENTED"
    return Refusal(f"Failed to process element: {where} of 'instances' list. Error: {kind}: {error.message}")


def _like_the_first(tensor: Tensor, before: list[Tensor]) -> Tensor:
    if not before or before[0].shape == tensor.shape:
        return tensor
    expected, got = _count(before[0]), _count(tensor)
    if expected != got:
        raise Refusal(f"Expecting tensor size: {expected} but got: {got}")
    raise Refusal(f"Expecting shape {_listed(before[0])} but got: {_listed(tensor)}")


def _count(tensor: Tensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _listed(tensor: Tensor) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _stacked(rows: list[Tensor]) -> Tensor:
    shape = [len(rows), *rows[0].shape]
    if rows[0].strings is not None:
        return Tensor(rows[0].dtype, shape, None, [text for row in rows for text in row.strings])
    return Tensor(rows[0].dtype, shape, b"".join(row.content for row in rows))

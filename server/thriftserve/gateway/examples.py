"""JSON examples to serialised tf.Example messages, without TensorFlow.

    {"x": 1.5, "words": ["a", "b"]}  -->  {"x": FloatList, "words": BytesList}  -->  the protobuf's bytes

Wire format: https://protobuf.dev/programming-guides/encoding; fields: tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import struct
from typing import Any

from thriftserve.gateway.failures import Refusal
from thriftserve.gateway.json_faults import from_base64, is_base64, json_type, lossless, lossy
from thriftserve.gateway.json_text import shown
from thriftserve.models.wire_writer import packed_field
from thriftserve_client.encoding import varint
from thriftserve_idl.ttypes import DataType

#: Field numbers of Feature's three lists, by kind.
_LISTS = {"bytes": 1, "float": 2, "int64": 3}
_INT64 = range(-(2**63), 2**63)


def serialised(document: dict[str, Any]) -> list[bytes]:
    """One serialised Example for each of a request's examples, its context in each.

    Raises:
        Refusal: there are none, or a feature has a value that no Example carries.
    """
    context = _features(document["context"]) if "context" in document else {}
    if "examples" not in document:
        raise Refusal(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if type(examples) is not list:
        raise Refusal(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise Refusal(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    return [_example({**context, **_features(one)}) for one in examples]


def _features(value: Any) -> dict[str, bytes]:
    """Each feature's message by name."""
    if type(value) is not dict:
        raise Refusal(f"Example must be JSON object but got JSON {json_type(value)}")
    return {name: _feature(name, content if type(content) is list else [content]) for name, content in value.items()}


def _feature(name: str, values: list[Any]) -> bytes:
    kind = ""
    elements = []
    for value in values:
        found, element = _element(name, value)
        if kind not in ("", found):
            raise Refusal(f"Unexpected element type in feature: {name} expecting type: {kind}")
        kind = found
        elements.append(element)
    if not kind:
        return b""
    if kind == "bytes":
        content = b"".join(packed_field(1, one) for one in elements)
    elif kind == "float":
        content = packed_field(1, struct.pack(f"<{len(elements)}f", *elements))
    else:
        content = packed_field(1, b"".join(varint(one % 2**64) for one in elements))
    return packed_field(_LISTS[kind], content)


def _element(name: str, value: Any) -> tuple[str, Any]:
    """The kind of list that a value belongs to, and the value as it stands there."""
    if type(value) is str:
        return "bytes", value.encode("utf-8", "replace")
    if is_base64(value):
        return "bytes", from_base64(value)
    if type(value) is bool:
        return "int64", int(value)
    if type(value) is int:
        if value not in _INT64:
            raise Refusal(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64", value
    if type(value) is float:
        if not lossless(value, DataType.FLOAT):
            raise lossy(value, DataType.FLOAT)
        return "float", value
    raise Refusal(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")


def _example(features: dict[str, bytes]) -> bytes:
    entries = (
        packed_field(1, packed_field(1, name.encode("utf-8", "replace")) + packed_field(2, message))
        for name, message in sorted(features.items())
    )
    return packed_field(1, b"".join(entries))

"""JSON bodies: text in, plain values out.

body --orjson--> dict | list | …    NaN, Infinity or -Infinity in it --> the standard library's parser
not JSON --> Refusal("JSON Parse error: unexpected character: line 1 column 17 (char 16)")
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from thriftserve.gateway.http import Refusal

#: Characters of a value that a message shows.
_MAX_SHOWN = 1000
#: Members that some request has.
_MEMBERS = frozenset(
    ("signature_name", "instances", "inputs", "examples", "context", "images", "top_k", "min_score", "max_detections")
)
#: How similar to a known key another must be to count as a misspelling of it; difflib's ratio.
_MISSPELLED = 0.8
#: What the standard library accepts and orjson refuses, by a part of orjson's message.
_ONLY_ORJSON = ("depth limit", "ecursion", "infinity", "surrogate")


def parse(body: bytes) -> Any:
    """Return the value of a JSON body. NaN, Infinity and -Infinity are numbers, as with TensorFlow Serving.

    Raises:
        Refusal: the body is not JSON; the message has line, column and character.
    """
    if not body:
        raise Refusal("JSON Parse error: the body is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = str(error)
    try:
        text = body.decode()
        if ("NaN" in text or "Infinity" in text) and not any(part in message for part in _ONLY_ORJSON):
            return json.loads(text, parse_constant=float)
    except RecursionError:
        message = "nested too deeply"
    except ValueError as error:  # not UTF-8, not JSON, or a number of more digits than Python reads
        message = str(error)
    raise Refusal(f"JSON Parse error: {message}")


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the object of a JSON body.

    Raises:
        Refusal: the body is not JSON, or not an object.
    """
    value = parse(body)
    if type(value) is not dict:
        raise Refusal(f"JSON Value: {show(value)} Is not object")
    return value


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without its members that are null: they count as left out."""
    return {name: member for name, member in value.items() if member is not None}


def members(document: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the members of a request that are not null.

    As with TensorFlow Serving, members that no request has pass: some clients send more than they need.

    Args:
        document: the request.
        known: members that have an effect here.

    Raises:
        Refusal: a member would have no effect although its client expects one: other requests have it, or it is a
            known member misspelled.
    """
    present = without_nulls(document)
    for name in present:
        if name in known:
            continue
        similar = difflib.get_close_matches(name, known, 1, _MISSPELLED)
        if similar or name in _MEMBERS:
            hint = f"did you mean {similar[0]!r}?" if similar else f"known here: {', '.join(known)}"
            raise Refusal(f"JSON object: has the key {name[:100]!r}, which has no effect here; {hint}")
    return present


def show(value: Any) -> str:
    """Return a value as text for a message, cut after `_MAX_SHOWN` characters."""
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"

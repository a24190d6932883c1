"""JSON bodies: text in, plain values out; and where a text is no JSON, what TensorFlow Serving says of it.

body --orjson--> dict | list | …        NaN, Infinity, -Infinity in it --> the standard library's parser
no JSON --> Refusal("JSON Parse error: Missing a comma or ] after an array element. at offset: 17")
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from thriftserve.gateway.http import Refusal

#: What a message shows of a value.
_MOST_SHOWN = 1000
#: In a larger text the place of a fault is told, but not what surrounds it.
_MOST_SEARCHED = 1024 * 1024

_TOO_DEEP = "Terminate parsing due to nesting that is too deep."
#: What the standard library would let pass, by a part of the first parser's message.
_ONLY_HERE = {
    "depth limit": _TOO_DEEP,
    "ecursion": _TOO_DEEP,
    "infinity": "Number too big to be stored in double.",
    "surrogate": "The surrogate pair in string is invalid.",
}
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
#: What the standard library says, and how TensorFlow Serving's parser puts it.
_WORDS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Extra data": "The document root must not be followed by other values.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character at": "Invalid encoding in string.",
}


def parsed(body: bytes) -> Any:
    """The value that a body stands for.

    Raises:
        Refusal: it is no JSON.
    """
    if not body:
        raise Refusal("JSON Parse error: The document is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _parsed_freely(body, error)


def parsed_object(body: bytes) -> dict[str, Any]:
    """The object that a body stands for.

    Raises:
        Refusal: it is no JSON object.
    """
    value = parsed(body)
    if type(value) is not dict:
        raise Refusal(f"JSON Value: {shown(value)} Is not object")
    return value


#: Those that some request takes.
_MEMBERS = frozenset(
    ("signature_name", "instances", "inputs", "examples", "context", "images", "top_k", "min_score", "max_detections")
)
#: How much of a key must be that of a known one for it to be taken as misspelt.
_ALIKE = 0.8


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object without its members that are null: they are as if left out."""
    return {name: one for name, one in value.items() if one is not None}


def members(document: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The members of a request that are not null.

    As with TensorFlow Serving, members that nobody knows pass: clients exist that send more than they need.

    Args:
        known: those that have an effect.

    Raises:
        Refusal: one is meant to have an effect and would have none: it is known elsewhere, or is a known one misspelt.
    """
    given = without_nulls(document)
    for name in given:
        if name in known:
            continue
        meant = difflib.get_close_matches(name, known, 1, _ALIKE)
        if meant or name in _MEMBERS:
            hint = f"did you mean {meant[0]!r}?" if meant else f"known here: {', '.join(known)}"
            raise Refusal(f"JSON object: has the key {name[:100]!r}, which has no effect here; {hint}")
    return given


def shown(value: Any) -> str:
    """A value as text for a message, cut where it is long."""
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def _parsed_freely(body: bytes, why: orjson.JSONDecodeError) -> Any:
    """What the standard library makes of it: it knows NaN and Infinity, and tells faults apart."""
    for part, words in _ONLY_HERE.items():
        if part in why.msg:
            raise Refusal(f"JSON Parse error: {words} at offset: {why.pos}")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Refusal(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    try:
        return json.loads(text, parse_constant=float)
    except json.JSONDecodeError as error:
        words, at = _fault(text, error)
    except RecursionError:
        words, at = _TOO_DEEP, why.pos
    except ValueError:  # a number of more digits than Python is ready to read
        words, at = "Number too big to be stored in double.", why.pos
    raise Refusal(f"JSON Parse error: {words} at offset: {len(text[:at].encode())}")


def _fault(text: str, error: json.JSONDecodeError) -> tuple[str, int]:
    """What is wrong and where, in characters, as TensorFlow Serving's parser tells it."""
    at = error.pos
    if not text.strip(" \t\r\n"):
        return "The document is empty.", len(text)
    if error.msg.startswith("Expecting ',' delimiter"):
        return _missing_comma(text, at), at
    words = next((words for start, words in _WORDS.items() if error.msg.startswith(start)), "Invalid value.")
    if error.msg.startswith("Unterminated"):
        return words, len(text)
    if error.msg.startswith("Invalid \\"):
        return words, text.rfind("\\", 0, at + 1)
    if error.msg.startswith("Illegal trailing"):
        return words, at + 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
    if words == "Invalid value.":
        at += _begun(text, at)
    return words, at


def _begun(text: str, at: int) -> int:
    """How many characters of true, false, null, … stand there: the parser has gone past those."""
    for word in ("true", "false", "null", "NaN", "Infinity", "-Infinity"):
        if text[at : at + 1] == word[0]:
            return next((n for n, letter in enumerate(word) if text[at + n : at + n + 1] != letter), len(word))
    return 0


def _missing_comma(text: str, at: int) -> str:
    inside = "["
    if at <= _MOST_SEARCHED:
        depth: list[str] = []
        for token in _STRUCTURE.finditer(text, 0, at):
            if token[0] in "[{":
                depth.append(token[0])
            elif token[0] in "]}" and depth:
                depth.pop()
        inside = depth[-1] if depth else "["
    return (
        "Missing a comma or } after an object member."
        if inside == "{"
        else "Missing a comma or ] after an array element."
    )

"""The one request that both stacks are asked, and what makes two answers the same.

BODY  --POST PATH-->  {"predictions": [{"classes_id", "labels", "softmax"}, …]}  --same-->  WrongAnswer or nothing
"""

from __future__ import annotations

import http.client
import json
import math
import time
from typing import Any

MODEL = "text"
#: Of the builders.
KIND = "text_classifier"
PATH = f"/v1/models/{MODEL}:predict"
#: Two texts of one length, as the published clients pad them; only the first `nwords` words count.
BODY = json.dumps(
    {
        "instances": [
            {"words": ["很", "喜欢", "足球", "比赛"], "nwords": 4},
            {"words": ["台风", "下雨", "", ""], "nwords": 2},
        ]
    },
    ensure_ascii=False,
).encode()
_HEADERS = {"content-type": "application/json"}
#: Of softmax values: both come from float32, one as its shortest text, one as a double's.
_TOLERANCE = 1e-6
_ASK_TIMEOUT_S = 10.0
_RETRY_S = 0.1


class WrongAnswer(Exception):
    """Two answers differ, or there is none; the message says where."""


def ask(port: int) -> Any:
    """Asks once, on a connection of its own.

    Raises:
        OSError, http.client.HTTPException: there was no answer.
        WrongAnswer: another status than 200, or no JSON.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_TIMEOUT_S)
    try:
        connection.request("POST", PATH, BODY, _HEADERS)
        response = connection.getresponse()
        status, text = response.status, response.read()
    finally:
        connection.close()
    try:
        if status != http.client.OK:
            raise ValueError
        return json.loads(text)
    except ValueError:
        raise WrongAnswer(f"port {port}: status {status}, {text[:200]!r}") from None


def first_answer(port: int, patience_s: float) -> Any:
    """Asks until there is an answer.

    Raises:
        WrongAnswer: there was none in that time; the message tells the last failure.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return ask(port)
        except (OSError, http.client.HTTPException, WrongAnswer) as error:
            if time.monotonic() > until:
                raise WrongAnswer(f"no answer within {patience_s:g} s: {error}") from error
        time.sleep(_RETRY_S)


def check_same(one: Any, other: Any, where: str = "answer") -> None:
    """Compares two answers; numbers may differ by float32's rounding.

    Raises:
        WrongAnswer: they differ.
    """
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name, value in one.items():
            check_same(value, other[name], f"{where}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (left, right) in enumerate(zip(one, other, strict=True)):
            check_same(left, right, f"{where}[{at}]")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            raise WrongAnswer(f"{where} is {one} here and {other} there")
    elif one != other:
        raise WrongAnswer(f"{where} is {str(one)[:200]} here and {str(other)[:200]} there")

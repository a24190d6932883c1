"""The request that both stacks of `http` get, and what makes two answers the same.

BODY  --POST PATH-->  {"predictions": [{"classes_id", "labels", "softmax"}, …]}  --check_same-->  WrongAnswer or nothing
"""

from __future__ import annotations

import http.client
import json
import math
import time
from typing import Any

from thriftserve_bench.workloads.jobs import WrongAnswer

MODEL = "text"
#: A kind of `builders`.
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
#: Of softmax values: both come from float32, one as its shortest text, one as a double's.
_TOLERANCE = 1e-6
_TIMEOUT_S = 10.0
_RETRY_S = 0.1


def post(port: int) -> Any:
    """Send the request once, on a connection of its own, and return the answer's JSON.

    Raises:
        OSError, http.client.HTTPException: there was no answer.
        WrongAnswer: another status than 200, or no JSON.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", PATH, BODY, {"content-type": "application/json"})
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


def post_until_answered(port: int, timeout_s: float) -> Any:
    """Send the request until there is an answer, and return it.

    Raises:
        WrongAnswer: there was none in that time; the message has the last failure.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            return post(port)
        except (OSError, http.client.HTTPException, WrongAnswer) as error:
            if time.monotonic() > until:
                raise WrongAnswer(f"no answer within {timeout_s:g} s: {error}") from error
        time.sleep(_RETRY_S)


def check_same(first: Any, second: Any, where: str = "answer") -> None:
    """Compare two answers; numbers may differ by float32's rounding.

    Raises:
        WrongAnswer: they differ; the message says where.
    """
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for name, value in first.items():
            check_same(value, second[name], f"{where}.{name}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for place, (left, right) in enumerate(zip(first, second, strict=True)):
            check_same(left, right, f"{where}[{place}]")
    elif isinstance(first, float) and isinstance(second, float):
        if not math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            raise WrongAnswer(f"{where} is {first} here and {second} there")
    elif first != second:
        raise WrongAnswer(f"{where} is {str(first)[:200]} here and {str(second)[:200]} there")

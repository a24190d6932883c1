"""Requests that are almost right, out of a seed: what was valid once, changed in a few places.

SEEDS --values of the JSON | bytes | headers | query | path changed--> Asked --wire--> bytes of HTTP, whole or broken
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from valid_requests import FORM, JSON, NPY, NPZ, RAW, SEEDS, Asked

#: Values that stand where others stood.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, 10**400, -(10**30), 1e308, 5e-324, float("nan"), float("inf"),
    "", "\0", "很", "\ud800", "x" * 3000, "NaN", "1", [], [[]], [[], [1]], [1, [2]], [None], {}, {"b64": "?"},
    {"b64": 3}, {"b64": "AAAA", "more": 1}, {"": {}}, [1] * 300, [[1.5] * 20] * 20, ["a", 1], [True, 1],
)  # fmt: skip
ODD_BYTES: tuple[bytes, ...] = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\\u12", b"\\ud800", b"\xff", b"\xc0\x80", b"\xef\xbb\xbf",
    b"1e999", b"-", b"NaN", b"-Infinity", b"null", b"\0", b"{}", b"PK\x03\x04", b"\x93NUMPY", b"\x1f\x8b\x08\x00",
    b"\r\n--xyz\r\n", b"'shape': (9999999999,), ", b"9" * 400,
)  # fmt: skip
ODD_TEXTS = (
    "", "0", "-1", "1.5", "1e9", "9" * 30, "1,2", "9223372036854775807,2", "[]", ",,,", "x", "%00", "%ff", "nan", "inf",
    "y", "0.2", "gzip", "gzip, deflate", "identity", NPY, NPZ, RAW, "*/*", "q=;", "a" * 3000,
)  # fmt: skip
KINDS = (JSON, NPY, NPZ, RAW, "image/png", "image/", FORM, "multipart/form-data", "multipart/form-data; boundary=",
         "text/plain; charset=utf-16", "", ";", "application/zip")  # fmt: skip
HEADERS = (
    "Accept", "Content-Encoding", "X-Tensor-Shape", "Inference-Header-Content-Length", "X-Request-Timeout",
    "X-Request-Id", "Origin",
)  # fmt: skip
QUERIES = ("shape", "input", "output", "signature_name", "timeout", "top_k", "min_score", "max_detections", "model")
PATHS = (
    "/v1/models/nobody:predict", "/v1/models/half_plus_two/versions/9:predict", "/v1/models/half_plus_two:regress",
    "/v1/models/kinds/labels/none:predict", "/v1/models/half_plus_two/versions/99999999999999999999:predict",
    "/v1/models/%F0%9F:predict", "/v1/models/%00", "/v1/models//:predict", "/v1/models/half_plus_two:detect",
    "/v1", "/",
    "/v1/models/half_plus_two:predict:predict", "/v2/models/%ff/infer", "/v2/models/nobody/ready", "/v2/",
    "//", "/service", "/v1/models/" + "a" * 5000, "/v1/models/" + "%41" * 2000 + "/metadata",
    "/v1/models/../../metrics", "*",
)  # fmt: skip
METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")


def asked(dice: random.Random) -> Asked:
    """A request that was right once, changed in one to four places."""
    request = dice.choice(SEEDS)
    for _ in range(dice.randrange(1, 5)):
        request = dice.choices(_CHANGES, _WEIGHTS)[0](dice, request)
    return request


def _other_value(dice: random.Random, request: Asked) -> Asked:
    """One value of the JSON, at any depth, is another one."""
    try:
        document = [json.loads(request.body)]
    except (ValueError, RecursionError):
        return _other_bytes(dice, request)
    place: Any = document
    key: Any = 0
    while type(place[key]) in (list, dict) and place[key] and dice.random() < 0.8:
        place = place[key]
        key = dice.randrange(len(place)) if type(place) is list else dice.choice(list(place))
    what = dice.randrange(4)
    if what == 0 and place is not document:
        del place[key]
    elif what == 1:
        for _ in range(dice.choice((1, 3, 70, 2000))):
            place[key] = [place[key]]
    else:
        place[key] = dice.choice(ODD_VALUES)
    return replace(request, body=_written(document[0]))


def _written(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):  # deeper, or with more digits, than the standard library writes
        return b"[" * 5000


def _other_bytes(dice: random.Random, request: Asked) -> Asked:
    body = bytearray(request.body)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(body) + 1)
        how = dice.randrange(5)
        if how == 0:
            body[at:at] = dice.choice(ODD_BYTES) * dice.choice((1, 1, 1, 300))
        elif how == 1:
            del body[at : at + dice.randrange(1, 9)]
        elif how == 2:
            body[at : at + 1] = bytes([dice.randrange(256)])
        elif how == 3:
            body[at:at] = body[at : at + dice.randrange(40)]
        else:
            del body[at:]
    return replace(request, body=bytes(body))


def _other_header(dice: random.Random, request: Asked) -> Asked:
    return replace(request, headers={**request.headers, dice.choice(HEADERS): dice.choice(ODD_TEXTS)})


def _other_kind(dice: random.Random, request: Asked) -> Asked:
    return replace(request, kind=dice.choice(KINDS))


def _other_query(dice: random.Random, request: Asked) -> Asked:
    one = f"{dice.choice(QUERIES)}={dice.choice(ODD_TEXTS)}"
    return replace(request, query=f"{request.query}&{one}" if request.query else one)


def _other_path(dice: random.Random, request: Asked) -> Asked:
    return replace(request, path=dice.choice((*PATHS, *(one.path for one in SEEDS))))


def _other_method(dice: random.Random, request: Asked) -> Asked:
    return replace(request, method=dice.choice(METHODS))


def _packed(dice: random.Random, request: Asked) -> Asked:
    """Packed whole, cut short, or a bomb."""
    how = dice.randrange(6)
    body = request.body if how else bytes(3_000_000)
    packed = gzip.compress(body, 1) if dice.randrange(2) else zlib.compress(body, 1)
    packed = packed[: dice.randrange(len(packed))] if how == 1 else packed
    return replace(request, body=packed, headers={**request.headers, "Content-Encoding": "gzip"})


_CHANGES: tuple[Callable[[random.Random, Asked], Asked], ...] = (
    _other_value, _other_bytes, _other_header, _other_kind, _other_query, _other_path, _other_method, _packed,
)  # fmt: skip
_WEIGHTS = (8, 8, 3, 3, 2, 2, 1, 1)


def wire(request: Asked, *, chunked: int = 0) -> bytes:
    """A request as HTTP/1.1 has it; its body in pieces of `chunked` bytes, or whole."""
    target = request.path + (f"?{request.query}" if request.query else "")
    length = ["Transfer-Encoding: chunked"] if chunked else [f"Content-Length: {len(request.body)}"]
    kind = [f"Content-Type: {request.kind}"] if request.kind else []
    rest = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join([f"{request.method} {target} HTTP/1.1", "Host: a", *length, *kind, *rest])
    body = _chunks(request.body, chunked) if chunked else request.body
    return head.encode("utf-8") + b"\r\n\r\n" + body


def _chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def broken(dice: random.Random, request: Asked) -> bytes:
    """The same as HTTP that is damaged: cut short, lengths that lie, heads that are none."""
    data = wire(request, chunked=dice.choice((0, 1, 7, 64)))
    how = dice.randrange(7)
    if how == 0:
        return data[: dice.randrange(len(data))]
    if how == 1:
        return data.replace(b"Content-Length: ", b"Content-Length: %d" % dice.randrange(10), 1)
    if how == 2:
        return data.replace(b"HTTP/1.1", dice.choice((b"HTTP/9.9", b"HTTP/1.0", b"", b"\xff")), 1)
    if how == 3:
        return data.replace(b"\r\n", dice.choice((b"\n", b"\r", b"\r\n\r\n", b"\0\r\n")), dice.randrange(1, 4))
    if how == 4:
        return data.replace(
            b"Host: a", dice.choice((b"Host", b": a", b"X: " + b"a" * 200_000, b"Content-Length: -1")), 1
        )
    if how == 5:
        return dice.randbytes(dice.randrange(1, 300))
    at = dice.randrange(len(data))
    return data[:at] + dice.randbytes(dice.randrange(1, 9)) + data[at:]

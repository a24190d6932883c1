"""What can be asked, for programs and for people.

OPERATIONS  -->  document(): OpenAPI 3.1  -->  /openapi.json;  page(): the same as a page  -->  /docs
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from thriftserve import __version__
from thriftserve.gateway import openapi_bodies as bodies
from thriftserve.gateway.exchange import LEAST_TIMEOUT_S

_JSON = "application/json"
_BINARY = ("application/octet-stream", "application/x-npy", "application/x-npz")
_IMAGES = ("image/*", "multipart/form-data")
_TIMEOUT = {
    "name": "timeout",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "minimum": LEAST_TIMEOUT_S},
    "description": "seconds that the request may take",
}


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked.

    Attributes:
        answer: the schema of its answer in JSON.
        body: that of its body in JSON; None: it has none.
        media: what the body may be.
        gives: what the answer may be.
        failed: whether its answer has the same form where its status is 503.
    """

    method: str
    path: str
    summary: str
    answer: dict[str, Any]
    body: dict[str, Any] | None = None
    media: tuple[str, ...] = (_JSON,)
    gives: tuple[str, ...] = (_JSON,)
    failed: bool = False


def _calls(path: str) -> tuple[Operation, ...]:
    """What can be run on a model of TensorFlow Serving's API."""
    numbers = (_JSON, *_BINARY)
    return (
        Operation(
            "post",
            f"{path}:predict",
            "runs a signature on tensors",
            bodies.PREDICTED,
            bodies.PREDICT,
            media=numbers,
            gives=numbers,
        ),
        Operation(
            "post",
            f"{path}:classify",
            "labels and scores of examples or images",
            bodies.CLASSIFIED,
            bodies.CLASSIFY,
            media=(_JSON, *_IMAGES),
        ),
        Operation("post", f"{path}:regress", "a value for each example", bodies.REGRESSED, bodies.EXAMPLES),
        Operation(
            "post", f"{path}:detect", "objects in images", bodies.DETECTED, bodies.DETECT, media=(_JSON, *_IMAGES)
        ),
        Operation("get", path, "the states of its versions", bodies.STATUS),
        Operation("get", f"{path}/metadata", "its signatures", bodies.METADATA),
    )


def _v2(path: str) -> tuple[Operation, ...]:
    """The same for the Open Inference Protocol."""
    raw = (_JSON, _BINARY[0])
    return (
        Operation("get", path, "its inputs and outputs", bodies.V2_MODEL),
        Operation("get", f"{path}/ready", "whether it is served", bodies.V2_READY),
        Operation("post", f"{path}/infer", "runs it on tensors", bodies.INFERRED, bodies.INFER, media=raw, gives=raw),
    )


def _operations() -> tuple[Operation, ...]:
    which = ("", "/versions/{version}", "/labels/{label}")
    answers = "whether a server answers"
    return (
        Operation("get", "/v1/models", "every model and the states of its versions", bodies.MODELS),
        *(one for middle in which for one in _calls(f"/v1/models/{{model}}{middle}")),
        Operation("get", "/v2", "this server", bodies.V2_SERVER),
        Operation("get", "/v2/health/live", "whether the gateway lives", bodies.V2_LIVE),
        Operation("get", "/v2/health/ready", answers, bodies.READY, failed=True),
        *(one for middle in which[:2] for one in _v2(f"/v2/models/{{model}}{middle}")),
        Operation("post", "/service", "objects in images that are named by their addresses", bodies.FOUND, bodies.URLS),
        Operation("get", "/healthz", "whether the gateway lives", bodies.LIVE),
        Operation("get", "/readyz", f"{answers}, and what is wrong where none does", bodies.READY, failed=True),
    )


OPERATIONS = _operations()


def document() -> dict[str, Any]:
    """The OpenAPI description."""
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _described(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "thriftserve gateway", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": bodies.ERROR}},
    }


def _described(one: Operation) -> dict[str, Any]:
    names = [part[1:].partition("}")[0] for part in one.path.split("/") if part.startswith("{")]
    kinds = {"version": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}
    text = {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"}
    named = [{"name": name, "in": "path", "required": True, "schema": kinds.get(name, text)} for name in names]
    wrong = {"description": "what is wrong", "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    answer = {kind: {"schema": one.answer} if kind == _JSON else {} for kind in one.gives}
    responses = {"200": {"description": "the answer", "content": answer}, "default": wrong}
    if one.failed:
        responses["503"] = {"description": "no server does", "content": answer}
    told: dict[str, Any] = {"summary": one.summary, "parameters": [*named, _TIMEOUT], "responses": responses}
    if one.body is not None:
        told["requestBody"] = {"required": True, "content": {kind: _body(one.body, kind) for kind in one.media}}
    return told


def _body(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == _JSON:
        return {"schema": schema}
    return {"schema": bodies.FORM} if kind == "multipart/form-data" else {}


def page() -> str:
    """The same for people; it loads nothing from elsewhere."""
    rows = "".join(
        f"<tr><td>{one.method.upper()}</td><td><code>{escape(one.path)}</code></td><td>{escape(one.summary)}</td>"
        f"<td>{escape(', '.join(one.media)) if one.body is not None else ''}</td></tr>"
        for one in OPERATIONS
    )
    style = "body{font:16px/1.5 sans-serif;margin:2em}td,th{text-align:left;padding:.3em 1em .3em 0;vertical-align:top}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>thriftserve gateway</title><style>{style}</style>'
        f"<h1>thriftserve gateway {escape(__version__)}</h1>"
        '<p>The description for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"<table><tr><th>method<th>path<th>what it is<th>body</tr>{rows}</table></html>"
    )

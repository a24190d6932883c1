"""What can be asked, for programs and for people.

OPERATIONS  -->  document(): OpenAPI 3.1  -->  /openapi.json;  page(): the same as a page  -->  /docs
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from thriftserve import __version__

_JSON = "application/json"
_BINARY = ("application/octet-stream", "application/x-npy", "application/x-npz")
_IMAGES = ("image/*", "multipart/form-data")
_ANYTHING: dict[str, Any] = {"type": "object"}
_PREDICT: dict[str, Any] = {
    "type": "object",
    "properties": {"signature_name": {"type": "string"}, "instances": {"type": "array"}, "inputs": {}},
}
_EXAMPLES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "signature_name": {"type": "string"},
        "context": {"type": "object"},
        "examples": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["examples"],
}
_INFER: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": {"type": "object"}}},
    "required": ["inputs"],
}
_URLS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_TIMEOUT = {
    "name": "timeout",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "seconds that the request may take",
}


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked."""

    method: str
    path: str
    summary: str
    body: dict[str, Any] | None = None
    media: tuple[str, ...] = (_JSON,)


def _operations() -> tuple[Operation, ...]:
    which = ("", "/versions/{version}", "/labels/{label}")
    calls: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
        ("predict", "runs a signature on tensors", _PREDICT, (_JSON, *_BINARY)),
        ("classify", "labels and scores of examples or images", _EXAMPLES, (_JSON, *_IMAGES)),
        ("regress", "a value for each example", _EXAMPLES, (_JSON,)),
        ("detect", "objects in images", _ANYTHING, (_JSON, *_IMAGES)),
    )
    models = [
        one
        for middle in which
        for one in (
            *(
                Operation("post", f"/v1/models/{{model}}{middle}:{verb}", summary, body, media)
                for verb, summary, body, media in calls
            ),
            Operation("get", f"/v1/models/{{model}}{middle}", "the states of its versions"),
            Operation("get", f"/v1/models/{{model}}{middle}/metadata", "its signatures"),
        )
    ]
    v2 = [
        one
        for middle in which[:2]
        for one in (
            Operation("get", f"/v2/models/{{model}}{middle}", "its inputs and outputs"),
            Operation("get", f"/v2/models/{{model}}{middle}/ready", "whether it is served"),
            Operation("post", f"/v2/models/{{model}}{middle}/infer", "runs it on tensors", _INFER),
        )
    ]
    return (
        Operation("get", "/v1/models", "every model and the states of its versions"),
        *models,
        Operation("get", "/v2", "this server"),
        Operation("get", "/v2/health/live", "whether the gateway lives"),
        Operation("get", "/v2/health/ready", "whether a server answers"),
        *v2,
        Operation("post", "/service", "objects in images that are named by their addresses", _URLS),
        Operation("get", "/healthz", "whether the gateway lives"),
        Operation("get", "/readyz", "whether a server answers, and what is wrong where none does"),
    )


OPERATIONS = _operations()


def document() -> dict[str, Any]:
    """The OpenAPI description."""
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _described(one)
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "thriftserve gateway", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }


def _described(one: Operation) -> dict[str, Any]:
    names = [part[1:].partition("}")[0] for part in one.path.split("/") if part.startswith("{")]
    kinds = {"version": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}
    text = {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"}
    named = [{"name": name, "in": "path", "required": True, "schema": kinds.get(name, text)} for name in names]
    wrong = {"description": "what is wrong", "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    told: dict[str, Any] = {
        "summary": one.summary,
        "parameters": [*named, _TIMEOUT],
        "responses": {"200": {"description": "the answer"}, "default": wrong},
    }
    if one.body is not None:
        schemas = {kind: {"schema": one.body if kind == _JSON else {}} for kind in one.media}
        told["requestBody"] = {"required": True, "content": schemas}
    return told


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

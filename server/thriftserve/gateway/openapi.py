"""The description of the gateway's API, for programs and for people.

OPERATIONS --> document(): OpenAPI 3.1 --> /openapi.json
--> page(): HTML            --> /docs
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from thriftserve import __version__
from thriftserve.gateway.http import MIN_TIMEOUT_S

Schema = dict[str, Any]


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _closed(schema: Schema) -> Schema:
    """Return the schema of an object that has no other members."""
    return {**schema, "additionalProperties": False}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer"}
_ANY_OBJECT: Schema = {"type": "object"}
_BASE64 = _object(("b64",), b64={"type": "string", "contentEncoding": "base64"})
#: 64-bit numbers are text: most JSON parsers read numbers as doubles, which can't hold them.
_VERSION: Schema = {"type": "string", "pattern": "^[0-9]+$"}
_STATE: Schema = {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]}

# Requests

PREDICT: Schema = {
    **_closed(_object(signature_name=_or_null(_TEXT), instances={"type": "array", "minItems": 1}, inputs={})),
    "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    "examples": [
        {"instances": [1.0, 2.0, 5.0]},
        {"signature_name": "serving_default", "inputs": {"x": [1.0, 2.0, 5.0]}},
    ],
}
_FEATURES: Schema = {"type": "object", "additionalProperties": {}}
EXAMPLES: Schema = {
    **_closed(
        _object(
            ("examples",),
            signature_name=_or_null(_TEXT),
            context=_or_null(_FEATURES),
            examples={**_list(_FEATURES), "minItems": 1},
        )
    ),
    "examples": [{"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": [5.0], "n": 1}]}],
}
_IMAGE_BODIES: Schema = {**_list(_BASE64), "minItems": 1}
CLASSIFY: Schema = {
    "anyOf": [
        EXAMPLES,
        _closed(_object(("images",), images=_IMAGE_BODIES, signature_name=_or_null(_TEXT), top_k=_or_null(_WHOLE))),
    ]
}
DETECT: Schema = _closed(
    _object(
        ("images",),
        images=_IMAGE_BODIES,
        signature_name=_or_null(_TEXT),
        min_score=_or_null(_NUMBER),
        max_detections=_or_null(_WHOLE),
    )
)
_TRUTH: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
INFER: Schema = {
    **_object(
        ("inputs",),
        id=_or_null(_TEXT),
        parameters=_or_null(_object(signature_name=_TEXT, binary_data_output=_TRUTH, timeout=_COUNT)),
        inputs=_list(
            _object(
                ("name", "shape", "datatype"),
                name=_TEXT,
                shape=_list(_COUNT),
                datatype=_TEXT,
                parameters=_or_null(_object(binary_data_size=_COUNT)),
                data=_or_null(_list({})),
            )
        ),
        outputs=_or_null(
            _list(
                _object(("name",), name=_TEXT, parameters=_or_null(_object(binary_data=_TRUTH, classification=_COUNT)))
            )
        ),
    ),
    "examples": [{"id": "1", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}]}],
}
URLS: Schema = {**_list(_TEXT), "examples": [["https://example.org/cat.jpg"]]}
#: A form with files; its other fields are options.
FORM: Schema = _object(("image",), image={"type": "string", "contentMediaType": "application/octet-stream"})

# Replies

ERROR = _object(("error",), error=_TEXT)
PREDICTED: Schema = {"oneOf": [_object(("predictions",), predictions=_list({})), _object(("outputs",), outputs={})]}
CLASSIFIED = _object(("results",), results=_list(_list({"type": "array", "minItems": 2, "maxItems": 2})))
REGRESSED = _object(("results",), results=_list({}))
DETECTED = _object(
    ("results",),
    results=_list(
        _object(("width", "height", "detections"), width=_WHOLE, height=_WHOLE, detections=_list(_ANY_OBJECT))
    ),
)
_STATUS = _list(
    _object(
        ("version", "state", "status"),
        version=_VERSION,
        state=_STATE,
        status=_object(("error_code", "error_message"), error_code=_TEXT, error_message=_TEXT),
    )
)
STATUS = _object(("model_version_status",), model_version_status=_STATUS)
MODELS = _object(
    ("models",), models=_list(_object(("name", "model_version_status"), name=_TEXT, model_version_status=_STATUS))
)
METADATA = _object(
    ("model_spec", "metadata"),
    model_spec=_object(("name", "signature_name", "version"), name=_TEXT, signature_name=_TEXT, version=_VERSION),
    metadata=_object(("signature_def",), signature_def=_ANY_OBJECT),
)
V2_SERVER = _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT))
V2_LIVE = _object(("live",), live={"type": "boolean"})
V2_MODEL = _object(
    ("name", "versions", "platform", "inputs", "outputs"),
    name=_TEXT,
    versions=_list(_VERSION),
    platform=_TEXT,
    inputs=_list(_ANY_OBJECT),
    outputs=_list(_ANY_OBJECT),
)
V2_READY = _object(("name", "ready"), name=_TEXT, ready={"type": "boolean"})
INFERRED = _object(
    ("model_name", "model_version", "outputs"), model_name=_TEXT, model_version=_TEXT, outputs=_list(_ANY_OBJECT)
)
FOUND = _list(_object(("imageURL", "detectCells"), imageURL=_TEXT, detectCells=_list(_TEXT), error=_TEXT))
LIVE = _object(("status",), status=_TEXT)
READY = _object(("status", "backends"), status={"enum": ["ok", "degraded", "failed"]}, backends=_list(_ANY_OBJECT))


_JSON = "application/json"
_BINARY = ("application/octet-stream", "application/x-npy", "application/x-npz")
_IMAGES = ("image/*", "multipart/form-data")
_TIMEOUT = {
    "name": "timeout",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "minimum": MIN_TIMEOUT_S},
    "description": "seconds that the request may take",
}


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        reply: schema of its reply in JSON.
        body: schema of its body in JSON; None if it has no body.
        media: media types of the body.
        reply_media: media types of the reply.
        same_on_503: whether a reply with status 503 has the same schema.
    """

    method: str
    path: str
    summary: str
    reply: dict[str, Any]
    body: dict[str, Any] | None = None
    media: tuple[str, ...] = (_JSON,)
    reply_media: tuple[str, ...] = (_JSON,)
    same_on_503: bool = False


def _v1(path: str) -> tuple[Operation, ...]:
    """Return the operations on a model below /v1."""
    numbers = (_JSON, *_BINARY)
    return (
        Operation(
            "post",
            f"{path}:predict",
            "runs a signature on tensors",
            PREDICTED,
            PREDICT,
            media=numbers,
            reply_media=numbers,
        ),
        Operation(
            "post",
            f"{path}:classify",
            "labels and scores of examples or images",
            CLASSIFIED,
            CLASSIFY,
            media=(_JSON, *_IMAGES),
        ),
        Operation("post", f"{path}:regress", "a value for each example", REGRESSED, EXAMPLES),
        Operation("post", f"{path}:detect", "objects in images", DETECTED, DETECT, media=(_JSON, *_IMAGES)),
        Operation("get", path, "the states of its versions", STATUS),
        Operation("get", f"{path}/metadata", "its signatures", METADATA),
    )


def _v2(path: str) -> tuple[Operation, ...]:
    """Return the operations on a model below /v2."""
    raw = (_JSON, _BINARY[0])
    return (
        Operation("get", path, "its inputs and outputs", V2_MODEL),
        Operation("get", f"{path}/ready", "whether it is served", V2_READY),
        Operation("post", f"{path}/infer", "runs it on tensors", INFERRED, INFER, media=raw, reply_media=raw),
    )


def _operations() -> tuple[Operation, ...]:
    which = ("", "/versions/{version}", "/labels/{label}")
    ready = "whether a server answers"
    return (
        Operation("get", "/v1/models", "every model and the states of its versions", MODELS),
        *(operation for middle in which for operation in _v1(f"/v1/models/{{model}}{middle}")),
        Operation("get", "/v2", "name, version and extensions", V2_SERVER),
        Operation("get", "/v2/health/live", "whether the gateway runs", V2_LIVE),
        Operation("get", "/v2/health/ready", ready, READY, same_on_503=True),
        *(operation for middle in which[:2] for operation in _v2(f"/v2/models/{{model}}{middle}")),
        Operation("post", "/service", "objects in images at URLs", FOUND, URLS),
        Operation("get", "/healthz", "whether the gateway runs", LIVE),
        Operation("get", "/readyz", f"{ready}, and each server's error", READY, same_on_503=True),
    )


OPERATIONS = _operations()


def document() -> dict[str, Any]:
    """Return the OpenAPI description."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "thriftserve gateway", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR}},
    }


def _describe(operation: Operation) -> dict[str, Any]:
    names = [part[1:].partition("}")[0] for part in operation.path.split("/") if part.startswith("{")]
    schemas = {"version": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}
    text = {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"}
    path_parameters = [
        {"name": name, "in": "path", "required": True, "schema": schemas.get(name, text)} for name in names
    ]
    error = {"description": "what is wrong", "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    reply = {kind: {"schema": operation.reply} if kind == _JSON else {} for kind in operation.reply_media}
    responses = {"200": {"description": "the reply", "content": reply}, "default": error}
    if operation.same_on_503:
        responses["503"] = {"description": "no server answers", "content": reply}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [*path_parameters, _TIMEOUT],
        "responses": responses,
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {kind: _body(operation.body, kind) for kind in operation.media},
        }
    return described


def _body(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == _JSON:
        return {"schema": schema}
    return {"schema": FORM} if kind == "multipart/form-data" else {}


def page() -> str:
    """Return the description as an HTML page, which loads nothing from elsewhere."""
    rows = "".join(
        f"<tr><td>{row.method.upper()}</td><td><code>{escape(row.path)}</code></td><td>{escape(row.summary)}</td>"
        f"<td>{escape(', '.join(row.media)) if row.body is not None else ''}</td></tr>"
        for row in OPERATIONS
    )
    style = "body{font:16px/1.5 sans-serif;margin:2em}td,th{text-align:left;padding:.3em 1em .3em 0;vertical-align:top}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>thriftserve gateway</title><style>{style}</style>'
        f"<h1>thriftserve gateway {escape(__version__)}</h1>"
        '<p>The description for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"<table><tr><th>method<th>path<th>summary<th>body</tr>{rows}</table></html>"
    )

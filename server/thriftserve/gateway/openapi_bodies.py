"""What bodies look like, as OpenAPI has it: requests with examples, and answers.

openapi.OPERATIONS  -->  a schema of this file for each body  -->  openapi.document()
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _closed(schema: Schema) -> Schema:
    """An object whose other members are refused."""
    return {**schema, "additionalProperties": False}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_WHOLE: Schema = {"type": "integer"}
_ANY_OBJECT: Schema = {"type": "object"}
_BASE64 = _object(("b64",), b64={"type": "string", "contentEncoding": "base64"})
#: 64-bit numbers are text: a double, as most JSON parsers have it, does not hold them.
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
_IMAGES: Schema = {**_list(_BASE64), "minItems": 1}
CLASSIFY: Schema = {
    "anyOf": [
        EXAMPLES,
        _closed(_object(("images",), images=_IMAGES, signature_name=_or_null(_TEXT), top_k=_or_null(_WHOLE))),
    ]
}
DETECT: Schema = _closed(
    _object(
        ("images",),
        images=_IMAGES,
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
#: A form of files; other fields are options.
FORM: Schema = _object(("image",), image={"type": "string", "contentMediaType": "application/octet-stream"})

# Answers

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

"""TensorFlow Serving's classify and regress: examples in, labels and scores or values out.

{"examples": [{feature: value}]} --tf.Example--> signature --> {"results": [[["label", 0.9], …], …]}
| {"results": [1.5, …]}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from thriftserve.gateway.backends import DEFAULT_SIGNATURE, MetadataCache
from thriftserve.gateway.http import SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal
from thriftserve.gateway.json_decode import Types, signature_name
from thriftserve.gateway.json_encode import Array, encode_array
from thriftserve.gateway.json_tensors import check_lossless, from_base64, is_base64, json_type
from thriftserve.gateway.json_text import members, show
from thriftserve.gateway.model_api import ModelApi
from thriftserve_client.results import Prediction, SignatureInfo
from thriftserve_idl.ttypes import DataType, Tensor
from thriftserve_proto.example_pb2 import BytesList, Example, Feature, Features, FloatList, Int64List

_INT64 = range(-(2**63), 2**63)
_INPUT = "inputs"
_MEMBERS = (SIGNATURE, "examples", "context")
_METHODS = {
    "classify": ("classification", "tensorflow/serving/classify"),
    "regress": ("regression", "tensorflow/serving/regress"),
}


class ExampleApi:
    """The endpoints that take tf.Example features."""

    def __init__(self, metadata_cache: MetadataCache, models: ModelApi) -> None:
        self._metadata_cache = metadata_cache
        self._models = models

    async def classify(self, request: HttpRequest, path: ModelPath, document: dict[str, Any]) -> HttpReply:
        """Return labels and scores of each example."""
        outputs, count = await self._run(request, path, document)
        return HttpReply(_classes(outputs, count))

    async def regress(self, request: HttpRequest, path: ModelPath, document: dict[str, Any]) -> HttpReply:
        """Return a value for each example."""
        outputs, count = await self._run(request, path, document)
        return HttpReply(b'{"results":%s}' % encode_array(_values(outputs, count)))

    async def _run(self, request: HttpRequest, path: ModelPath, document: dict[str, Any]) -> tuple[Prediction, int]:
        request.check_query(SIGNATURE)
        document = members(document, _MEMBERS)
        name = signature_name(document) or request.query.get(SIGNATURE)
        examples = serialize_examples(document)
        metadata = await self._metadata_cache.get(path, request.left_s)
        check_signature(metadata.signatures.get(name or DEFAULT_SIGNATURE), name or DEFAULT_SIGNATURE, path.verb)

        async def read(_: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], int]:
            return {_INPUT: Tensor(DataType.STRING, [len(examples)], None, examples)}, len(examples)

        return await self._models.run(request, path, name, read)


def serialize_examples(document: dict[str, Any]) -> list[bytes]:
    """Return one serialized Example for each of a request's examples, with the request's context in each.

    Raises:
        Refusal: There are none, or a feature has a value that no Example carries.
    """
    context = _features(document["context"]) if "context" in document else {}
    if "examples" not in document:
        raise Refusal(
            f"JSON Value: {show(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if type(examples) is not list:
        raise Refusal(f"JSON Value: {show(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise Refusal(f"JSON Value: {show(document)} 'examples' value is an empty array")
    messages = (Example(features=Features(feature={**context, **_features(example)})) for example in examples)
    return [message.SerializeToString(deterministic=True) for message in messages]


def _features(value: Any) -> dict[str, Feature]:
    """Return each feature's message by name."""
    if type(value) is not dict:
        raise Refusal(f"Example must be JSON object but got JSON {json_type(value)}")
    return {
        name.encode("utf-8", "replace").decode(): _feature(name, content if type(content) is list else [content])
        for name, content in value.items()
    }


def _feature(name: str, values: list[Any]) -> Feature:
    kind = ""
    elements = []
    for value in values:
        element_kind, element = _element(name, value)
        if kind not in ("", element_kind):
            raise Refusal(f"Unexpected element type in feature: {name} expecting type: {kind}")
        kind = element_kind
        elements.append(element)
    if kind == "bytes":
        return Feature(bytes_list=BytesList(value=elements))
    if kind == "float":
        return Feature(float_list=FloatList(value=elements))
    return Feature(int64_list=Int64List(value=elements)) if kind else Feature()


def _element(name: str, value: Any) -> tuple[str, Any]:
    """Return the kind of list that a value belongs to, and the value as that list holds it."""
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
        check_lossless(value, DataType.FLOAT)
        return "float", value
    raise Refusal(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")


def check_signature(signature: SignatureInfo | None, name: str, verb: str) -> None:
    """Check that a verb can run a signature.

    Raises:
        Refusal: the signature does not exist, is of another method, or has other inputs or outputs.
    """
    kind, method = _METHODS[verb]
    if signature is None:
        raise Refusal(f"No signature was found with the name: {name}")
    if signature.method_name != method:
        raise Refusal(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise Refusal("Expected one input Tensor.")
    if _INPUT not in signature.inputs:
        raise Refusal(f"No {kind} inputs found in SignatureDef: {', '.join(signature.inputs)}")
    outputs = set(signature.outputs)
    if verb == "regress" and outputs != {"outputs"}:
        raise Refusal(
            "Expected one output Tensor." if len(outputs) != 1 else "No regression outputs found in SignatureDef"
        )
    if verb == "classify" and not (outputs and outputs <= {"classes", "scores"}):
        raise Refusal(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"It has: {', '.join(sorted(outputs))}"
        )


def _classes(outputs: Prediction, count: int) -> bytes:
    """Return the results as JSON: labels and scores of each example; "" or 0 for those that the model lacks."""
    classes, scores = outputs.get("classes"), outputs.get("scores")
    for array in (classes, scores):
        if array is not None and (array.ndim != 2 or array.shape[0] != count):
            raise Refusal(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise Refusal(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    shape = (classes if classes is not None else scores).shape  # type: ignore[union-attr]  # the signature has one of them
    labels = np.full(shape, b"", dtype=object) if classes is None else classes
    numbers = np.zeros(shape, np.float32) if scores is None else scores
    return orjson.dumps({"results": [_pairs(*row) for row in zip(labels.tolist(), numbers, strict=True)]})


def _pairs(labels: list[bytes], scores: Array) -> list[Any]:
    return [
        [label.decode("utf-8", "replace"), orjson.Fragment(encode_array(scores[number : number + 1].reshape(())))]
        for number, label in enumerate(labels)
    ]


def _values(outputs: Prediction, count: int) -> Array:
    (array,) = outputs.values()
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
        raise Refusal(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(array.shape)}"
        )
    if array.shape[0] != count:
        raise Refusal(f"Input batch size did not match output batch size: {count} vs. {array.shape[0]}")
    return array.reshape(-1)

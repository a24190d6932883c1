"""TensorFlow Serving's classify and regress: examples in, labels and scores or values out.

{"examples": [{feature: value}]} --tf.Example--> signature --> {"results": [[["label", 0.9], …], …]}
                                                             | {"results": [1.5, …]}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from thriftserve.gateway.catalog import DEFAULT_SIGNATURE, Catalog
from thriftserve.gateway.examples import serialised
from thriftserve.gateway.exchange import SIGNATURE, Exchange, Reply
from thriftserve.gateway.failures import Refusal
from thriftserve.gateway.json_answers import Array, written
from thriftserve.gateway.json_requests import Types, signature_name
from thriftserve.gateway.json_text import members
from thriftserve.gateway.model_api import ModelApi
from thriftserve.gateway.paths import ModelPath
from thriftserve_client.results import Prediction, SignatureInfo
from thriftserve_idl.ttypes import DataType, Tensor

_INPUT = "inputs"
_MEMBERS = (SIGNATURE, "examples", "context")
_METHODS = {
    "classify": ("classification", "tensorflow/serving/classify"),
    "regress": ("regression", "tensorflow/serving/regress"),
}


class ExampleApi:
    """The endpoints that take tf.Example features."""

    def __init__(self, catalog: Catalog, models: ModelApi) -> None:
        self._catalog = catalog
        self._models = models

    async def classify(self, exchange: Exchange, path: ModelPath, document: dict[str, Any]) -> Reply:
        """Labels and scores of each example."""
        outputs, count = await self._run(exchange, path, document)
        return Reply(_classes(outputs, count))

    async def regress(self, exchange: Exchange, path: ModelPath, document: dict[str, Any]) -> Reply:
        """A value for each example."""
        outputs, count = await self._run(exchange, path, document)
        return Reply(b'{"results":%s}' % written(_values(outputs, count)))

    async def _run(self, exchange: Exchange, path: ModelPath, document: dict[str, Any]) -> tuple[Prediction, int]:
        exchange.check_query(SIGNATURE)
        document = members(document, _MEMBERS)
        name = signature_name(document) or exchange.query.get(SIGNATURE)
        examples = serialised(document)
        described = await self._catalog.describe(path, exchange.left_s)
        check(described.signatures.get(name or DEFAULT_SIGNATURE), name or DEFAULT_SIGNATURE, path.verb)

        async def read(_: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], int]:
            return {_INPUT: Tensor(DataType.STRING, [len(examples)], None, examples)}, len(examples)

        return await self._models.run(exchange, path, name, read)


def check(signature: SignatureInfo | None, name: str, verb: str) -> None:
    """Whether a signature is one that the verb takes.

    Raises:
        Refusal: it is not there, of another method, or has other inputs or outputs.
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
    """For each example its classes' labels and scores; "" and 0 stand for what the model does not give."""
    classes, scores = outputs.get("classes"), outputs.get("scores")
    for array in (classes, scores):
        if array is not None and (array.ndim != 2 or array.shape[0] != count):
            raise Refusal(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise Refusal(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    shape = (classes if classes is not None else scores).shape  # type: ignore[union-attr]  # one of them is there
    labels = np.full(shape, b"", dtype=object) if classes is None else classes
    numbers = np.zeros(shape, np.float32) if scores is None else scores
    return orjson.dumps({"results": [_pairs(*row) for row in zip(labels.tolist(), numbers, strict=True)]})


def _pairs(labels: list[bytes], scores: Array) -> list[Any]:
    return [
        [label.decode("utf-8", "replace"), orjson.Fragment(written(scores[number : number + 1].reshape(())))]
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

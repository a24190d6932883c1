"""The published stack's HTTP application: Flask takes JSON and asks the model server by gRPC.

    {"instances": [{"words": […], "nwords": n}, …]}  -->  PredictRequest  --gRPC-->  {"predictions": [{…}, …]}

gunicorn runs `make_app()` in each of its workers, with the model server's HOST:PORT in the variable TARGET.
"""

from __future__ import annotations

import os
from typing import Any

from thriftserve_bench.http.prediction_service import METHOD, messages
from thriftserve_bench.http.question import MODEL, PATH

TARGET = "PUBLISHED_STACK_GRPC"
_TIMEOUT_S = 30.0


def make_app() -> Any:
    """The application, its channel open."""
    import grpc
    from flask import Flask, jsonify, request

    make_request, response = messages()
    call = grpc.insecure_channel(os.environ[TARGET]).unary_unary(
        METHOD, request_serializer=make_request.SerializeToString, response_deserializer=response.FromString
    )
    app = Flask(__name__)

    def predict() -> Any:
        answer = call(_asked(make_request, request.get_json()["instances"]), timeout=_TIMEOUT_S)
        return jsonify({"predictions": _rows(answer)})

    app.add_url_rule(PATH, view_func=predict, methods=["POST"])
    return app


def _asked(make_request: Any, instances: list[dict[str, Any]]) -> Any:
    import tensorflow as tf

    asked = make_request()
    asked.model_spec.name = MODEL
    for name, dtype in (("words", tf.string), ("nwords", tf.int32)):
        column = [row[name] for row in instances]
        asked.inputs[name].CopyFrom(tf.make_tensor_proto(column, dtype=dtype))
    return asked


def _rows(answer: Any) -> list[dict[str, Any]]:
    import tensorflow as tf

    outputs = {name: tf.make_ndarray(one).tolist() for name, one in answer.outputs.items()}
    outputs["labels"] = [label.decode() for label in outputs["labels"]]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]

"""The published stack's HTTP application: Flask takes JSON and calls the model server by gRPC.

    {"instances": [{"words": […], "nwords": n}, …]}  -->  PredictRequest  --gRPC-->  {"predictions": [{…}, …]}

gunicorn runs `make_app()` in each of its workers, and this module as its configuration:

    gunicorn -c python:thriftserve_bench.servers.flask_app thriftserve_bench.servers.flask_app:make_app()

The environment has the model server's HOST:PORT in PUBLISHED_STACK_GRPC, and in PUBLISHED_STACK_READY a directory in
which each worker leaves a file once it is ready; the last one prints a ready line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from thriftserve_bench.servers.prediction_service import METHOD, messages
from thriftserve_bench.workloads.text_request import MODEL, PATH

_TIMEOUT_S = 30.0


def make_app() -> Any:
    """Return the application, its channel open."""
    import grpc
    from flask import Flask, jsonify, request

    request_class, response_class = messages()
    call = grpc.insecure_channel(os.environ["PUBLISHED_STACK_GRPC"]).unary_unary(
        METHOD, request_serializer=request_class.SerializeToString, response_deserializer=response_class.FromString
    )
    app = Flask(__name__)

    def predict() -> Any:
        response = call(_encode(request_class(), request.get_json()["instances"]), timeout=_TIMEOUT_S)
        return jsonify({"predictions": _rows(response)})

    app.add_url_rule(PATH, view_func=predict, methods=["POST"])
    return app


def _encode(request: Any, instances: list[dict[str, Any]]) -> Any:
    import tensorflow as tf

    request.model_spec.name = MODEL
    for name, dtype in (("words", tf.string), ("nwords", tf.int32)):
        column = [row[name] for row in instances]
        request.inputs[name].CopyFrom(tf.make_tensor_proto(column, dtype=dtype))
    return request


def _rows(response: Any) -> list[dict[str, Any]]:
    import tensorflow as tf

    outputs = {name: tf.make_ndarray(tensor).tolist() for name, tensor in response.outputs.items()}
    outputs["labels"] = [label.decode() for label in outputs["labels"]]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]


def post_worker_init(worker: Any) -> None:
    """Note that a worker has its application; gunicorn calls it there."""
    directory = Path(os.environ["PUBLISHED_STACK_READY"])
    (directory / str(worker.pid)).touch()
    if len(list(directory.iterdir())) >= worker.cfg.workers:
        host, port = worker.sockets[0].getsockname()
        print(f"gunicorn ready host={host} port={port} pid={worker.ppid}", flush=True)

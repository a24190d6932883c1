"""The published stack's model server: a SavedModel behind gRPC, as its user writes it in Python.

python -m thriftserve_bench.http.grpc_host MODEL/1  -->  a ready line;  PredictRequest --signature--> PredictResponse
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from thriftserve_bench.http.prediction_service import METHOD, messages
from thriftserve_bench.peers.host_flags import announce

_THREADS = 10


class Handler(grpc.GenericRpcHandler):
    """Answers METHOD by the default signature of a model."""

    def __init__(self, path: str) -> None:
        import tensorflow as tf

        self._tf = tf
        self._request, self._response = messages()
        self._loaded = tf.saved_model.load(path)
        self._signature = self._loaded.signatures["serving_default"]

    def service(self, details: Any) -> Any:
        """The handler of a method; None: unknown."""
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._predict,
            request_deserializer=self._request.FromString,
            response_serializer=self._response.SerializeToString,
        )

    def _predict(self, request: Any, _: Any) -> Any:
        tf = self._tf
        given = {name: tf.constant(tf.make_ndarray(one)) for name, one in request.inputs.items()}
        response = self._response()
        for name, output in self._signature(**given).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(output.numpy()))
        return response


def main() -> int:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a version directory")
    flags = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers((Handler(flags.model),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(port)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A model behind grpcio, as its users write it in Python: its thread pool, one process.

    python -m thriftserve_bench.servers.grpc_host tensor MODEL/1    messages are the content itself
    python -m thriftserve_bench.servers.grpc_host text MODEL/1      PredictRequest --signature--> PredictResponse

Each prints a ready line. The second is the model server of the published HTTP stack.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from thriftserve_bench.servers import prediction_service
from thriftserve_bench.servers.host_flags import announce, parse_model_flags
from thriftserve_bench.workloads.user_model import UserModel

#: The one method of the first kind. Without protobuf around the content, which would only cost more.
CONTENT_METHOD = "/peers.Model/Predict"
#: The job of the second kind.
TEXT = "text"


class Handler(grpc.GenericRpcHandler):
    """Answers one method.

    Args:
        method: its full name.
        rpc: the handler of the method.
    """

    def __init__(self, method: str, rpc: Any) -> None:
        self._method = method
        self._rpc = rpc

    def service(self, details: Any) -> Any:
        """Return the handler of a method, or None if it is unknown."""
        return self._rpc if details.method == self._method else None


def content_handler(model: UserModel) -> Handler:
    """Return a handler whose messages are contents of a job."""

    def predict(content: bytes, _: Any) -> bytes:
        return model.encode(model.run(model.decode(content)))

    return Handler(CONTENT_METHOD, grpc.unary_unary_rpc_method_handler(predict))


def text_handler(path: str) -> Handler:
    """Return a handler with TensorFlow Serving's messages, by the default signature of a version directory."""
    import tensorflow as tf

    request_class, response_class = prediction_service.messages()
    model = tf.saved_model.load(path)
    signature = model.signatures["serving_default"]

    def predict(request: Any, _: Any) -> Any:
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = response_class()
        for name, output in signature(**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(output.numpy()))
        return response

    decode: Callable[[bytes], Any] = request_class.FromString
    rpc = grpc.unary_unary_rpc_method_handler(
        predict, request_deserializer=decode, response_serializer=response_class.SerializeToString
    )
    return Handler(prediction_service.METHOD, rpc)


def main() -> int:
    """Serve until killed."""
    flags = parse_model_flags(__doc__)
    if flags.job == TEXT:
        handler = text_handler(flags.model)
    else:
        handler = content_handler(UserModel(flags.job, flags.model, flags.intra_op_threads))
    server = grpc.server(ThreadPoolExecutor(flags.threads))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(port)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())

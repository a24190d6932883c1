"""The model behind grpcio: its thread pool, one process, messages that are the content itself.

python -m thriftserve_bench.peers.grpc_host tensor MODEL/1  -->  a ready line
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from thriftserve_bench.peers.host_flags import announce, parse_host_flags
from thriftserve_bench.peers.user_model import UserModel

#: The one method. Without protobuf around the content, which would only cost more.
METHOD = "/peers.Model/Predict"


class Handler(grpc.GenericRpcHandler):
    """Answers METHOD."""

    def __init__(self, model: UserModel) -> None:
        self._model = model

    def service(self, details: Any) -> Any:
        """The handler of a method; None: unknown."""
        return grpc.unary_unary_rpc_method_handler(self._predict) if details.method == METHOD else None

    def _predict(self, content: bytes, _: Any) -> bytes:
        model = self._model
        return model.encode(model.run(model.decode(content)))


def main() -> int:
    """Serves until it is killed."""
    flags = parse_host_flags(__doc__)
    server = grpc.server(ThreadPoolExecutor(flags.threads))
    server.add_generic_rpc_handlers((Handler(UserModel(flags.job, flags.model, flags.intra_op_threads)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(port)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The model behind LitServe: FastAPI before worker processes, JSON bodies.

python -m thriftserve_bench.servers.litserve_host tensor MODEL/1 --workers 2 --batch 4  -->  a ready line
"""

# LitServe reads the annotation of decode_request: no `from __future__ import annotations` here.

import argparse
import base64
import sys
from typing import Any

import litserve
import numpy as np

from thriftserve_bench.servers.host_flags import announce, free_port, parse_model_flags
from thriftserve_bench.workloads.user_model import UserModel

_WAIT_S = 0.001


class Model(litserve.LitAPI):
    """A request's way: decode_request, (batch), predict, (unbatch), encode_response."""

    def __init__(self, flags: argparse.Namespace) -> None:
        batching = {"max_batch_size": flags.batch, "batch_timeout": _WAIT_S} if flags.batch > 1 else {}
        super().__init__(**batching)
        self._flags = flags
        self._model: UserModel

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self._model = UserModel(self._flags.job, self._flags.model, self._flags.intra_op_threads)

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Decode JSON into rows."""
        if self._flags.job == "tiny":
            return np.array(request["x"], np.float32)
        return self._model.decode(base64.b64decode(request["content"]))

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave the rows of a batch a list: requests may have more than one."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Run rows, or a batch of them."""
        return self._model.run_batch(x) if isinstance(x, list) else self._model.run(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return the outputs, one for each request."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Encode output rows as JSON."""
        if self._flags.job == "tiny":
            return {"y": output.tolist()}
        return {"content": base64.b64encode(self._model.encode(output)).decode()}


def main() -> int:
    """Serve until SIGTERM."""
    flags = parse_model_flags(__doc__)
    port = free_port()
    server = litserve.LitServer(Model(flags), accelerator="cpu", workers_per_device=flags.workers)
    announce(port)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

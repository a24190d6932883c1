"""The model behind mosec: its HTTP front in Rust, worker processes in Python, bodies that are the content itself.

python -m thriftserve_bench.servers.mosec_host tensor MODEL/1 --workers 2 --batch 4  -->  a ready line
"""

from __future__ import annotations

import os
import sys
from typing import Any

from mosec import Server, Worker

from thriftserve_bench.servers.host_flags import announce, free_port, parse_model_flags
from thriftserve_bench.workloads.user_model import UserModel

#: Its shortest wait for a batch.
_WAIT_MS = 1
_TIMEOUT_MS = 20_000


class Model(Worker):
    """A worker process; `forward` gets a list if batches are on."""

    def __init__(self) -> None:
        super().__init__()
        # Workers are started anew and get no arguments: the parent's flags come in the environment.
        self._model = UserModel(os.environ["PEER_JOB"], os.environ["PEER_MODEL"], int(os.environ["PEER_INTRA"]))

    def deserialize(self, data: bytes) -> Any:
        """Decode a body into rows."""
        return self._model.decode(data)

    def serialize(self, data: Any) -> bytes:
        """Encode output rows as a body."""
        return self._model.encode(data)

    def forward(self, data: Any) -> Any:
        """Run rows, or a batch of them."""
        return self._model.run_batch(data) if isinstance(data, list) else self._model.run(data)


def main() -> int:
    """Serve until SIGTERM."""
    flags = parse_model_flags(__doc__)
    os.environ |= {"PEER_JOB": flags.job, "PEER_MODEL": flags.model, "PEER_INTRA": str(flags.intra_op_threads)}
    port = free_port()
    # It reads the command line itself.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    sys.argv += ["--timeout", str(_TIMEOUT_MS)]
    server = Server()
    server.append_worker(Model, num=flags.workers, max_batch_size=flags.batch, max_wait_time=_WAIT_MS)
    announce(port)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command lines of host programs, and their ready lines.

argv  --parse_service_flags-->  server type, processes, threads, limit, workload, cores    of an echo or a workload
argv  --parse_model_flags-->    job, model, workers, batch, threads                        of a peer's model server
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence

from thriftserve_bench.servers import WITH_THREADS, WITH_WORKERS

#: Room for 32 x 224 x 224 x 3 float32 (19,267,584 bytes) and what is around it.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024


def _parser(description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse_service_flags(description: str | None, server_types: Sequence[str]) -> argparse.Namespace:
    """Read `sys.argv` of a host of an echo or a workload, and keep this process to its cores."""
    parser = _parser(description)
    parser.add_argument("server_type", choices=server_types)
    parser.add_argument("--workers", type=int, default=4, help=f"processes of {' and '.join(WITH_WORKERS)}")
    parser.add_argument("--threads", type=int, default=10, help=f"threads of {' and '.join(WITH_THREADS)}")
    parser.add_argument("--max-message-bytes", type=int, default=MAX_MESSAGE_BYTES)
    parser.add_argument(
        "--workload", metavar="SOURCE", help="serve package.module:Class?option=value (default: the echo service)"
    )
    parser.add_argument("--cores", help="cores to run on, like 1,2,3 (default: all)")
    flags = parser.parse_args()
    if flags.cores:
        os.sched_setaffinity(0, {int(core) for core in flags.cores.split(",")})
    return flags


def parse_model_flags(description: str | None) -> argparse.Namespace:
    """Read `sys.argv` of a peer's model server."""
    parser = _parser(description)
    parser.add_argument("job")
    parser.add_argument("model", help="a version directory")
    parser.add_argument("--server-type", default="TThreadedServer", help="of Apache's classes")
    parser.add_argument("--workers", type=int, default=1, help="processes with a model each")
    parser.add_argument("--batch", type=int, default=1, help="most requests of one run")
    parser.add_argument("--threads", type=int, default=10, help="handler threads, if there is a pool of them")
    parser.add_argument("--intra-op-threads", type=int, default=0, help="of TensorFlow; 0: its own choice")
    # Its C++ part would log about each worker's CPU otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    return parser.parse_args()


def free_port() -> int:
    """Return a port that was free a moment ago, for servers that can't say which one the kernel picked."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def announce(port: int) -> None:
    """Print the ready line; requests are tried until one is answered, so it may come early."""
    print(f"peer ready host=127.0.0.1 port={port}", flush=True)

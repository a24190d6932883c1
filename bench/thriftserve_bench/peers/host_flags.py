"""The flags of every peer's server program, and its ready line.

argv  -->  job, model, port, workers, batch, threads  -->  (the peer's own set-up)
"""

from __future__ import annotations

import argparse
import os
import socket


def parse_host_flags(description: str | None) -> argparse.Namespace:
    """Reads `sys.argv`; wrong flags leave through SystemExit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("model", help="a version directory")
    parser.add_argument("--server-type", default="TThreadedServer", help="of Apache's classes")
    parser.add_argument("--workers", type=int, default=1, help="processes with a model each")
    parser.add_argument("--batch", type=int, default=1, help="most requests of one run")
    parser.add_argument("--threads", type=int, default=10, help="handler threads, where there is a pool of them")
    parser.add_argument("--intra-op-threads", type=int, default=0, help="of TensorFlow; 0: its own choice")
    # Its C++ part would tell about each worker's CPU otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    return parser.parse_args()


def free_port() -> int:
    """A port that was free a moment ago, for servers that can't tell which one the kernel picked."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def announce(port: int) -> None:
    """The ready line; requests are tried until one is answered, so it may come early."""
    print(f"peer ready host=127.0.0.1 port={port}", flush=True)

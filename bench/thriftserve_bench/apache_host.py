"""The echo service, or a workload, on Apache's own class of a name, as a process of its own.

    python -m thriftserve_bench.apache_host TThreadPoolServer --workers 4 --threads 10  -->  a ready line

Set up as its users would for speed: the C protocol without fallback, framed transport; limits raised as far
as the largest payload needs.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.server import TServer
from thrift.server.TNonblockingServer import TNonblockingServer
from thrift.server.TProcessPoolServer import TProcessPoolServer
from thrift.transport.TSocket import TServerSocket
from thrift.transport.TTransport import TFramedTransportFactory

from thriftserve_bench.host_flags import parse_host_flags, processor_of
from thriftserve_bench.server_types import APACHE_TYPES


class AnnouncedSocket(TServerSocket):
    """A listening socket on a port of the kernel's choice, told on stdout once it listens."""

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=0)

    def listen(self) -> None:
        super().listen()
        print(f"apache ready host=127.0.0.1 port={self.handle.getsockname()[1]}", flush=True)


def make_server(flags: Namespace) -> Any:
    """Apache's server of that type."""
    processor = processor_of(flags)
    protocol = TBinaryProtocolAcceleratedFactory(string_length_limit=flags.max_message_bytes, fallback=False)
    if flags.server_type == "TNonblockingServer":
        server = TNonblockingServer(
            processor,
            AnnouncedSocket(),
            protocol,
            threads=flags.threads,
            max_frame_size=flags.max_message_bytes,
        )
        server.prepare()
        return server
    transport = TFramedTransportFactory(max_frame_size=flags.max_message_bytes)
    classes = {"TProcessPoolServer": TProcessPoolServer}
    cls = classes.get(flags.server_type) or getattr(TServer, flags.server_type)
    server = cls(processor, AnnouncedSocket(), transport, protocol)
    if flags.server_type == "TThreadPoolServer":
        server.setNumThreads(flags.threads)
    if flags.server_type == "TProcessPoolServer":
        server.setNumWorkers(flags.workers)
    return server


def main() -> int:
    """Serves until it is killed: Apache's classes have no other end."""
    make_server(parse_host_flags(__doc__, APACHE_TYPES)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())

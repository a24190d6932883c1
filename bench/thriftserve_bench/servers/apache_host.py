"""The echo service, or a workload, on Apache's own class of a name, as a process of its own.

    python -m thriftserve_bench.servers.apache_host TThreadPoolServer --workers 4 --threads 10  -->  a ready line

It is set up as its users would for speed: the C protocol without fallback, framed transport; limits raised as far
as the largest payload needs.
"""

from __future__ import annotations

import sys
from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.server import TServer
from thrift.server.TNonblockingServer import TNonblockingServer
from thrift.server.TProcessPoolServer import TProcessPoolServer
from thrift.transport.TSocket import TServerSocket
from thrift.transport.TTransport import TFramedTransportFactory

from thriftserve_bench.servers import APACHE_TYPES
from thriftserve_bench.servers.host_flags import parse_service_flags
from thriftserve_bench.servers.services import make_processor


class AnnouncedSocket(TServerSocket):
    """A listening socket on a port of the kernel's choice, announced on stdout once it listens."""

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=0)

    def listen(self) -> None:
        super().listen()
        print(f"apache ready host=127.0.0.1 port={self.handle.getsockname()[1]}", flush=True)


def make_server(
    server_type: str, processor: Any, *, workers: int, threads: int, max_message_bytes: int | None = None
) -> Any:
    """Return Apache's server of a type.

    Args:
        server_type: a name of APACHE_TYPES.
        processor: the generated processor.
        workers: processes of TProcessPoolServer.
        threads: of TThreadPoolServer and TNonblockingServer.
        max_message_bytes: None: Apache's own limits.
    """
    strings = {"string_length_limit": max_message_bytes} if max_message_bytes else {}
    frames = {"max_frame_size": max_message_bytes} if max_message_bytes else {}
    protocol = TBinaryProtocolAcceleratedFactory(fallback=False, **strings)
    if server_type == "TNonblockingServer":
        server = TNonblockingServer(processor, AnnouncedSocket(), protocol, threads=threads, **frames)
        server.prepare()
        return server
    transport = TFramedTransportFactory(**frames)
    classes = {"TProcessPoolServer": TProcessPoolServer}
    server_class = classes.get(server_type) or getattr(TServer, server_type)
    server = server_class(processor, AnnouncedSocket(), transport, protocol)
    if server_type == "TThreadPoolServer":
        server.setNumThreads(threads)
    if server_type == "TProcessPoolServer":
        server.setNumWorkers(workers)
    return server


def main() -> int:
    """Serve until killed: Apache's classes have no other end."""
    flags = parse_service_flags(__doc__, APACHE_TYPES)
    make_server(
        flags.server_type,
        make_processor(flags.workload),
        workers=flags.workers,
        threads=flags.threads,
        max_message_bytes=flags.max_message_bytes,
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())

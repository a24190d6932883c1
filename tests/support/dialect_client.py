"""Apache's own clients of each dialect that a THeader server speaks."""

from __future__ import annotations

from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.protocol.TCompactProtocol import TCompactProtocolAccelerated
from thrift.protocol.THeaderProtocol import THeaderProtocol
from thrift.transport.THeaderTransport import THeaderClientType, THeaderSubprotocolID, THeaderTransformID
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TFramedTransport

from hosting import Hosted
from services.gen.calculator import Calculator


def header_over(sock: Any, dialect: str) -> Any:
    """Apache's THeader protocol as a client has it."""
    compact = dialect == "header-compact"
    chosen = THeaderSubprotocolID.COMPACT if compact else THeaderSubprotocolID.BINARY
    protocol = THeaderProtocol(sock, (THeaderClientType.HEADERS,), chosen)
    if dialect == "header-zlib":
        protocol.add_transform(THeaderTransformID.ZLIB)
    return protocol


class DialectClient:
    """Apache's client of one dialect."""

    def __init__(self, server: Hosted, dialect: str) -> None:
        sock = TSocket(*server.address)
        sock.setTimeout(30_000)
        self._sock = sock
        if dialect == "binary":
            protocol = TBinaryProtocolAccelerated(TFramedTransport(sock))
        elif dialect == "compact":
            protocol = TCompactProtocolAccelerated(TFramedTransport(sock))
        else:
            protocol = header_over(sock, dialect)
        self._client = Calculator.Client(protocol)

    def __enter__(self) -> Any:
        self._sock.open()
        return self._client

    def __exit__(self, *_: object) -> None:
        self._sock.close()

"""Protocols that remember how far into a message their reader got.

    readMessageBegin --> header          readMessageEnd --> decoded

An `Exchange` tells by it what a failure means: a peer of another language, a broken message, or a handler.
"""

from __future__ import annotations

from typing import Any

from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TMessageType

from thriftserve_client.wire import BinaryProtocol, CompactProtocol

_CALLS = (TMessageType.CALL, TMessageType.ONEWAY)


class Recording:
    """What the reading side of every protocol does besides reading."""

    header: tuple[str, int, int] | None = None
    decoded = False

    def begin(self, source: Any) -> None:
        """A message is to be read from `source`."""
        self.trans = source
        self.container_length_limit = source.size  # an item takes a byte at least
        self.header = None
        self.decoded = False

    def readMessageBegin(self) -> tuple[str, int, int]:
        header: tuple[str, int, int] = super().readMessageBegin()  # type: ignore[misc]  # the protocol's
        if header[1] not in _CALLS:
            raise TProtocolException(TProtocolException.INVALID_DATA, f"message type {header[1]} is no call")
        self.header = header
        return header

    def readMessageEnd(self) -> None:
        super().readMessageEnd()  # type: ignore[misc]  # the protocol's
        self.decoded = True


class BinaryInput(Recording, BinaryProtocol):
    """The binary protocol's reading side, which every usual request goes through: no call too many."""

    def readMessageBegin(self) -> tuple[str, int, int]:
        header = BinaryProtocol.readMessageBegin(self)
        if header[1] not in _CALLS:
            raise TProtocolException(TProtocolException.INVALID_DATA, f"message type {header[1]} is no call")
        self.header = header
        return header

    def readMessageEnd(self) -> None:
        self.decoded = True  # the protocol itself has nothing to do here


class CompactInput(Recording, CompactProtocol):
    """The compact protocol's reading side."""

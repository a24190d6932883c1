"""Protocols that remember how far into a message their reader got.

    readMessageBegin --> header          readMessageEnd --> decoded

An `Exchange` tells by it what a failure means: a peer of another language, a broken message, or a handler.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TMessageType

from thriftserve_client.wire import BinaryProtocol, CompactProtocol


class Recording:
    """What the reading side of every protocol does besides reading."""

    header: tuple[str, int, int] | None
    decoded = False
    _kinds: Container[int] = (TMessageType.CALL, TMessageType.ONEWAY)

    def begin(self, source: Any) -> None:
        """A message is to be read from `source`."""
        self.trans = source
        self.container_length_limit = source.size  # an item takes a byte at least
        self.header = None
        self.decoded = False

    def readMessageBegin(self) -> tuple[str, int, int]:
        header: tuple[str, int, int] = super().readMessageBegin()  # type: ignore[misc]  # the protocol's
        if header[1] not in self._kinds:
            raise TProtocolException(TProtocolException.INVALID_DATA, f"message type {header[1]} is not expected here")
        self.header = header
        return header

    def readMessageEnd(self) -> None:
        super().readMessageEnd()  # type: ignore[misc]  # the protocol's
        self.decoded = True


class BinaryInput(Recording, BinaryProtocol):
    """The binary protocol's reading side."""

    readMessageBegin = BinaryProtocol.readMessageBegin  # it records by itself

    def readMessageEnd(self) -> None:
        self.decoded = True  # the protocol itself has nothing to do here


class CompactInput(Recording, CompactProtocol):
    """The compact protocol's reading side."""

"""Calls to bytes, and bytes to results. No sockets; the blocking and the asynchronous connection share it.

(method, values) --encode_call--> segments        Frame | Stream --decode_reply--> result | error
"""

from __future__ import annotations

from typing import Any

from thrift.Thrift import TApplicationException, TMessageType

from thriftserve_client.errors import MessageTooLarge, ProtocolMismatch, ServerError
from thriftserve_client.wire.protocols import Outgoing, make_protocol
from thriftserve_idl import ModelControl, Predict
from thriftserve_idl.ttypes import ErrorCode

_VOID = object()


def _struct(name: str) -> Any:
    """Return the class of a method's arguments or result; no name is in both services."""
    return getattr(Predict, name, None) or getattr(ModelControl, name)


class CallCodec:
    """Encodes the calls of one connection and decodes their replies, one call after the other.

    Args:
        protocol: "binary" or "compact".
        max_message_bytes: limit on a request or reply.
        server: the server's address, for messages.
        wire_format: transport and protocol, for messages.

    Attributes:
        answered: whether a reply of this contract was received.
    """

    def __init__(self, protocol: str, max_message_bytes: int, server: str, wire_format: str) -> None:
        # One for each direction, reused: a protocol object refers to itself, so each would wait for the collector.
        self._outgoing = Outgoing()
        self._writer = make_protocol(protocol, self._outgoing, max_message_bytes)
        self._reader = make_protocol(protocol, None, max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._server = server
        self._wire_format = wire_format
        self._seqid = 0
        self.answered = False

    def encode_call(self, method: str, values: tuple[Any, ...]) -> list[bytes]:
        """Return the message that calls a method of the contract, in segments.

        Raises:
            MessageTooLarge: the message exceeds the limit.
        """
        self._seqid = self._seqid % 0x7FFFFFFF + 1
        self._writer.writeMessageBegin(method, TMessageType.CALL, self._seqid)
        _struct(method + "_args")(*values).write(self._writer)
        self._writer.writeMessageEnd()
        parts = self._outgoing.take()
        size = sum(map(len, parts))
        if size > self._max_message_bytes:
            raise MessageTooLarge(f"the request has {size} bytes; max_message_bytes is {self._max_message_bytes}")
        return parts

    def decode_reply(self, source: Any, method: str) -> Any:
        """Return the result of the last call.

        Args:
            source: the Frame or Stream with the reply.
            method: the name of the method.

        Raises:
            ServerError: the reply is an error.
            ProtocolMismatch: the message is not a reply to this call.
            Exception: the decoders fail on the bytes; see `undecodable`.
        """
        self._reader.trans = source
        self._reader.container_length_limit = source.size  # an item has at least a byte
        try:
            return self._read(self._reader, method)
        finally:
            self._reader.trans = None  # or an idle connection would keep its last reply in memory

    def _read(self, protocol: Any, method: str) -> Any:
        name, kind, seqid = protocol.readMessageBegin()
        if kind not in (TMessageType.REPLY, TMessageType.EXCEPTION) or seqid != self._seqid:
            raise self.mismatch(f"message type {kind} number {seqid}, expected the reply to number {self._seqid}")
        self.answered = True
        if kind == TMessageType.EXCEPTION:
            error = TApplicationException()
            error.read(protocol)
            raise self._application_error(error, method)
        result = _struct(method + "_result")()
        result.read(protocol)
        protocol.readMessageEnd()
        return self._unwrap(result, name)

    def mismatch(self, reason: str) -> ProtocolMismatch:
        """Return the error for a reply that is not of this contract."""
        return ProtocolMismatch(
            f"{self._server} did not answer as a thriftserve server does ({reason}). Check the port, that the server "
            f"uses {self._wire_format}, and for large replies max_message_bytes={self._max_message_bytes}"
        )

    def undecodable(self, error: Exception) -> ProtocolMismatch:
        """Return the error for a reply that a decoder failed on.

        The decoders raise TProtocolException, EOFError, ValueError, UnicodeDecodeError or MemoryError, depending on the
        bytes. Each means that this is not a reply.
        """
        return self.mismatch(f"{type(error).__name__}: {error}")

    def _unwrap(self, result: Any, method: str) -> Any:
        if result.error is not None:
            raise ServerError.of(result.error.code, result.error.message, result.error.retryable)
        success = getattr(result, "success", _VOID)
        if success is None:
            raise self.mismatch(f"the reply to {method} has neither a result nor an error")
        return None if success is _VOID else success

    def _application_error(self, error: TApplicationException, method: str) -> Exception:
        """Return the error for a TApplicationException, which comes from Thrift's own layer, not from the handler."""
        text = error.message or "no message"
        if error.type == TApplicationException.UNKNOWN_METHOD:
            return ServerError.of(ErrorCode.UNIMPLEMENTED, f"the server does not know {method}: {text}", False)
        if error.type in (TApplicationException.INTERNAL_ERROR, TApplicationException.UNKNOWN):
            return ServerError.of(ErrorCode.INTERNAL, text, False)
        return self.mismatch(f"the server did not understand the call: {text}")

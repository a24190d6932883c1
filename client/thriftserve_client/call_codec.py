"""Calls and their answers as bytes: what a connection says, and what it makes of what comes back. No sockets.

    (method, values) --ask--> segments          Frame | Stream --answer--> what the method returned, or an error

The blocking and the asynchronous connection share it.
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
    """The arguments or the result of a method; no name is in both services."""
    return getattr(Predict, name, None) or getattr(ModelControl, name)


class Dialogue:
    """One connection's calls, numbered; the next one is asked when the last one is answered.

    Args:
        protocol: "binary" or "compact".
        max_message_bytes: the largest request or answer.
        whom: the server's address, for messages.
        words: the transport and protocol, for messages.

    Attributes:
        answered: whether an answer of this contract has come on it.
    """

    def __init__(self, protocol: str, max_message_bytes: int, whom: str, words: str) -> None:
        # One each way, kept: a protocol object knows itself by its methods, so each would wait for the collector.
        self._outgoing = Outgoing()
        self._writer = make_protocol(protocol, self._outgoing, max_message_bytes)
        self._reader = make_protocol(protocol, None, max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._whom = whom
        self._words = words
        self._seqid = 0
        self.answered = False

    def ask(self, method: str, values: tuple[Any, ...]) -> list[bytes]:
        """The message that calls a method of the contract, in segments.

        Raises:
            MessageTooLarge: it exceeds the limit.
        """
        self._seqid = self._seqid % 0x7FFFFFFF + 1
        self._writer.writeMessageBegin(method, TMessageType.CALL, self._seqid)
        _struct(method + "_args")(*values).write(self._writer)
        self._writer.writeMessageEnd()
        parts = self._outgoing.take()
        size = sum(map(len, parts))
        if size > self._max_message_bytes:
            raise MessageTooLarge(f"the request takes {size} bytes; max_message_bytes is {self._max_message_bytes}")
        return parts

    def answer(self, source: Any, method: str) -> Any:
        """What the method that was asked for last returned.

        Args:
            source: where a protocol reads the message from.
            method: its name.

        Raises:
            ServerError: the answer was an error.
            ProtocolMismatch: it was no answer to this call.
            Exception: what the decoders made of bytes that are no message; see `mismatch`.
        """
        self._reader.trans = source
        self._reader.container_length_limit = source.size  # an item takes a byte at least
        try:
            return self._read(self._reader, method)
        finally:
            self._reader.trans = None  # or an idle connection would keep its last answer

    def _read(self, protocol: Any, method: str) -> Any:
        name, kind, seqid = protocol.readMessageBegin()
        if kind not in (TMessageType.REPLY, TMessageType.EXCEPTION) or seqid != self._seqid:
            raise self.mismatch(f"message type {kind} number {seqid}, expected the reply to number {self._seqid}")
        self.answered = True
        if kind == TMessageType.EXCEPTION:
            refusal = TApplicationException()
            refusal.read(protocol)
            raise self._refused(refusal, method)
        result = _struct(method + "_result")()
        result.read(protocol)
        protocol.readMessageEnd()
        return self._unwrap(result, name)

    def mismatch(self, what: str) -> ProtocolMismatch:
        """The error that says that what came is not of this contract."""
        return ProtocolMismatch(
            f"{self._whom} did not answer as a thriftserve server does ({what}). Check the port, that the server "
            f"uses {self._words}, and for large answers max_message_bytes={self._max_message_bytes}"
        )

    def undecodable(self, error: Exception) -> ProtocolMismatch:
        """The same, of an answer that a decoder failed on.

        The decoders raise whatever the bytes lead them to: TProtocolException, EOFError, ValueError,
        UnicodeDecodeError, MemoryError. All mean that this was no answer.
        """
        return self.mismatch(f"{type(error).__name__}: {error}")

    def _unwrap(self, result: Any, method: str) -> Any:
        if result.error is not None:
            raise ServerError.of(result.error.code, result.error.message, result.error.retryable)
        success = getattr(result, "success", _VOID)
        if success is None:
            raise self.mismatch(f"the answer to {method} holds neither a result nor an error")
        return None if success is _VOID else success

    def _refused(self, refusal: TApplicationException, method: str) -> Exception:
        """What a TApplicationException means: it comes from Thrift's own layer, not from the handler."""
        text = refusal.message or "no message"
        if refusal.type == TApplicationException.UNKNOWN_METHOD:
            return ServerError.of(ErrorCode.UNIMPLEMENTED, f"the server does not know {method}: {text}", False)
        if refusal.type in (TApplicationException.INTERNAL_ERROR, TApplicationException.UNKNOWN):
            return ServerError.of(ErrorCode.INTERNAL, text, False)
        return self.mismatch(f"the server did not understand the call: {text}")

"""One message in, one message out, whatever the processor does. No sockets.

    Frame | Stream --answer()--> TProcessor --> segments of the reply | nothing (oneway) | BadMessage
    message --begin()--> PendingCall --step()--> tasks to run ... --> segments of the reply

Any `TProcessor` may stand here: generated, multiplexed or hand-written. What an exception means depends on how far the
message was read. Before its header is read, the peer speaks another language: `BadMessage`, the connection ends.
Between header and arguments, the message is broken: the reply is PROTOCOL_ERROR. Behind that, the handler failed: the
reply is INTERNAL_ERROR, be it a TTransportException, SystemExit or MemoryError. Only the failures of the connection
itself (time-out, end of stream) pass through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Generator
from io import BytesIO
from typing import Any

from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException, TMessageType, TProcessor

from thriftserve.deadline import mark_arrival
from thriftserve.rpc.batch_processor import BatchProcessor
from thriftserve.rpc.scan import cut_out, put_back
from thriftserve_client.wire.framing import Frame, FrameError, LargeFrame
from thriftserve_client.wire.message_socket import ChannelClosed, ChannelTimeout, Stream
from thriftserve_client.wire.protocols import BinaryProtocol, CompactProtocol, Outgoing, make_protocol

log = logging.getLogger(__name__)

#: Makes the result of a request that is refused for a limit: (method, reason) -> a result struct to send as REPLY, or
#: None for a plain TApplicationException.
Refusal = Callable[[str, str], Any]

#: A message of this size or less arrived when its handler asks: decoding it takes no time that counts.
_SLOW_TO_DECODE_BYTES = 64 * 1024
_PEER_FAILED = (ChannelTimeout, ChannelClosed, FrameError, OSError)


#: Bytes of a message that tell what kind it is, and how one of the compact protocol begins.
_KIND_BYTES, _COMPACT_MARK = 4, 0x82


class BadMessage(Exception):
    """The bytes are no message of this protocol; the connection can't go on."""


class TrackedProtocol:
    """The reading side of a protocol, which also remembers how far into a message it got."""

    header: tuple[str, int, int] | None
    decoded = False
    _kinds: Container[int] = (TMessageType.CALL, TMessageType.ONEWAY)

    def begin(self, source: Any) -> None:
        """Start to read a message from `source`."""
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


class BinaryInput(TrackedProtocol, BinaryProtocol):
    """The binary protocol's reading side."""

    _takes_unversioned = True
    readMessageBegin = BinaryProtocol.readMessageBegin  # it records by itself

    def readMessageEnd(self) -> None:
        self.decoded = True  # the protocol itself has nothing to do here


class CompactInput(TrackedProtocol, CompactProtocol):
    """The compact protocol's reading side."""


_INPUTS: dict[str, Any] = {"binary": BinaryInput, "compact": CompactInput}


class PendingCall:
    """A call that was read and begun: `step` takes it from run to run, to its reply."""

    __slots__ = ("_exchange", "_seqid", "_steps", "_unversioned", "args", "name", "on_first_task", "parts", "size")

    def __init__(self, exchange: Exchange, name: str, seqid: int, args: Any, steps: Generator[Any, Any, Any]) -> None:
        self._exchange = exchange
        self._unversioned = exchange.unversioned
        self._seqid = seqid
        self._steps = steps
        self.name = name
        self.args = args
        #: Called with the call and its first task, once the request is known to be right.
        self.on_first_task: Callable[[PendingCall, Any], None] | None = None
        #: The encoded reply in segments once there is one, and its bytes.
        self.parts: list[bytes] = []
        self.size = 0

    def step(self, result: Any) -> Any:
        """Take the call to its next run, or to its reply.

        Args:
            result: what the run gave, or the exception that it failed with; None at first.

        Returns:
            The task to run; None: the reply is in `parts`.
        """
        exchange = self._exchange
        try:
            if isinstance(result, BaseException):
                return self._steps.throw(result)
            task = self._steps.send(result)
        except StopIteration as end:
            exchange.unversioned = self._unversioned
            self.parts = exchange.write_result(self.name, self._seqid, end.value)
        except BaseException as error:  # a model may raise anything, SystemExit included
            exchange.unversioned = self._unversioned
            self.parts = exchange.write_handler_error(self.name, self._seqid, error)
        else:
            if self.on_first_task is not None:
                self.on_first_task(self, task)
                self.on_first_task = None
            return task
        self.size = exchange.size
        return None


class Exchange:
    """The protocols of one connection, and the processor that its messages go to. One thread uses it.

    Args:
        processor: generated, or anything with its `process(iprot, oprot)`; None for an exchange that only refuses.
        protocol: "binary" or "compact".
        max_bytes: no reply is larger.
    """

    def __init__(self, processor: TProcessor, protocol: str, max_bytes: int) -> None:
        self.processor = processor
        self._protocol = protocol
        self._max_bytes = max_bytes
        #: True if the connection has to be closed after the last reply.
        self.broken = False
        #: Bytes of the last reply.
        self.size = 0
        self._oprot: Any = None
        self._reset()

    def _reset(self) -> None:
        """Make new protocols: the old ones may have stopped in mid-message. The reply stays of the request's kind."""
        unversioned = self.unversioned
        self._out: Any = Outgoing()
        self._iprot: Any = _INPUTS[self._protocol](None, self._max_bytes)
        self._oprot = make_protocol(self._protocol, self._out, self._max_bytes)
        self._iprot.writer = self._oprot
        self.unversioned = unversioned

    @property
    def unversioned(self) -> bool:
        """Whether replies have no version, as the message that was read last; see `BinaryProtocol`."""
        return bool(getattr(self._oprot, "unversioned", False))

    @unversioned.setter
    def unversioned(self, unversioned: bool) -> None:
        if unversioned or self.unversioned:
            self._oprot.unversioned = unversioned

    # One call at a time

    def answer(self, source: Frame | Stream, arrived: float | None = None) -> list[bytes]:
        """Run one message.

        Args:
            source: holds the message, or has it under way.
            arrived: when it arrived, monotonic seconds; None: now.

        Returns:
            The encoded reply in segments; empty for a oneway call.

        Raises:
            BadMessage: it is no message of this protocol.
            ChannelTimeout, ChannelClosed, FrameError, OSError: reading from a `Stream` failed.
        """
        self._iprot.begin(source)
        if arrived is None and source.size > _SLOW_TO_DECODE_BYTES:
            arrived = time.monotonic()
        if arrived is not None:
            mark_arrival(arrived)
        try:
            self.processor.process(self._iprot, self._oprot)
        except BaseException as error:  # a handler may raise anything, SystemExit included
            return self._write_failure(error)
        finally:
            if arrived is not None:
                mark_arrival(None)
        if type(source) is LargeFrame:
            source.release()
        parts: list[bytes] = self._out.take()
        self.size = size = len(parts[0]) + len(parts[1]) if len(parts) == 2 else sum(map(len, parts))
        if size > self._max_bytes:
            name, _, seqid = self._iprot.header
            return self._write_too_large(name, seqid, size)
        return parts

    def peek(self, source: Frame | Stream) -> tuple[str, int, int]:
        """Return method, kind and sequence number of a message that is not read further; raises as `answer` does."""
        self._iprot.begin(source)
        try:
            header: tuple[str, int, int] = self._iprot.readMessageBegin()
        except _PEER_FAILED:
            raise
        except Exception as error:
            raise BadMessage(_described(error)) from error
        return header

    def is_oneway(self, source: Frame | Stream) -> bool:
        """Return whether a message that begins here is a oneway call. Nothing of it is used up.

        True also for a stream of which too little has come to tell.
        """
        if isinstance(source, Frame):
            try:
                return bool(self.peek(source)[1] == TMessageType.ONEWAY)
            except BadMessage:
                return False
            finally:
                source.rewind()
        buffer = source.cstringio_buf
        head = buffer.getvalue()[buffer.tell() :][:_KIND_BYTES]
        return len(head) < _KIND_BYTES or bool(_kind_of(head) == TMessageType.ONEWAY)

    def refuse(self, source: Frame | Stream, reason: str, refusal: Refusal | None) -> list[bytes]:
        """Return the reply that refuses a request without running it; raises as `answer` does."""
        name, kind, seqid = self.peek(source)
        if kind == TMessageType.ONEWAY:
            return []
        result = refusal(name, reason) if refusal else None
        if result is None:
            return self._write_exception(name, seqid, TApplicationException.INTERNAL_ERROR, reason)
        return self._write(name, TMessageType.REPLY, seqid, result)

    # Many calls begun together: the processor is a `BatchProcessor`

    def begin(self, message: bytes | memoryview, arrived: float) -> PendingCall | list[bytes]:
        """Read a message and begin its call, if its processor can run that method together with others.

        Args:
            message: without its frame's length; a view is of memory that stays as it is until the call is answered.
            arrived: when it arrived, monotonic seconds.

        Returns:
            The call; or, for any other method and for a broken message, the reply as `answer` gives it.

        Raises:
            BadMessage: it is no message of this protocol.
        """
        processor: BatchProcessor = self.processor
        views: list[memoryview] = []
        if self._protocol == "binary" and isinstance(message, memoryview):
            message, views = cut_out(message, processor.large)
        source = Frame(BytesIO(message), len(message))
        self._iprot.begin(source)
        try:
            name, kind, seqid = self._iprot.readMessageBegin()
            classes = processor.together.get(name)
            if classes is None or kind == TMessageType.ONEWAY:
                source.rewind()
                return self.answer(source, arrived)
            args = classes[0]()
            args.read(self._iprot)
            self._iprot.readMessageEnd()
            if views:
                holders, outlives = processor.holders(name, args)
                put_back(holders, views, copied=outlives)
        except BadMessage:
            raise
        except BaseException as error:
            return self._write_failure(error)
        mark_arrival(arrived)
        return PendingCall(self, name, seqid, args, processor.begin(name, args))

    def write_result(self, name: str, seqid: int, result: Any) -> list[bytes]:
        """Return the encoded reply to a call that was begun."""
        try:
            parts = self._write(name, TMessageType.REPLY, seqid, result)
        except Exception as error:  # what a handler gave may be no struct of its method
            return self.write_handler_error(name, seqid, error)
        if self.size > self._max_bytes:
            return self._write_too_large(name, seqid, self.size)
        return parts

    def write_handler_error(self, name: str, seqid: int, error: BaseException) -> list[bytes]:
        """Log and return the reply to a call whose handler raised what no handler may raise."""
        self._reset()
        log.error("%s: the handler failed with %s", name, type(error).__name__, exc_info=error)
        text = f"Internal error: {type(error).__name__}"
        return self._write_exception(name, seqid, TApplicationException.INTERNAL_ERROR, text)

    def _write_failure(self, error: BaseException) -> list[bytes]:
        """Return the reply to a message that was not run to its end; raise if there can be none."""
        stopped = self._iprot
        self._reset()
        if not stopped.decoded and isinstance(error, _PEER_FAILED):
            raise error
        if stopped.header is None:
            raise BadMessage(_described(error)) from error
        name, kind, seqid = stopped.header
        if stopped.decoded:
            parts = self.write_handler_error(name, seqid, error)
        else:
            self.broken = isinstance(stopped.trans, Stream)  # where the next message begins is unknown
            log.warning("%s: broken arguments: %s", name, _described(error))
            code = TApplicationException.PROTOCOL_ERROR
            parts = self._write_exception(name, seqid, code, f"{name}: {_described(error)}")
        if kind == TMessageType.ONEWAY:
            self._reset()
            self.size = 0
            return []
        return parts

    def _write_too_large(self, name: str, seqid: int, size: int) -> list[bytes]:
        text = f"{name}: the answer has {size} bytes, max_message_bytes is {self._max_bytes}"
        log.error("%s", text)
        return self._write_exception(name, seqid, TApplicationException.INTERNAL_ERROR, text)

    def _write_exception(self, name: str, seqid: int, code: int, text: str) -> list[bytes]:
        return self._write(name, TMessageType.EXCEPTION, seqid, TApplicationException(code, text))

    def _write(self, name: str, kind: int, seqid: int, body: Any) -> list[bytes]:
        self._oprot.writeMessageBegin(name, kind, seqid)
        body.write(self._oprot)
        self._oprot.writeMessageEnd()
        self._oprot.trans.flush()
        parts: list[bytes] = self._out.take()
        self.size = sum(map(len, parts))
        return parts


def _kind_of(head: bytes) -> int:
    """Return the kind of the message that begins with these bytes, binary or compact."""
    return head[1] >> 5 & 7 if head[0] == _COMPACT_MARK else head[3]


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

"""One message in, one message out, whatever the processor does. No sockets.

    Frame | Stream --answer()--> TProcessor --> segments of the reply | nothing (oneway) | BadMessage

Any `TProcessor` may stand here: generated, multiplexed or hand-written. What it raises is told apart
by how far it got: before a message header was read the peer speaks another language (`BadMessage`, the
connection ends); between header and arguments the message is broken (an answer PROTOCOL_ERROR);
behind that the handler failed (an answer INTERNAL_ERROR), be it with a TTransportException, SystemExit
or MemoryError. Only the connection's own failures (time-out, end of stream) pass through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from typing import Any, Protocol

from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException, TMessageType, TProcessor

from thriftserve.deadline import mark_arrival
from thriftserve.rpc.scan import cut_out, put_back
from thriftserve.rpc.template_cache import CachedCall, CallTemplate, Span, TemplateCache, Varying
from thriftserve_client.wire.framing import Frame, FrameError, LargeFrame
from thriftserve_client.wire.message_socket import ChannelClosed, ChannelTimeout, Stream
from thriftserve_client.wire.protocols import BinaryProtocol, CompactProtocol, Outgoing, make_protocol

# Protocols that remember how far into a message their reader got.


class TrackedProtocol:
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


class BinaryInput(TrackedProtocol, BinaryProtocol):
    """The binary protocol's reading side."""

    readMessageBegin = BinaryProtocol.readMessageBegin  # it records by itself

    def readMessageEnd(self) -> None:
        self.decoded = True  # the protocol itself has nothing to do here


class CompactInput(TrackedProtocol, CompactProtocol):
    """The compact protocol's reading side."""


log = logging.getLogger(__name__)

#: Makes the answer to a request that is refused for a full queue: (method, reason) -> a result struct to
#: send as REPLY, or None for a plain TApplicationException.
Refusal = Callable[[str, str], Any]

_PEER_FAILED = (ChannelTimeout, ChannelClosed, FrameError, OSError)


#: A message of this size or less arrived when its handler asks, as far as anybody can tell.
_SLOW_TO_DECODE_BYTES = 64 * 1024


class BadMessage(Exception):
    """What came is no message of this protocol; the connection can't go on."""


class BatchProcessor(Protocol):
    """A processor some of whose calls can be begun together and answered from one run."""

    #: Method -> the generated classes of its arguments and its result.
    together: Mapping[str, tuple[type, type]]

    def begin(self, method: str, args: Any) -> Generator[Any, Any, Any]:
        """Begins a call: yields what is to be run, is sent what the run gave, and returns the result struct."""

    #: Method -> where large binary fields stand in its arguments; see `thriftserve.rpc.scan.cut_out`.
    large: Mapping[str, tuple[int, ...]]

    def holders(self, method: str, args: Any) -> tuple[Iterable[Any], bool]:
        """The structs whose `content` is large; and whether it may be kept for longer than the call."""

    #: Method -> where its calls, and their answers, differ from each other.
    varying: Mapping[str, Varying]

    def form(self, method: str, args: Any, job: Any, parts: Sequence[Span]) -> CallTemplate | None:
        """What holds for every call like this one; see `thriftserve.rpc.template_cache.Alike`."""


class PendingCall:
    """A call that was read and begun: `step` takes it from run to run, to its answer."""

    __slots__ = ("_exchange", "_seqid", "_steps", "args", "name", "on_first", "parts", "size")

    def __init__(self, exchange: Exchange, name: str, seqid: int, args: Any, steps: Generator[Any, Any, Any]) -> None:
        self._exchange = exchange
        self._seqid = seqid
        self._steps = steps
        self.name = name
        self.args = args
        #: Told of the call and the first thing that it wants run: it was found to be right.
        self.on_first: Callable[[PendingCall, Any], None] | None = None
        #: The encoded answer in segments, once there is one, and its bytes.
        self.parts: list[bytes] = []
        self.size = 0

    def step(self, result: Any) -> Any:
        """Takes the call to its next run, or to its answer.

        Args:
            result: what the run gave, or the exception that it failed with; None at first.

        Returns:
            What is to be run; None: it is answered.
        """
        exchange = self._exchange
        try:
            if isinstance(result, BaseException):
                return self._steps.throw(result)
            job = self._steps.send(result)
        except StopIteration as end:
            self.parts = exchange.write_result(self.name, self._seqid, end.value)
        except BaseException as error:  # a model may raise anything, SystemExit included
            self.parts = exchange.handler_failed(self.name, self._seqid, error)
        else:
            if self.on_first is not None:
                self.on_first(self, job)
                self.on_first = None
            return job
        self.size = exchange.size
        return None


_INPUTS: dict[str, Any] = {"binary": BinaryInput, "compact": CompactInput}


class Exchange:
    """The protocols of one connection, and the processor that its messages go to.

    Args:
        processor: generated, or anything with its `process(iprot, oprot)`; None for one that only refuses.
        protocol: "binary" or "compact".
        max_bytes: no answer is larger.
    """

    def __init__(self, processor: TProcessor, protocol: str, max_bytes: int) -> None:
        self.processor = processor
        self._protocol = protocol
        self._max_bytes = max_bytes
        #: True when the connection has to be closed after the answer just given.
        self.broken = False
        #: Bytes of the answer just given.
        self.size = 0
        self._open()

    def _open(self) -> None:
        self._out: Any = Outgoing()
        self._iprot: Any = _INPUTS[self._protocol](None, self._max_bytes)
        self._oprot = make_protocol(self._protocol, self._out, self._max_bytes)

    def answer(self, source: Frame | Stream, arrived: float | None = None) -> list[bytes]:
        """Runs one message.

        Args:
            source: holds the message, or has it under way.
            arrived: when it arrived, monotonic seconds; None: now.

        Returns:
            The encoded answer in segments; empty for a oneway call.

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
            return self._failed(error)
        finally:
            if arrived is not None:
                mark_arrival(None)
        if type(source) is LargeFrame:
            source.release()
        parts: list[bytes] = self._out.take()
        self.size = size = len(parts[0]) + len(parts[1]) if len(parts) == 2 else sum(map(len, parts))
        return parts if size <= self._max_bytes else self._too_large(size)

    @cached_property
    def _alike(self) -> TemplateCache | None:
        """The kinds of call seen; None where there is no short way. Made for who asks: a connection never does."""
        if self._protocol != "binary" or not hasattr(self.processor, "varying"):
            return None
        return TemplateCache(self, self.processor.varying, self.processor.form)

    def begin_small(self, message: bytes, arrived: float) -> CachedCall | PendingCall | list[bytes]:
        """As `begin`, for a small message: one that is like an earlier one takes the short way."""
        alike = self._alike
        return self.begin_whole(message, arrived) if alike is None else alike.begin(message, arrived)

    def begin_whole(self, message: bytes | memoryview, arrived: float) -> PendingCall | list[bytes]:
        """As `begin`, for a message without its frame."""
        return self.begin(Frame(BytesIO(message), len(message)), arrived)

    def begin_shared(self, message: memoryview, arrived: float) -> PendingCall | list[bytes]:
        """As `begin`, for a large message in memory that stays as it is until the call is answered."""
        lean = cut_out(message, self.processor.large) if self._protocol == "binary" else None
        if lean is None:
            return self.begin_whole(message, arrived)
        small, views = lean
        return self.begin(Frame(BytesIO(small), len(small)), arrived, views)

    def begin(self, source: Frame, arrived: float, views: list[memoryview] | None = None) -> PendingCall | list[bytes]:
        """Reads a message and begins its call, where its processor can run that method together with others.

        Args:
            source: holds the message.
            arrived: when it arrived, monotonic seconds.
            views: what was cut out of it.

        Returns:
            The call; or, for any other method and for a broken message, the answer as `answer` gives it.

        Raises:
            BadMessage: it is no message of this protocol.
        """
        self._iprot.begin(source)
        try:
            name, kind, seqid = self._iprot.readMessageBegin()
            classes = self.processor.together.get(name)
            if classes is None or kind == TMessageType.ONEWAY:
                source.rewind()
                return self.answer(source, arrived)
            args = classes[0]()
            args.read(self._iprot)
            self._iprot.readMessageEnd()
            if views:
                holders, kept = self.processor.holders(name, args)
                put_back(holders, views, copied=kept)
        except BadMessage:
            raise
        except BaseException as error:
            return self._failed(error)
        mark_arrival(arrived)
        return PendingCall(self, name, seqid, args, self.processor.begin(name, args))

    def write_result(self, name: str, seqid: int, result: Any) -> list[bytes]:
        """The answer to a call that was begun."""
        try:
            parts = self._write(name, TMessageType.REPLY, seqid, result)
        except Exception as error:  # what a handler gave may be no struct of its method
            return self.handler_failed(name, seqid, error)
        if self.size > self._max_bytes:
            return self._too_large_for(name, seqid, self.size)
        return parts

    def handler_failed(self, name: str, seqid: int, error: BaseException) -> list[bytes]:
        """The answer to a call whose handler failed with what no handler may raise."""
        self._open()
        log.error("%s: the handler failed with %s", name, type(error).__name__, exc_info=error)
        text = f"Internal error: {type(error).__name__}"
        return self._exception(name, seqid, TApplicationException.INTERNAL_ERROR, text)

    def peek(self, source: Frame | Stream) -> tuple[str, int, int]:
        """The method, the kind and the number of a message that is not read any further; raises as `answer` does."""
        self._iprot.begin(source)
        try:
            header: tuple[str, int, int] = self._iprot.readMessageBegin()
        except _PEER_FAILED:
            raise
        except Exception as error:
            raise BadMessage(_reason(error)) from error
        return header

    def refuse(self, source: Frame | Stream, reason: str, refusal: Refusal | None) -> list[bytes]:
        """The answer that turns a request away without running it; raises as `answer` does."""
        name, kind, seqid = self.peek(source)
        if kind == TMessageType.ONEWAY:
            return []
        result = refusal(name, reason) if refusal else None
        if result is None:
            return self._exception(name, seqid, TApplicationException.INTERNAL_ERROR, reason)
        return self._write(name, TMessageType.REPLY, seqid, result)

    def _failed(self, error: BaseException) -> list[bytes]:
        stopped = self._iprot
        self._open()  # both protocols may have stopped in mid-message
        if not stopped.decoded and isinstance(error, _PEER_FAILED):
            raise error
        if stopped.header is None:
            raise BadMessage(_reason(error)) from error
        name, kind, seqid = stopped.header
        if stopped.decoded:
            parts = self.handler_failed(name, seqid, error)
        else:
            self.broken = isinstance(stopped.trans, Stream)  # where the next message begins is unknown
            log.warning("%s: broken arguments: %s", name, _reason(error))
            code = TApplicationException.PROTOCOL_ERROR
            parts = self._exception(name, seqid, code, f"{name}: {_reason(error)}")
        if kind == TMessageType.ONEWAY:
            self._open()
            self.size = 0
            return []
        return parts

    def _too_large(self, size: int) -> list[bytes]:
        name, _, seqid = self._iprot.header
        return self._too_large_for(name, seqid, size)

    def _too_large_for(self, name: str, seqid: int, size: int) -> list[bytes]:
        text = f"{name}: the answer has {size} bytes, max_message_bytes is {self._max_bytes}"
        log.error("%s", text)
        return self._exception(name, seqid, TApplicationException.INTERNAL_ERROR, text)

    def _exception(self, name: str, seqid: int, code: int, text: str) -> list[bytes]:
        return self._write(name, TMessageType.EXCEPTION, seqid, TApplicationException(code, text))

    def _write(self, name: str, kind: int, seqid: int, body: Any) -> list[bytes]:
        self._oprot.writeMessageBegin(name, kind, seqid)
        body.write(self._oprot)
        self._oprot.writeMessageEnd()
        self._oprot.trans.flush()
        parts: list[bytes] = self._out.take()
        self.size = sum(map(len, parts))
        return parts


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

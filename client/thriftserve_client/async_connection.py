"""One connection on an event loop: a call goes out and its reply comes back.

    call(method, values) --CallCodec--> segments --transport--> server
    result | error <--CallCodec-- Frame <--FrameDecoder-- transport <-- server

Framed transport only: without a length, the end of a message is known only by decoding it.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, cast

from thriftserve_client.connection import ConnectionConfig
from thriftserve_client.errors import CallTimeout, ConnectionFailed, ProtocolMismatch, ServerError
from thriftserve_client.wire.framing import Frame, FrameDecoder, FrameError

_LENGTH = struct.Struct("!i")
#: Bytes of one read of small frames.
_SCRATCH_BYTES = 64 * 1024


class ConnectTimeout(ConnectionFailed):
    """Connecting took too long."""


class AsyncConnection(asyncio.BufferedProtocol):
    """An open connection, for one call at a time. It belongs to its event loop.

    After any exception but ServerError and MessageTooLarge a reply may still be on its way: close it.
    """

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self._codec = config.make_codec()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder(config.max_message_bytes)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._in_scratch = True
        self._reply: asyncio.Future[Frame] | None = None
        self._usable = True

    @classmethod
    async def open(cls, config: ConnectionConfig, timeout_s: float) -> AsyncConnection:
        """Connect within the connect time-out and within `timeout_s`.

        Raises:
            ConnectTimeout: connecting took too long.
            ConnectionFailed: no server listens there, the name is unknown, or the handshake failed.
        """
        limit = min(timeout_s, config.connect_timeout_s or timeout_s)
        address = config.address
        try:
            async with asyncio.timeout(limit):
                return await cls._connect(config)
        except TimeoutError:
            raise ConnectTimeout(f"no connection to {address} within {limit:g} s") from None
        except ConnectionRefusedError:
            raise ConnectionFailed(f"{address} refused the connection: does a server listen there?") from None
        except OSError as error:  # also ssl.SSLError and socket.gaierror
            raise ConnectionFailed(f"no connection to {address}: {error.strerror or error}") from None

    @classmethod
    async def _connect(cls, config: ConnectionConfig) -> AsyncConnection:
        loop, address = asyncio.get_running_loop(), config.address
        tls = address.tls.context() if address.tls else None
        name = (address.tls.server_hostname or address.host) if address.tls else None
        transport_and_protocol: tuple[Any, Any]
        if address.unix_socket:
            transport_and_protocol = await loop.create_unix_connection(
                lambda: cls(config), address.unix_socket, ssl=tls, server_hostname=name
            )
        else:
            transport_and_protocol = await loop.create_connection(
                lambda: cls(config), address.host, address.port, ssl=tls, server_hostname=name
            )
        return cast(AsyncConnection, transport_and_protocol[1])

    @property
    def usable(self) -> bool:
        """Whether the connection neither broke nor was closed."""
        return self._usable

    async def call(self, method: str, deadline: float, *values: Any) -> Any:
        """Call a method of the contract and return its result.

        Args:
            method: its name in the IDL.
            deadline: when the reply must have arrived, in the loop's time.
            values: its arguments, in the IDL's order.

        Raises:
            ServerError, CallTimeout, ConnectionFailed, ProtocolMismatch, MessageTooLarge: see `errors`.
        """
        parts = self._codec.encode_call(method, values)
        if self._transport is None or not self._usable:
            raise self._broken("closed before the call")
        reply = self._reply = self._loop.create_future()
        timer = self._loop.call_at(deadline, self._expire)
        try:
            self._transport.writelines([_LENGTH.pack(sum(map(len, parts))), *parts])
            frame = await reply
        finally:
            timer.cancel()
            self._reply = None
            del reply  # its error refers to this frame: the cycle would wait for the collector
        try:
            return self._codec.decode_reply(frame, method)
        except (ServerError, ProtocolMismatch):
            raise
        except Exception as error:
            raise self._codec.undecodable(error) from error

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        target = self._decoder.wanted()
        self._in_scratch = not target
        return target or self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._reply is None or self._reply.done():  # the caller may not have read its reply yet
            self._fail(self._codec.mismatch("it sent a message without a call"))
            return
        if not self._in_scratch:
            self._decoder.filled(nbytes)
        try:
            frame = self._decoder.cut(bytes(self._scratch[:nbytes])) if self._in_scratch else self._decoder.next_frame()
        except FrameError as error:
            self._fail(self._codec.mismatch(str(error)))
            return
        if frame is None:
            return
        if self._decoder.in_message:
            self._fail(self._codec.mismatch("it sent a message without a call"))
        else:
            self._reply.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(self._broken(f"broken ({exc})" if exc else "closed before the reply arrived"))

    def _expire(self) -> None:
        hint = "" if self._codec.answered else f"; if it never replies: does it use {self._config.wire_format}?"
        self._fail(CallTimeout(f"no reply from {self._config.address} in time{hint}"))

    def _fail(self, error: Exception) -> None:
        self._usable = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)

    def _broken(self, event: str) -> ConnectionFailed:
        hint = "" if self._codec.answered else f"; does the server use {self._config.wire_format}, and TLS as here?"
        return ConnectionFailed(f"the connection to {self._config.address} was {event}{hint}")

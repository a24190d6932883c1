"""One connection on an event loop: a call goes out, its answer comes back.

call(method, args) --Dialogue--> segments --transport--> server
result, or an error of ours <--Dialogue-- Frame <--FrameDecoder-- transport <-- server

Framed transport only: where messages have no length, each byte could be the last, and a loop would have to try.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, cast

from thriftserve_client.connection import Dialing
from thriftserve_client.errors import CallTimeout, ConnectionFailed, ProtocolMismatch, ServerError
from thriftserve_client.wire.framing import Frame, FrameDecoder, FrameError

_LENGTH = struct.Struct("!i")
_SCRATCH_BYTES = 64 * 1024


class NotInTime(ConnectionFailed):
    """Connecting took longer than it was allowed to."""


class AsyncConnection(asyncio.BufferedProtocol):
    """An open connection, for one call at a time.

    After any exception but ServerError and MessageTooLarge it is out of step: close it.
    """

    def __init__(self, dialing: Dialing) -> None:
        self._dialing = dialing
        self._dialogue = dialing.dialogue()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder(dialing.max_message_bytes)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._in_scratch = True
        self._answer: asyncio.Future[Frame] | None = None
        self._usable = True

    @classmethod
    async def open(cls, dialing: Dialing, timeout_s: float) -> AsyncConnection:
        """Connects within the connect time-out, and within `timeout_s`.

        Raises:
            NotInTime: it took too long.
            ConnectionFailed: nobody listens there, the name is unknown, or the handshake failed.
        """
        limit = min(timeout_s, dialing.connect_timeout_s or timeout_s)
        address = dialing.address
        try:
            async with asyncio.timeout(limit):
                return await cls._connect(dialing)
        except TimeoutError:
            raise NotInTime(f"no connection to {address} within {limit:g} s") from None
        except ConnectionRefusedError:
            raise ConnectionFailed(f"{address} refused the connection: does a server listen there?") from None
        except OSError as error:  # ssl.SSLError and socket.gaierror are some
            raise ConnectionFailed(f"no connection to {address}: {error.strerror or error}") from None

    @classmethod
    async def _connect(cls, dialing: Dialing) -> AsyncConnection:
        loop, address = asyncio.get_running_loop(), dialing.address
        tls = address.tls.context() if address.tls else None
        name = (address.tls.server_hostname or address.host) if address.tls else None
        made: tuple[Any, Any]
        if address.unix_socket:
            made = await loop.create_unix_connection(
                lambda: cls(dialing), address.unix_socket, ssl=tls, server_hostname=name
            )
        else:
            made = await loop.create_connection(
                lambda: cls(dialing), address.host, address.port, ssl=tls, server_hostname=name
            )
        return cast(AsyncConnection, made[1])

    @property
    def usable(self) -> bool:
        """False once it broke or the server closed it."""
        return self._usable

    async def call(self, method: str, deadline: float, *values: Any) -> Any:
        """Calls a method of the Predict service and returns what it returned.

        Args:
            method: its name in the IDL.
            deadline: when the answer must be there, in the loop's time.
            values: its arguments, in the IDL's order.

        Raises:
            ServerError, CallTimeout, ConnectionFailed, ProtocolMismatch, MessageTooLarge: see there.
        """
        parts = self._dialogue.ask(method, values)
        if self._transport is None or not self._usable:
            raise self._broken("closed before the call")
        answer = self._answer = self._loop.create_future()
        late = self._loop.call_at(deadline, self._expire)
        try:
            self._transport.writelines([_LENGTH.pack(sum(map(len, parts))), *parts])
            frame = await answer
        finally:
            late.cancel()
            self._answer = None
            del answer  # its error knows this frame: the two would wait for the collector
        try:
            return self._dialogue.answer(frame, method)
        except (ServerError, ProtocolMismatch):
            raise
        except Exception as error:
            raise self._dialogue.undecodable(error) from error

    def close(self) -> None:
        """Closes the connection; safe to call twice."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        wanted = self._decoder.wanted()
        self._in_scratch = not wanted
        return wanted or self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None or self._answer.done():  # whoever waited may not have read its answer yet
            self._fail(self._dialogue.mismatch("it sent what nobody asked for"))
            return
        if not self._in_scratch:
            self._decoder.filled(nbytes)
        try:
            frame = self._decoder.cut(bytes(self._scratch[:nbytes])) if self._in_scratch else self._decoder.next_frame()
        except FrameError as error:
            self._fail(self._dialogue.mismatch(str(error)))
            return
        if frame is None:
            return
        if self._decoder.in_message:
            self._fail(self._dialogue.mismatch("it sent what nobody asked for"))
        else:
            self._answer.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(self._broken(f"broken ({exc})" if exc else "closed before the answer came"))

    def _expire(self) -> None:
        hint = "" if self._dialogue.answered else f"; if it never answers: does it use {self._dialing.words}?"
        self._fail(CallTimeout(f"no answer from {self._dialing.address} in time{hint}"))

    def _fail(self, error: Exception) -> None:
        self._usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _broken(self, how: str) -> ConnectionFailed:
        hint = "" if self._dialogue.answered else f"; does the server use {self._dialing.words}, with or without TLS?"
        return ConnectionFailed(f"the connection to {self._dialing.address} was {how}{hint}")

"""One connection: a call goes out, its answer comes back, or the connection is not used again.

call(method, args) --Dialogue--> segments --channel--> server
result, or an error of ours <--Dialogue-- Frame | Stream <--channel-- server
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from thriftserve_client.address import Address
from thriftserve_client.call_codec import Dialogue
from thriftserve_client.errors import CallTimeout, ConnectionFailed, ProtocolMismatch, ServerError
from thriftserve_client.wire.framing import FrameError
from thriftserve_client.wire.message_socket import (
    BufferedChannel,
    ChannelClosed,
    ChannelTimeout,
    FramedChannel,
    make_channel,
)
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES

#: Stands for "no limit" where the channel wants a number: three years.
_FOREVER_S = 1e8


class StaleConnection(ConnectionFailed):
    """A connection that had served before was closed while it was idle: the call may go to a new one."""


@dataclass(frozen=True)
class Dialing:
    """How to reach a server and in which words to speak to it."""

    address: Address
    transport: str = "framed"
    protocol: str = "binary"
    connect_timeout_s: float | None = 5.0
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES

    def __str__(self) -> str:
        return f"{self.address}, {self.words}"

    @property
    def words(self) -> str:
        """The transport and protocol, for messages."""
        return f"transport={self.transport} and protocol={self.protocol}"

    def dialogue(self) -> Dialogue:
        """What a new connection says and understands."""
        return Dialogue(self.protocol, self.max_message_bytes, str(self.address), self.words)


class Connection:
    """An open connection. After any exception but ServerError it is out of step: close it."""

    def __init__(self, dialing: Dialing, timeout_s: float | None) -> None:
        """Connects within the connect time-out, and within `timeout_s`.

        Raises:
            ConnectionFailed: see `Address.connect`.
        """
        limits = [limit for limit in (dialing.connect_timeout_s, timeout_s) if limit is not None]
        self._dialing = dialing
        self._sock = dialing.address.connect(min(limits, default=None))
        self._channel: FramedChannel | BufferedChannel | None = None
        self._timeout_s: float | None = -1.0
        self._dialogue = dialing.dialogue()

    def call(self, method: str, deadline: float | None, *values: Any) -> Any:
        """Calls a method of the Predict service and returns what it returned.

        Args:
            method: its name in the IDL.
            deadline: when the answer must be there (monotonic seconds); None waits for ever.
            values: its arguments, in the IDL's order.

        Raises:
            ServerError, CallTimeout, ConnectionFailed, ProtocolMismatch, MessageTooLarge: see there.
        """
        parts = self._dialogue.ask(method, values)
        self._send(parts, deadline)
        source = self._receive(deadline)
        return self._decode(source, method)

    def close(self) -> None:
        """Closes the connection; safe to call twice."""
        self._sock.close()

    @property
    def in_step(self) -> bool:
        """False where bytes came behind the answer: nobody asked for them, so what follows can't be trusted."""
        return self._channel is None or not self._channel.has_pending

    def _send(self, parts: list[bytes], deadline: float | None) -> None:
        channel = self._channel_until(deadline)
        try:
            channel.send(parts)
        except ChannelTimeout:
            raise CallTimeout(f"{self._dialing.address} did not take the request in time") from None
        except OSError as error:
            raise self._broken(f"closed while the request was sent ({error.strerror or error})") from None

    def _channel_until(self, deadline: float | None) -> FramedChannel | BufferedChannel:
        """The channel, its time limits set to what is left.

        Calls mostly have the same time, so the limits are only set again where they differ by a
        thousandth: setting them costs system calls.
        """
        left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
        if self._channel is not None and _near(left, self._timeout_s):
            return self._channel
        limit = _FOREVER_S if left is None else left
        self._timeout_s = left
        self._channel = make_channel(
            self._dialing.transport,
            self._sock,
            idle_timeout_s=left,
            message_timeout_s=limit,
            write_timeout_s=limit,
            max_bytes=self._dialing.max_message_bytes,
        )
        return self._channel

    def _receive(self, deadline: float | None) -> Any:
        channel = self._channel_until(deadline)
        try:
            source = channel.receive()
        except ChannelTimeout:
            raise self._late() from None
        except FrameError as error:
            raise self._dialogue.mismatch(str(error)) from None
        except ChannelClosed as error:
            raise ConnectionFailed(f"the connection to {self._dialing.address} broke: {error}") from None
        except OSError as error:
            raise self._broken(f"broken before the answer came ({error.strerror or error})") from None
        if source is None:
            raise self._broken("closed before the answer came")
        return source

    def _decode(self, source: Any, method: str) -> Any:
        try:
            return self._dialogue.answer(source, method)
        except (ServerError, ProtocolMismatch):
            raise
        except ChannelTimeout:
            raise self._late() from None
        except (ChannelClosed, OSError) as error:
            raise ConnectionFailed(f"the connection to {self._dialing.address} broke: {error}") from None
        except Exception as error:
            raise self._dialogue.undecodable(error) from error

    def _broken(self, how: str) -> ConnectionFailed:
        text = f"the connection to {self._dialing.address} was {how}"
        if self._dialogue.answered:
            return StaleConnection(text)
        return ConnectionFailed(f"{text}; does the server use {self._dialing.words}, with or without TLS as here?")

    def _late(self) -> CallTimeout:
        text = f"no answer from {self._dialing.address} in time"
        hint = "" if self._dialogue.answered else f"; if it never answers: does it use {self._dialing.words}?"
        return CallTimeout(text + hint)


def _near(left: float | None, set_to: float | None) -> bool:
    if left is None or set_to is None:
        return left is set_to
    return abs(left - set_to) <= 1e-3 * set_to

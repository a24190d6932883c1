"""One blocking connection, or one shared by threads: a call's reply comes back, or the connection is not used again.

call(method, values) --CallCodec--> segments --Channel--> server
result | error <--CallCodec-- Frame | Stream <--Channel-- server
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from dataclasses import dataclass
from typing import Any

from thriftserve_client.address import Address
from thriftserve_client.call_codec import CallCodec
from thriftserve_client.errors import CallTimeout, ConnectionFailed, MessageTooLarge, ProtocolMismatch, ServerError
from thriftserve_client.wire.framing import FrameError
from thriftserve_client.wire.message_socket import (
    BufferedChannel,
    ChannelClosed,
    ChannelTimeout,
    FramedChannel,
    make_channel,
)
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES


class StaleConnection(ConnectionFailed):
    """A connection that was used before was closed while idle: the call may be sent on a new one."""


@dataclass(frozen=True)
class ConnectionConfig:
    """How to connect to a server: address, transport, protocol and limits."""

    address: Address
    transport: str = "framed"
    protocol: str = "binary"
    connect_timeout_s: float | None = 5.0
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES

    def __str__(self) -> str:
        return f"{self.address}, {self.wire_format}"

    @property
    def wire_format(self) -> str:
        """Transport and protocol, for messages."""
        return f"transport={self.transport} and protocol={self.protocol}"

    def make_codec(self) -> CallCodec:
        """Return the codec for a new connection."""
        return CallCodec(self.protocol, self.max_message_bytes, str(self.address), self.wire_format)


class Connection:
    """An open connection, for one thread at a time.

    After any exception but ServerError and MessageTooLarge a reply may still be on its way: close it.
    """

    def __init__(self, config: ConnectionConfig, timeout_s: float | None) -> None:
        """Connect within the connect time-out and within `timeout_s`.

        Raises:
            ConnectionFailed: see `Address.connect`.
        """
        limits = [limit for limit in (config.connect_timeout_s, timeout_s) if limit is not None]
        self._config = config
        self._sock = config.address.connect(min(limits, default=None))
        self._channel: FramedChannel | BufferedChannel | None = None
        self._timeout_s: float | None = -1.0
        self._codec = config.make_codec()

    def call(self, method: str, deadline: float | None, *values: Any) -> Any:
        """Call a method of the contract and return its result.

        Args:
            method: its name in the IDL.
            deadline: when the reply must have arrived, in monotonic seconds; None for no limit.
            values: its arguments, in the IDL's order.

        Raises:
            ServerError, CallTimeout, ConnectionFailed, ProtocolMismatch, MessageTooLarge: see `errors`.
        """
        parts = self._codec.encode_call(method, values)
        self._send(parts, deadline)
        source = self._receive(deadline)
        return self._decode(source, method)

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._sock.close()

    @property
    def in_step(self) -> bool:
        """Whether no bytes followed the reply. Unexpected bytes mean that later replies can't be trusted."""
        return self._channel is None or not self._channel.has_pending

    def _send(self, parts: list[bytes], deadline: float | None) -> None:
        channel = self._channel_until(deadline)
        try:
            channel.send(parts)
        except ChannelTimeout:
            raise CallTimeout(f"{self._config.address} did not accept the request in time") from None
        except OSError as error:
            raise self._broken(f"closed while sending the request ({error.strerror or error})") from None

    def _channel_until(self, deadline: float | None) -> FramedChannel | BufferedChannel:
        """Return the channel with its time-outs set to the time left.

        Setting them costs system calls, and most calls have the same time-out. So they are set only if they differ by
        more than a thousandth.
        """
        left_s = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
        if self._channel is not None and _near(left_s, self._timeout_s):
            return self._channel
        limit = _FOREVER_S if left_s is None else left_s
        self._timeout_s = left_s
        self._channel = make_channel(
            self._config.transport,
            self._sock,
            idle_timeout_s=left_s,
            message_timeout_s=limit,
            write_timeout_s=limit,
            max_bytes=self._config.max_message_bytes,
        )
        return self._channel

    def _receive(self, deadline: float | None) -> Any:
        channel = self._channel_until(deadline)
        try:
            source = channel.receive()
        except ChannelTimeout:
            raise self._timed_out() from None
        except FrameError as error:
            raise self._codec.mismatch(str(error)) from None
        except ChannelClosed as error:
            raise ConnectionFailed(f"the connection to {self._config.address} broke: {error}") from None
        except OSError as error:
            raise self._broken(f"broken before the reply arrived ({error.strerror or error})") from None
        if source is None:
            raise self._broken("closed before the reply arrived")
        return source

    def _decode(self, source: Any, method: str) -> Any:
        try:
            return self._codec.decode_reply(source, method)
        except (ServerError, ProtocolMismatch):
            raise
        except ChannelTimeout:
            raise self._timed_out() from None
        except (ChannelClosed, OSError) as error:
            raise ConnectionFailed(f"the connection to {self._config.address} broke: {error}") from None
        except Exception as error:
            raise self._codec.undecodable(error) from error

    def _broken(self, event: str) -> ConnectionFailed:
        text = f"the connection to {self._config.address} was {event}"
        if self._codec.answered:
            return StaleConnection(text)
        return ConnectionFailed(f"{text}; does the server use {self._config.wire_format}, and TLS as here?")

    def _timed_out(self) -> CallTimeout:
        text = f"no reply from {self._config.address} in time"
        hint = "" if self._codec.answered else f"; if it never replies: does it use {self._config.wire_format}?"
        return CallTimeout(text + hint)


def _near(left_s: float | None, current_s: float | None) -> bool:
    if left_s is None or current_s is None:
        return left_s is current_s
    return abs(left_s - current_s) <= 1e-3 * current_s


def __getattr__(name: str) -> Any:
    if name == "Dialing":
        warnings.warn("Dialing is deprecated: use ConnectionConfig", DeprecationWarning, stacklevel=2)
        return ConnectionConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _ProcessConnection:
    """The connection of one process, and the lock that orders its calls."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.connection: Connection | None = None

    def disconnect(self) -> None:
        """Close the connection; the next call opens another."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class SharedConnection:
    """A connection for all threads of a process. It is closed whenever a reply may still be on its way."""

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config
        self._process = _ProcessConnection()

    def call(self, method: str, timeout_s: float | None, *values: Any) -> Any:
        """Call a method of the contract and return its result; errors as for `Connection.call`.

        Args:
            method: its name in the IDL.
            timeout_s: limit that includes the wait for other threads' calls and connecting; None for no limit.
            values: its arguments, in the IDL's order.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        process = self._own_process()
        lock_timeout_s = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        if not process.lock.acquire(timeout=lock_timeout_s):
            raise CallTimeout(
                f"other threads' calls took the whole timeout of {timeout_s:g} s: one client per thread helps"
            )
        try:
            try:
                return self._call_once(process, deadline, method, values)
            except StaleConnection:
                return self._call_once(process, deadline, method, values)
        finally:
            process.lock.release()

    def close(self) -> None:
        """Close the connection after the call in progress; a later call opens a new one."""
        process = self._own_process()
        with process.lock:
            process.disconnect()

    def _own_process(self) -> _ProcessConnection:
        """Return this process's own connection and lock. A forked child must not use its parent's connection, nor wait
        for a lock that a thread of the parent held at the fork.
        """
        if self._process.pid != os.getpid():
            self._process = _ProcessConnection()
        return self._process

    def _call_once(
        self, process: _ProcessConnection, deadline: float | None, method: str, values: tuple[Any, ...]
    ) -> Any:
        try:
            if process.connection is None:
                left_s = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
                process.connection = Connection(self.config, left_s)
            result = process.connection.call(method, deadline, *values)
        except (ServerError, MessageTooLarge):
            raise  # a complete reply, or nothing sent: the connection stays usable
        except BaseException:
            process.disconnect()
            raise
        if not process.connection.in_step:
            process.disconnect()
        return result


#: "No limit" where the channel needs a number: three years.
_FOREVER_S = 1e8

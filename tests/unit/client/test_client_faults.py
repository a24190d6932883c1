"""The client against servers that misbehave: each call ends with its typed error, and the next one is good."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_service import Service, hanging_up, relaying_to, saying, scripted, serving, silent
from thriftserve_client import (
    CallTimeout,
    Client,
    ConnectionFailed,
    InternalError,
    MessageTooLarge,
    NotFoundError,
    ProtocolMismatch,
    UnimplementedError,
    connection,
)
from thriftserve_client.address import Address
from thriftserve_client.connection import Connection, ConnectionConfig, StaleConnection


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


def answer(method: bytes, kind: int, seqid: int, body: bytes) -> bytes:
    """A framed binary message."""
    message = struct.pack("!II", 0x80010000 | kind, len(method)) + method + struct.pack("!i", seqid) + body
    return struct.pack("!i", len(message)) + message


PONG = answer(b"ping", 2, 1, b"\0")
EMPTY_PREDICT = answer(b"predict", 2, 1, b"\0")


def refusal(kind: int) -> bytes:
    """A TApplicationException of this type."""
    return answer(b"ping", 3, 1, b"\x0b\0\1\0\0\0\2no\x08\0\2" + struct.pack("!i", kind) + b"\0")


def test_connection_refused() -> None:
    """Where nobody listens, the error names the address and asks for a server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(port=port) as client, pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port} refused"):
        client.ping()


def test_unknown_host_and_socket(tmp_path: Path) -> None:
    """A name that nobody knows and a path that is not there are said as such."""
    with pytest.raises(ConnectionFailed, match="is unknown"):
        Client("no-such-host.invalid").ping()
    with pytest.raises(ConnectionFailed, match="No such file"):
        Client(unix_socket=tmp_path / "none").ping()


def test_no_answer_then_good(service: Service) -> None:
    """A server that accepts and says nothing costs the call its time; the next call is answered."""
    with scripted(silent, relaying_to(service.port, calls=1)) as port, Client(port=port, timeout_s=0.2) as client:
        with pytest.raises(CallTimeout, match=r"no reply .* transport=framed and protocol=binary"):
            client.ping()
        client.ping(timeout_s=30)


def test_late_answer_is_not_the_next_calls() -> None:
    """An answer that comes after its call was given up reaches nobody: the connection is not used again."""
    with scripted(silent, saying(PONG)) as port, Client(port=port, timeout_s=0.2) as client:
        with pytest.raises(CallTimeout):
            client.predict("echo", {"x": [1.0]})
        client.ping(timeout_s=30)


def test_half_an_answer_and_silence() -> None:
    """An answer that stops in its middle is a time-out."""
    with scripted(saying(PONG[:10])) as port, Client(port=port, timeout_s=0.2) as client, pytest.raises(CallTimeout):
        client.ping()


@pytest.mark.parametrize("transport", ["framed", "buffered"])
@pytest.mark.parametrize("length", [2, 10])
def test_closed_in_mid_answer(transport: str, length: int) -> None:
    """A connection that ends within an answer is broken; the next call is answered."""
    whole = PONG if transport == "framed" else PONG[4:]
    script = scripted(saying(whole[:length], close=True), saying(whole))
    with script as port, Client(port=port, transport=transport) as client:
        with pytest.raises(ConnectionFailed, match="broke"):
            client.ping()
        client.ping()


def test_closed_without_an_answer(service: Service) -> None:
    """A new connection that is closed unanswered is not tried again; the error suggests what may not fit."""
    with scripted(hanging_up, relaying_to(service.port, calls=1)) as port, Client(port=port) as client:
        with pytest.raises(ConnectionFailed, match="before the reply arrived; does the server use transport=framed"):
            client.ping()
        client.ping()


def test_idle_connection_closed_by_the_server(service: Service) -> None:
    """A kept connection that the server closed while it was idle is replaced without the caller noticing."""
    relay = relaying_to(service.port, calls=1)
    with scripted(relay, relay, hanging_up) as port, Client(port=port) as client:
        client.ping()
        client.ping()
        with pytest.raises(ConnectionFailed):  # and once only: the third connection is new, and closed
            client.ping()


def test_stale_is_only_what_served_before(service: Service) -> None:
    """A connection's first call that breaks is no stale connection; a later one is."""
    with scripted(hanging_up, relaying_to(service.port, calls=1)) as port:
        config = ConnectionConfig(Address("127.0.0.1", port))
        with pytest.raises(ConnectionFailed) as caught:
            _calling(config, 1)
        assert not isinstance(caught.value, StaleConnection)
        with pytest.raises(StaleConnection):
            _calling(config, 2)


def _calling(config: ConnectionConfig, times: int) -> None:
    connection = Connection(config, 5)
    try:
        for _ in range(times):
            connection.call("ping", time.monotonic() + 30)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speak another protocol"),
        (b"\xff\xff\xff\xff", "negative frame length"),
        (struct.pack("!i", 2**30), "the limit is 67108864"),
        (struct.pack("!i", 20) + b"\x82\x41\x01\x04ping" + bytes(12), "not the binary protocol"),
        (struct.pack("!i", 8) + bytes(8), "not the binary protocol"),
        (answer(b"ping", 2, 1, b"\x0c\0\1\x7f"), "Error"),
        (answer(b"ping", 2, 1, b""), "the message ends"),
        (answer(b"ping", 2, 99, b"\0"), "number 99, expected the reply to number 1"),
        (answer(b"ping", 1, 1, b"\0"), "message type 1"),
        (refusal(7), "did not understand the call: no"),
    ],
    ids=["http", "negative", "huge", "compact", "zeros", "bad type", "short", "other call's", "a call", "refused"],
)
def test_garbage(data: bytes, message: str) -> None:
    """What is no answer of this contract says what it was and what to check; the next call is good."""
    with scripted(saying(data), saying(PONG)) as port, Client(port=port) as client:
        with pytest.raises(ProtocolMismatch) as caught:
            client.ping()
        assert message in str(caught.value)
        assert "transport=framed and protocol=binary" in str(caught.value)
        client.ping()


def test_an_answer_with_neither_result_nor_error() -> None:
    """A reply whose every field is unset is no answer."""
    neither = pytest.raises(ProtocolMismatch, match="neither a result nor an error")
    with scripted(saying(EMPTY_PREDICT)) as port, Client(port=port) as client, neither:
        client.predict("echo", {})


def test_a_list_of_more_items_than_the_answer_has_bytes() -> None:
    """A length that the answer can't hold is refused before its items are read."""
    body = b"\x0f\0\0\x0c" + struct.pack("!i", 60_000_000)
    refused = pytest.raises(ProtocolMismatch, match="size exceeded")
    with scripted(saying(answer(b"listModels", 2, 1, body))) as port, Client(port=port) as client, refused:
        client.models()


def test_an_error_keeps_the_connection(service: Service) -> None:
    """An answer that is an error, and a request that was never sent, leave the connection in use."""
    with (
        scripted(relaying_to(service.port, calls=3), hanging_up) as port,
        Client(port=port, max_message_bytes=10_000) as client,
    ):
        with pytest.raises(NotFoundError):
            client.predict("missing", {})
        client.ping()
        with pytest.raises(MessageTooLarge):
            client.predict("echo", {"x": np.zeros(10_000, np.uint8)})
        client.ping()  # a second connection would be hung up


def test_bytes_behind_an_answer() -> None:
    """An answer with something behind it counts, but the connection is not used again."""
    with scripted(saying(PONG + PONG), saying(PONG)) as port, Client(port=port) as client:
        client.ping()
        client.ping()  # the second PONG has number 1 again: only a new connection expects that


@pytest.mark.parametrize(
    ("kind", "error"),
    [(1, UnimplementedError), (6, InternalError), (0, InternalError)],
    ids=["method", "internal", "?"],
)
def test_thrifts_own_exceptions(kind: int, error: type[Exception]) -> None:
    """What Thrift's layer answers becomes the error that the handler's would be."""
    with scripted(saying(refusal(kind))) as port, Client(port=port) as client, pytest.raises(error, match="no"):
        client.ping()


def test_answer_over_the_limit(service: Service) -> None:
    """An answer over max_message_bytes is refused, by a message that names the limit; the next call is good."""
    with Client(port=service.port, max_message_bytes=1000) as client:
        with pytest.raises(ProtocolMismatch, match="max_message_bytes=1000"):
            client.predict("half_plus_two", {"x": np.zeros(200, np.float32)})
        client.ping()


@pytest.mark.parametrize(("transport", "protocol"), [("framed", "compact"), ("buffered", "binary")])
def test_wrong_words(service: Service, transport: str, protocol: str) -> None:
    """Against a framed, binary server other words fail within the call's time, and the error names them."""
    failures = (ConnectionFailed, ProtocolMismatch, CallTimeout)
    client = Client(port=service.port, transport=transport, protocol=protocol, timeout_s=2)
    with client, pytest.raises(failures) as caught:
        client.ping()
    assert f"transport={transport} and protocol={protocol}" in str(caught.value)


def test_server_that_does_not_read() -> None:
    """A request that the server does not take is given up when its time is over."""
    untaken = pytest.raises(CallTimeout, match="did not accept the request")
    with scripted(silent) as port, Client(port=port, timeout_s=0.2) as client, untaken:
        client.predict("echo", {"x": np.zeros(32 * 2**20, np.uint8)})


def test_waiting_for_another_thread_counts() -> None:
    """A call that gets no turn within its time says that other threads' calls took it."""
    reached = threading.Event()

    def script(sock: socket.socket) -> None:
        sock.recv(100)
        reached.set()

    with scripted(script) as port, Client(port=port, timeout_s=0.5) as client:
        thread = threading.Thread(target=_expect, args=(CallTimeout, client.ping))
        thread.start()
        assert reached.wait(30)
        with pytest.raises(CallTimeout, match="other threads"):
            client.ping(timeout_s=0.05)
        thread.join()


def _expect(error: type[Exception], call: Callable[[], Any]) -> None:
    with pytest.raises(error):
        call()


def test_interrupted_call_leaves_no_connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between question and answer closes the connection: the old answer can't meet the next question."""
    with Client(port=service.port) as client:
        client.ping()

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.predict("echo", {"x": [1.0]})
        assert client.predict("echo", {"x": [2.0]})["x"].tolist() == [2.0]


def test_fork(service: Service) -> None:
    """A forked child speaks on a connection of its own, even while a thread of the parent is in a call."""
    with Client(port=service.port, timeout_s=60) as client:
        client.ping()
        before = len(service.handler.requests)
        caller = threading.Thread(target=client.predict, args=("waits", {"x": [0.0]}))
        caller.start()
        while len(service.handler.requests) == before:
            time.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = int(client.predict("echo", {"x": [1.0]}, timeout_s=5)["x"].tolist() != [1.0])
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        service.handler.proceed.set()
        caller.join()


def test_deprecated_names_still_work() -> None:
    """`connection.Dialing` is `ConnectionConfig`, with a warning; other names are errors as ever."""
    with pytest.warns(DeprecationWarning, match="use ConnectionConfig"):
        assert connection.Dialing is ConnectionConfig
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        connection.Nothing  # noqa: B018  # the look-up is the test

"""TLS and mutual TLS on every server type: which clients are served and rejected; silent clients delay nobody."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from thrift.Thrift import TApplicationException

from certificates import Authority, Certificate
from hosting import MANY_IDLE, SEVERAL_AT_ONCE, TYPES, Hosted, Wire, add, client_on, eventually, places, read_to_end
from thriftserve.errors import ExitCode

LARGE = bytes(range(256)) * 12_000  # 3 MB: many TLS records, and more than a socket's buffers
HANDSHAKE_TIMEOUT_S = 0.7


@dataclass(frozen=True)
class Trust:
    """Two authorities, a server's certificate, and a client's of each authority."""

    authority: Authority
    server: Certificate
    client: Certificate
    stranger: Certificate


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder, "ours"), Authority(folder, "theirs")
    return Trust(authority, authority.issue("server"), authority.issue("client"), other.issue("stranger"))


@pytest.fixture(
    scope="module",
    params=[_each.values for _each in places(Wire("framed"), Wire("buffered"))],
    ids="{0[0]}-{0[1]}".format,
)
def server(request: pytest.FixtureRequest, trust: Trust) -> Iterator[Hosted]:
    """A TLS server of each type and transport."""
    server_type, wire = request.param
    settings: dict[str, Any] = {"tls_cert": trust.server.cert, "tls_key": trust.server.key}
    settings |= {"handshake_timeout_s": HANDSHAKE_TIMEOUT_S, "read_timeout_s": HANDSHAKE_TIMEOUT_S}
    with Hosted(server_type, wire=wire, **settings) as hosted:
        yield hosted


def serves(server: Hosted, tls: ssl.SSLContext) -> None:
    """Assert that small and large messages are answered, and that the log has no unforeseen error."""
    with server.client(tls=tls) as client:
        assert client.add(20, 22) == 42
        assert client.echo(LARGE) == LARGE
        assert client.add(20, 22) == 42
    assert not server.surprised, server.log()


def test_clients_at_once(server: Hosted, trust: Trust) -> None:
    """Concurrent clients get their own responses."""
    failures = []

    def work(number: int) -> None:
        with server.client(tls=trust.authority.trusting()) as client:
            for n in range(10):
                content = bytes([number, n]) * (1 + n % 3 * 20_000)
                if client.echo(content) != content:
                    failures.append((number, n))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    serves(server, trust.authority.trusting())


def test_pipelined(server: Hosted, trust: Trust) -> None:
    """All calls in one record are answered, though the socket has nothing more to read after the first."""
    with server.connect(trust.authority.trusting()) as sock:
        sock.sendall(add(1, 2, server.wire) * 20)
        client = client_on(sock, server.wire)
        assert [client.recv_add() for _ in range(20)] == [3] * 20


def test_one_byte_a_record(server: Hosted, trust: Trust) -> None:
    """A message may be cut into records in any way."""
    with server.connect(trust.authority.trusting()) as sock:
        for byte in add(1, 2, server.wire) * 2:
            sock.send(bytes([byte]))
        client = client_on(sock, server.wire)
        assert (client.recv_add(), client.recv_add()) == (3, 3)


def test_plain_client(server: Hosted, trust: Trust) -> None:
    """A client without TLS gets no response, and its connection is closed."""
    with server.connect() as sock:
        sock.sendall(add(1, 2, server.wire))
        assert b"\x80\x01\x00\x02" not in read_to_end(sock)
    serves(server, trust.authority.trusting())


def test_client_that_does_not_trust_the_server(server: Hosted, trust: Trust) -> None:
    """A client that doesn't trust the server ends the handshake. Others are served."""
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect(_strangers())
    serves(server, trust.authority.trusting())


def test_silent_in_the_handshake(server: Hosted, trust: Trust) -> None:
    """Clients that don't finish the handshake delay nobody, and are closed after --handshake-timeout-s."""
    hello = _hello()
    with contextlib.ExitStack() as stack:
        many = server.server_type in SEVERAL_AT_ONCE
        silent = [stack.enter_context(server.connect()) for _ in range(6 if many else 2)]
        for sock in silent:
            sock.sendall(hello[:100])
        before = len(server.log())
        serves(server, trust.authority.trusting())
        if many:
            assert not re.search("closed|broken", server.log()[before:]), (
                "the good client waited for a deadline of the silent ones"
            )
        for sock in silent:
            assert read_to_end(sock) == b""


def test_silent_in_a_record(server: Hosted, trust: Trust) -> None:
    """A client that sends only a part of a TLS record delays nobody, if the type serves several at once."""
    if server.server_type == "TSimpleServer":
        return
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            tls = stack.enter_context(server.connect(trust.authority.trusting()))
            raw = stack.enter_context(socket.socket(fileno=tls.detach()))
            raw.sendall(b"\x17\x03\x03")
        serves(server, trust.authority.trusting())


def test_reset_before_the_handshake(server: Hosted, trust: Trust) -> None:
    """Clients that have gone before they are accepted leave no error in the log."""
    for n in range(40):
        sock = server.connect()
        sock.sendall(_hello()[: n * 10])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    serves(server, trust.authority.trusting())


@cache
def _strangers() -> ssl.SSLContext:
    """A client context that trusts the system's authorities, which take 20 ms to read."""
    return ssl.create_default_context()


@cache
def _hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = _strangers().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_drain(trust: Trust) -> None:
    """After SIGTERM, requests sent over TLS are answered, and idle connections are closed."""
    settings: dict[str, Any] = {"tls_cert": trust.server.cert, "tls_key": trust.server.key}
    tls = trust.authority.trusting()
    for server_type in SEVERAL_AT_ONCE:
        with Hosted(server_type, **settings) as server, server.connect(tls) as idle, server.connect(tls) as busy:
            assert client_on(idle, server.wire).add(1, 2) == 3
            client = client_on(busy, server.wire)
            client.send_wait(300)
            client.send_add(3, 4)
            assert server.stop() == ExitCode.OK
            assert (client.recv_wait(), client.recv_add()) == (300, 7)
            assert _ended(idle)
            assert _ended(busy)


@pytest.mark.parametrize("server_type", MANY_IDLE)
def test_connections_are_limited(server_type: str, trust: Trust) -> None:
    """A connection over --max-connections finishes its handshake, and is rejected with the reason."""
    settings: dict[str, Any] = {"tls_cert": trust.server.cert, "tls_key": trust.server.key}
    tls = trust.authority.trusting()
    with Hosted(server_type, max_connections=1, workers=1, **settings) as server, server.client(tls=tls) as first:
        assert first.add(1, 2) == 3
        with server.client(tls=tls) as second, pytest.raises(TApplicationException, match="limit"):
            second.add(3, 4)
        assert first.add(5, 6) == 11


def _ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except (ssl.SSLEOFError, ConnectionError):
        return True


@pytest.mark.parametrize("server_type", TYPES)
def test_mutual(server_type: str, trust: Trust) -> None:
    """With --tls-client-ca only clients of that authority are served. The log has the others."""
    settings: dict[str, Any] = {
        "tls_cert": trust.server.cert,
        "tls_key": trust.server.key,
        "tls_client_ca": trust.authority.cert,
    }
    ours = trust.authority.trusting(trust.client)
    with Hosted(server_type, **settings) as server:
        serves(server, ours)
        for refused in (trust.authority.trusting(), trust.authority.trusting(trust.stranger)):
            before = len(server.log())
            # In TLS 1.3 a client learns of the refusal when it reads.
            with pytest.raises((ssl.SSLError, ConnectionError)), server.connect(refused) as sock:  # noqa: PT012
                sock.sendall(add(1, 2))
                assert sock.recv(1) == b"", "an answer"
                raise ConnectionError("closed without an alert")
            eventually(lambda: bool(_REFUSED.search(server.log()[before:])), "the refusal in the log")  # noqa: B023
            serves(server, ours)


_REFUSED = re.compile(r"PEER_DID_NOT_RETURN_A_CERTIFICATE|CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize("wrong", ["tls_cert", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize("how", ["missing", "no PEM"])
def test_unusable_files(trust: Trust, tmp_path: Any, wrong: str, how: str) -> None:
    """A missing file, or one that is not PEM, ends the server at start. The message names setting and file."""
    path = tmp_path / "wrong.pem"
    if how == "no PEM":
        path.write_text("nothing", encoding="utf-8")
    settings: dict[str, Any] = {
        "tls_cert": trust.server.cert,
        "tls_key": trust.server.key,
        "tls_client_ca": trust.authority.cert,
    }
    code, log = Hosted("TThreadedServer", **(settings | {wrong: str(path)})).fails()
    assert code == ExitCode.CONFIG
    assert wrong in log
    assert str(path) in log

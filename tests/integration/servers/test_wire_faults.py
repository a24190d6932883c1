"""What clients do by mistake, by accident or on purpose: it costs their own connection and nothing else.

After each fault, whatever it was, a good client is served by a server that was not surprised.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Iterator

import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from hosting import FRAMED_ALONE, TYPES, Hosted, Wire, add, client_on, eventually, read_to_end
from services.gen.calculator.ttypes import Tree

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
FRAMED, BUFFERED = Wire("framed"), Wire("buffered")
PLACES = [(server_type, FRAMED) for server_type in TYPES]
PLACES += [(server_type, BUFFERED) for server_type in TYPES if server_type not in FRAMED_ALONE]

_LATE = re.compile(
    r"closed: .*(took a message too slowly|not take a message in time|response was not taken within 0.7 s)"
)


def _length(size: int) -> bytes:
    return struct.pack("!i", size)


def _name(place: tuple[str, Wire]) -> str:
    return f"{place[0]}-{place[1]}"


@pytest.fixture(scope="module", params=PLACES, ids=_name)
def hosted(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    server_type, wire = request.param
    with Hosted(
        server_type,
        wire=wire,
        read_timeout_s=0.7,
        write_timeout_s=0.7,
        max_message_bytes=MAX_MESSAGE_BYTES,
        answer_half_closed=True,
    ) as server:
        yield server


@pytest.fixture
def server(hosted: Hosted) -> Iterator[Hosted]:
    """A server to do harm to; the next good client is served, and nothing of it died or was surprised."""
    workers = hosted.workers()
    yield hosted
    hosted.serves()
    assert hosted.workers() == workers
    assert not hosted.surprised, hosted.log()


framed_alone = pytest.mark.parametrize("hosted", PLACES[: len(TYPES)], ids=_name, indirect=True)


def reset(sock: socket.socket) -> None:
    """Breaks a connection off, without a farewell."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@framed_alone
@pytest.mark.parametrize("size", [-1, -(2**31), MAX_MESSAGE_BYTES + 1, 2**31 - 1])
def test_good_frame_and_bad_length_in_one_segment(server: Hosted, size: int) -> None:
    """The good frame is answered; the impossible length ends its connection, and the log tells whose and why."""
    before = len(server.log())
    with server.connect() as sock:
        peer = "{}:{}".format(*sock.getsockname())
        sock.sendall(add(1, 2) + _length(size) + b"x" * 100)
        assert client_on(sock, FRAMED).recv_add() == 3
        assert read_to_end(sock) == b""
    line = next(line for line in server.log()[before:].splitlines() if peer in line)
    assert "WARNING" in line
    assert ("negative frame length" if size < 0 else f"the limit is {MAX_MESSAGE_BYTES}") in line


def test_message_over_the_limit(server: Hosted) -> None:
    """A message larger than --max-message-bytes ends its connection, and is told where it can be."""
    with server.connect() as sock:
        with contextlib.suppress(OSError):
            sock.sendall(server.wire.message(lambda client: client.send_echo(b"x" * (MAX_MESSAGE_BYTES + 1))))
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        assert len(read_to_end(sock)) < 1000


@pytest.mark.parametrize("part", [1, 3, 4, 5, 30, -1])
def test_disconnect_in_mid_request(server: Hosted, part: int) -> None:
    """A client that goes in the middle of a message, politely or not, is forgotten."""
    message = add(1, 2, server.wire)[:part]
    with server.connect() as sock:
        sock.sendall(message)
    sock = server.connect()
    sock.sendall(message)
    reset(sock)
    with server.connect() as sock:
        sock.sendall(message)
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == b""


def test_disconnect_in_mid_answer(server: Hosted) -> None:
    """A client that goes without having taken its answer is forgotten."""
    for taken in (0, 1000):
        sock = server.connect()
        sock.sendall(server.wire.message(lambda client: client.send_blob(6_000_000)) * 3)
        assert len(sock.recv(taken, socket.MSG_WAITALL)) == taken
        reset(sock)


def test_half_a_message_and_silence(server: Hosted) -> None:
    """Messages that begin and don't go on hold nobody up past the read time-out, however many there are."""
    message = add(1, 2, server.wire)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(_silent_clients(server))]
        for n, sock in enumerate(silent):
            sock.sendall(message[: (2, 10, len(message) - 1)[n % 3]])
        server.serves()
        for sock in silent:
            assert read_to_end(sock) == b""


def _silent_clients(server: Hosted) -> int:
    if server.server_type == "TSimpleServer":
        return 2
    return 3 if server.server_type == "TProcessPoolServer" and server.wire.transport == "buffered" else 6


def test_answer_not_taken(server: Hosted) -> None:
    """A client that asks and never reads is left after the write time-out; it holds no thread for longer."""
    before = len(server.log())
    clients = 1 if server.server_type in ("TSimpleServer", "TProcessPoolServer") else 5
    with contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(server.connect_with_small_window()) for _ in range(clients)]
        for sock in deaf:
            sock.sendall(server.wire.message(lambda client: client.send_blob(8_000_000)))
        server.serves()
        eventually(lambda: len(_LATE.findall(server.log()[before:])) == clients, "every client given up")
        assert len(read_to_end(deaf[-1])) < 8_000_000


def _hello() -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": _hello(),
    "text": b"hello?\r\n\r\n",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "empty-frame": _length(0),
    "one-byte-frame": _length(1) + b"\x80",
    "version-alone": _length(4) + b"\x80\x01\x00\x01",
    "name-of-2-GB": _length(12) + b"\x80\x01\x00\x01\x7f\xff\xff\xff1234",
    "negative-name": _length(12) + b"\x80\x01\x00\x01\xff\xff\xff\xff1234",
    "name-not-utf8": _length(16) + b"\x80\x01\x00\x01" + _length(3) + b"\xff\xfe\xfd" + bytes(5),
    "old-binary": _length(17) + _length(3) + b"add" + b"\x01" + _length(0) + bytes(5),
}


@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_garbage(server: Hosted, what: str) -> None:
    """What is not Thrift at all ends its connection, at the latest when the client has nothing to add."""
    for data in (GARBAGE[what], add(1, 2, server.wire) + GARBAGE[what], GARBAGE[what][4:]):
        with server.connect() as sock:
            sock.sendall(data)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)


def _call(method: str, arguments: bytes) -> bytes:
    """A call in the binary protocol, its arguments as they are given."""
    return struct.pack("!II", 0x80010001, len(method)) + method.encode() + bytes(4) + arguments


def _framed(server: Hosted, message: bytes) -> bytes:
    return _length(len(message)) + message if server.wire.transport == "framed" else message


#: Arguments that announce more than there is, or nest deeper than anybody needs.
HOSTILE = {
    "list-of-2-billion": ("mirror", b"\x0c\x00\x01" + b"\x0f\x00\x02\x0c\x7f\xff\xff\xff" + b"\x00\x00"),
    "list-of-minus-one": ("mirror", b"\x0c\x00\x01" + b"\x0f\x00\x02\x0c\xff\xff\xff\xff" + b"\x00\x00"),
    "map-of-2-billion": ("mirror", b"\x0c\x00\x01" + b"\x0d\x00\x04\x0b\x0c\x7f\xff\xff\xff" + b"\x00\x00"),
    "string-of-2-GB": ("fail", b"\x0b\x00\x01\x7f\xff\xff\xff" + b"\x00"),
    "string-of-minus-one": ("fail", b"\x0b\x00\x01\xff\xff\xff\xff" + b"\x00"),
    "unknown-field-list-of-2-billion": ("add", b"\x0f\x00\x09\x0a\x7f\xff\xff\xff" + b"\x00"),
    "unknown-type": ("add", b"\x63\x00\x01" + b"\x00"),
    "cut-off": ("add", b"\x0a\x00\x01\x00"),
    "no-stop": ("add", b"\x0a\x00\x01" + bytes(8)),
    "deep-structs": ("mirror", b"\x0c\x00\x01" + b"\x0c\x00\x03" * 200_000),
    "deep-lists-of-structs": ("mirror", b"\x0c\x00\x01" + b"\x0f\x00\x02\x0c\x00\x00\x00\x01" * 200_000),
    "deep-unknown-structs": ("add", b"\x0c\x00\x09" * 200_000),
    "deep-unknown-lists": ("add", b"\x0f\x00\x09" + b"\x0f\x00\x00\x00\x01" * 200_000),
    "deep-arguments-of-unknown-method": ("nothing", b"\x0c\x00\x09" * 200_000),
    "deep-and-whole": ("mirror", b"\x0c\x00\x01" + b"\x0c\x00\x03" * 50_000 + b"\x00" * 50_002),
    "deep-unknown-and-whole": ("add", b"\x0c\x00\x09" * 50_000 + b"\x00" * 50_001),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_hostile_arguments(server: Hosted, what: str) -> None:
    """Lengths and depths that no message has are told as a protocol error, before memory or stack go for them."""
    message = _framed(server, _call(*HOSTILE[what]))
    with server.connect() as sock:
        with contextlib.suppress(OSError):
            sock.sendall(message)
            sock.shutdown(socket.SHUT_WR)
        answer = read_to_end(sock)
    if server.wire.transport == "framed":
        kind, code = _exception_in(answer[4:])
        assert (kind, code) == (TMessageType.EXCEPTION, TApplicationException.PROTOCOL_ERROR)


def _exception_in(message: bytes) -> tuple[int, int]:
    protocol = TBinaryProtocol(TMemoryBuffer(message))
    _, kind, _ = protocol.readMessageBegin()
    error = TApplicationException()
    error.read(protocol)
    return kind, error.type


@framed_alone
@pytest.mark.parametrize("what", ["list-of-2-billion", "cut-off", "deep-structs"])
def test_framed_connection_lives_on(server: Hosted, what: str) -> None:
    """Broken arguments in a whole frame cost that call alone."""
    with server.connect() as sock:
        sock.sendall(_framed(server, _call(*HOSTILE[what])) + add(1, 2))
        client = client_on(sock, FRAMED)
        with pytest.raises(TApplicationException):
            client.recv_add()
        assert client.recv_add() == 3


@framed_alone
def test_more_in_the_frame_than_the_message(server: Hosted) -> None:
    """What follows a message in its frame is left alone."""
    message = add(1, 2)[4:] + b"and more"
    with server.connect() as sock:
        sock.sendall(_framed(server, message) + add(3, 4))
        client = client_on(sock, FRAMED)
        assert (client.recv_add(), client.recv_add()) == (3, 7)


def test_answer_over_the_limit(server: Hosted) -> None:
    """An answer larger than --max-message-bytes is told as an error; the connection serves on."""
    with server.client() as client:
        with pytest.raises(TApplicationException, match="max_message_bytes") as caught:
            client.blob(MAX_MESSAGE_BYTES + 1)
        assert caught.value.type == TApplicationException.INTERNAL_ERROR
        assert client.add(1, 2) == 3


def test_deep_answer(server: Hosted) -> None:
    """A struct as deep as a reasonable one may be goes there and back."""
    tree = Tree(0, content=b"x" * 100_000)
    for n in range(40):
        tree = Tree(n, tail=tree)
    with server.client() as client:
        assert client.mirror(tree) == tree

"""Every server type, transport and protocol under well-behaved clients, and clients of another wire."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import thriftpy2.protocol
import thriftpy2.rpc
import thriftpy2.transport
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TTransportException

from hosting import FRAMED_ALONE, TESTS, TYPES, WIRES, Hosted, add, client_on, read_to_end
from services.gen.calculator.ttypes import DivisionByZero, Pair, Parcel, Tree
from services.handlers import FAILURES

LARGE = bytes(range(256)) * 2352  # 602,112 bytes: an image of 224 x 224 x 3 floats

EVERY = [
    pytest.param((server_type, wire), id=f"{server_type}-{wire}")
    for server_type in TYPES
    for wire in WIRES
    if server_type not in FRAMED_ALONE or wire.transport == "framed"
]


@pytest.fixture(scope="module", params=EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """One server of each type, transport and protocol."""
    server_type, wire = request.param
    # What a handler remembers is its process's: a client's calls may go to any worker of TBatchingServer.
    workers = 1 if server_type == "TBatchingServer" else 2
    with Hosted(server_type, wire=wire, workers=workers, answer_half_closed=True) as hosted:
        yield hosted
        hosted.serves()


def raised(code: int, call: Callable[[], Any]) -> str:
    """Asserts that a call is answered by a TApplicationException of that code; its message."""
    with pytest.raises(TApplicationException) as caught:
        call()
    assert caught.value.type == code, caught.value
    return str(caught.value.message)


def test_every_kind_of_call(server: Hosted) -> None:
    """Results, declared exceptions, nested structs, large and empty contents go there and back, by Apache's library."""
    tree = Tree(1, [Tree(2), Tree(3, tail=Tree(4, content=LARGE))], named={"é": Tree(5)}, content=b"")
    parcel = Parcel(
        "label", LARGE, [b"", LARGE, b"x"], {"a": LARGE, "b": b""}, [tree], {-1: LARGE}, {b"1"}, 7, late=LARGE
    )
    with server.client() as client:
        assert client.add(2**62, 1) == 2**62 + 1
        assert client.total(Pair(1, -2)) == -1
        assert client.divide(7, 2) == 3
        with pytest.raises(DivisionByZero) as caught:
            client.divide(7, 0)
        assert caught.value.dividend == 7
        assert client.echo(LARGE) == LARGE
        assert client.echo(b"") == b""
        assert client.mirror(tree) == tree
        assert client.forward(parcel) == parcel
        assert client.forward(Parcel()) == Parcel()
        assert len(client.blob(3_000_000)) == 3_000_000


def test_oneway(server: Hosted) -> None:
    """A oneway call is run, in order, and not answered."""
    with server.client() as client:
        for word in ("one", "two", "three"):
            client.remember(word)
        assert client.remembered()[-3:] == ["one", "two", "three"]


def test_thriftpy2(server: Hosted) -> None:
    """An independent implementation of clients is served alike."""
    idl = thriftpy2.load(str(TESTS / "services" / "calculator.thrift"), module_name="calculator_thrift")
    protocols = {
        "binary": thriftpy2.protocol.TBinaryProtocolFactory,
        "compact": thriftpy2.protocol.TCompactProtocolFactory,
    }
    transports = {
        "framed": thriftpy2.transport.TFramedTransportFactory,
        "buffered": thriftpy2.transport.TBufferedTransportFactory,
    }
    host, port = server.address
    client = thriftpy2.rpc.make_client(
        idl.Calculator,
        host,
        port,
        proto_factory=protocols[server.wire.protocol](),
        trans_factory=transports[server.wire.transport](),
        timeout=30_000,
    )
    try:
        assert client.add(1, 2) == 3
        assert client.total(idl.Pair(left=3, right=4)) == 7
        with pytest.raises(idl.DivisionByZero):
            client.divide(1, 0)
        assert client.echo(LARGE) == LARGE
        tree = idl.Tree(value=1, branches=[idl.Tree(value=2, content=b"two")])
        assert client.mirror(tree) == tree
        parcel = client.forward(idl.Parcel(pieces=[LARGE, b""], named={"a": LARGE}, late=LARGE, count=-1))
        assert parcel.pieces == [LARGE, b""]
        assert (parcel.named, parcel.late, parcel.count) == ({"a": LARGE}, LARGE, -1)
        with pytest.raises(thriftpy2.thrift.TApplicationException):
            client.fail("ValueError")
        client.remember("word")
        assert client.remembered()[-1] == "word"
    finally:
        client.close()


def test_answers_are_never_mixed(server: Hosted) -> None:
    """Clients at the same time get each its own answers, in its own order."""
    failures: list[str] = []

    def work(number: int) -> None:
        with server.client() as client:
            for n in range(25):
                content = bytes([number, n]) * (1 if n % 5 else 40_000)
                if client.echo(content) != content or client.add(number, n * 1000) != number + n * 1000:
                    failures.append(f"client {number}, call {n}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_arrays_of_earlier_calls(server: Hosted) -> None:
    """A handler may keep an array over a large content: later messages, of its client or of others, never change it."""
    sizes = [len(LARGE), len(LARGE), len(LARGE) - 1000, len(LARGE), len(LARGE) + 1000, 90_000, len(LARGE)]
    with server.client() as one:
        for number, size in enumerate(sizes):
            content = bytes([number]) * size
            assert one.echo(content) == content
    with server.client() as other:
        assert other.echo(LARGE) == LARGE
        assert other.echo(b"the kept ones are looked at once more") != b""


def test_pipelined(server: Hosted) -> None:
    """Calls that come in one segment are answered all, in order, oneway ones among them not."""
    calls = [add(n, 1, server.wire) for n in range(60)]
    calls.insert(30, server.wire.message(lambda client: client.send_remember("between")))
    with server.connect() as sock:
        sock.sendall(b"".join(calls))
        client = client_on(sock, server.wire)
        assert [client.recv_add() for _ in range(60)] == list(range(1, 61))
        assert client.remembered()[-1] == "between"


def test_one_byte_at_a_time(server: Hosted) -> None:
    """How a message is cut into segments makes no difference."""
    with server.connect() as sock:
        for byte in add(1, 2, server.wire) * 2:
            sock.send(bytes([byte]))
        client = client_on(sock, server.wire)
        assert (client.recv_add(), client.recv_add(), client.add(3, 4)) == (3, 3, 7)


def test_half_closed(server: Hosted) -> None:
    """A client that will send no more still gets what it asked for, then the end."""
    with server.connect() as sock:
        sock.sendall(add(1, 2, server.wire) * 3)
        sock.shutdown(socket.SHUT_WR)
        client = client_on(sock, server.wire)
        assert [client.recv_add() for _ in range(3)] == [3, 3, 3]
        assert read_to_end(sock) == b""


def test_unknown_method(server: Hosted) -> None:
    """A method that the service has not is told by name; the connection serves on."""
    unknown = server.wire.message(lambda client: _send(client, "subtract", TMessageType.CALL))
    with server.connect() as sock:
        client = client_on(sock, server.wire)
        sock.sendall(unknown)
        assert "subtract" in raised(TApplicationException.UNKNOWN_METHOD, client.recv_add)
        assert client.add(1, 2) == 3


def _send(client: Any, name: str, kind: int) -> None:
    client._oprot.writeMessageBegin(name, kind, 0)
    client._oprot.writeStructBegin("args")
    client._oprot.writeFieldStop()
    client._oprot.writeStructEnd()
    client._oprot.writeMessageEnd()
    client._oprot.trans.flush()


@pytest.mark.parametrize("kind", [TMessageType.REPLY, TMessageType.EXCEPTION, 0, 7])
def test_wrong_message_type(server: Hosted, kind: int) -> None:
    """A message that is no call has no answer: the connection ends."""
    with server.connect() as sock:
        sock.sendall(server.wire.message(lambda client: _send(client, "add", kind)))
        assert read_to_end(sock) == b""
    server.serves()


def test_missing_required_field(server: Hosted) -> None:
    """A required field that is not there is named; where messages have lengths, the connection serves on."""
    with server.client() as client:
        message = raised(TApplicationException.PROTOCOL_ERROR, lambda: client.total(Pair(1)))
        assert "right" in message
        if server.wire.transport == "framed":
            assert client.total(Pair(1, 2)) == 3
        else:
            with pytest.raises((TTransportException, OSError)):
                client.total(Pair(1, 2))
    server.serves()


def test_missing_required_field_within(server: Hosted) -> None:
    """Required fields are looked for at every depth."""
    with server.client() as client:
        tree = Tree(1, [Tree(2, named={"a": Tree()})])
        assert "value" in raised(TApplicationException.PROTOCOL_ERROR, lambda: client.mirror(tree))


@pytest.mark.parametrize("how", sorted(FAILURES))
def test_handler_raises(server: Hosted, how: str) -> None:
    """Whatever a handler raises is answered INTERNAL_ERROR, and the connection and the server live on."""
    with server.client() as client:
        raised(TApplicationException.INTERNAL_ERROR, lambda: client.fail(how))
        assert client.add(1, 2) == 3
    assert not server.surprised


def test_client_of_another_wire(server: Hosted) -> None:
    """A client of another transport or protocol is told so by the connection's end; others are served."""
    for theirs in set(WIRES) - {server.wire}:
        before = len(server.log())
        with server.connect() as sock:
            sock.sendall(add(1, 2, theirs))
            # What the compact protocol takes for a long name, a buffered server may wait for.
            sock.shutdown(socket.SHUT_WR)
            assert len(read_to_end(sock)) < 40
        server.serves()
        assert "closed: " in server.log()[before:], theirs


def test_random_bytes(server: Hosted) -> None:
    """No sequence of bytes is an exception; messages with a few bytes changed are the nastiest ones."""
    chance = random.Random(20)
    message = server.wire.message(lambda client: client.send_echo(b"0123456789" * 10))
    for n in range(80):
        data = bytearray(message if n % 2 else chance.randbytes(80))
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with server.connect() as sock:
            sock.sendall(data)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
    server.serves()
    assert not server.surprised, server.log()

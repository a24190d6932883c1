"""`serve` hosts any Thrift service: where it listens, what it serves, how it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thrift.protocol.TMultiplexedProtocol import TMultiplexedProtocol
from thrift.Thrift import TApplicationException

from hosting import PATIENCE_S, SEVERAL_AT_ONCE, TYPES, Hosted, Wire, add, client_on, places, read_to_end
from services.gen.calculator import Calculator, Greeter
from services.gen.cross import Cross
from services.gen.cross.ttypes import Failure, Insanity, Nest, Number, OtherFailure, Things
from thriftserve.errors import ConfigError, ExitCode
from thriftserve.servers import FrontPolicy, HostSettings, Service, serve

#: Settings of a server that fails before it binds or forks.
_BAD_SETTINGS = HostSettings(tls_cert="/no/such/certificate", tls_key="/no/such/key")
LARGE = b"0123456789ABCDEF" * 37_632  # 602,112 bytes
PIECE = 16 * 1024


def test_the_old_name_of_the_front_policy() -> None:
    """`desk` is accepted for `front_policy`, with a deprecation warning."""
    with pytest.warns(DeprecationWarning, match="front_policy"), pytest.raises(ConfigError, match="/no/such/"):
        serve(Calculator.Processor, _BAD_SETTINGS, desk=FrontPolicy())


def test_a_service_has_its_options_itself() -> None:
    """Options of a service are refused beside a Service, which has them as fields."""
    with pytest.raises(TypeError, match="give them to Service"):
        serve(Service(Calculator.Processor), _BAD_SETTINGS, preload=None)


@pytest.mark.parametrize(("server_type", "wire"), [*places(Wire()), *places(Wire("framed", "compact"))[:1]])
def test_every_type_of_thrift(server_type: str, wire: Wire) -> None:
    """Every server type hosts the service that Apache's client libraries are tested with."""
    with Hosted(server_type, "cross", wire=wire) as server, server.client(Cross) as client:
        _scalars(client)
        _containers(client)
        _failures(client)
        client.testOneway(0)
        client.testVoid()


def _scalars(client: Cross.Client) -> None:
    client.testVoid()
    for text in ("", "Test", "Ünïcödé ✓ 漢字 🎉", "x" * 70_000):
        assert client.testString(text) == text
    assert (client.testBool(True), client.testBool(False)) == (True, False)
    for number in (0, 1, -1, 127, -128):
        assert client.testByte(number) == number
    for number in (0, -1, 2**31 - 1, -(2**31)):
        assert client.testI32(number) == number
    for number in (0, -1, 2**63 - 1, -(2**63)):
        assert client.testI64(number) == number
        assert client.testTypedef(number) == number
    for value in (0.0, -5.2098523, 1.7976931348623157e308, float("inf")):
        assert client.testDouble(value) == value
    assert client.testBinary(bytes(range(256))) == bytes(range(256))
    for number in Number:
        assert client.testEnum(number) == number


def _containers(client: Cross.Client) -> None:
    things = Things("Zero", 1, -3, -5)
    assert client.testStruct(things) == things
    assert client.testNest(Nest(1, things, 5)) == Nest(1, things, 5)
    numbers = {n: n - 10 for n in range(-300, 300)}
    assert client.testMap(numbers) == numbers
    assert client.testMap({}) == {}
    texts = {"a": "2", "b": "blah", "some": "thing", "": "é"}
    assert client.testStringMap(texts) == texts
    assert client.testSet(set(range(-20, 20))) == set(range(-20, 20))
    assert client.testList(list(range(1000))) == list(range(1000))
    assert client.testMapMap(2) == {2: {1: 1, 2: 2}, -2: {-1: -1, -2: -2}}
    insane = Insanity({Number.FIVE: 5, Number.EIGHT: 8}, [things, Things()])
    assert client.testInsanity(insane) == {1: {2: insane, 3: insane}, 2: {6: Insanity()}}
    assert client.testMulti(1, 2, 3, {0: "abc"}, Number.FIVE, 0xF0F0F0) == Things("Hello2", 1, 2, 3)


def _failures(client: Cross.Client) -> None:
    client.testException("fine")
    with pytest.raises(Failure) as caught:
        client.testException("Xception")
    assert (caught.value.errorCode, caught.value.message) == (1001, "Xception")
    with pytest.raises(TApplicationException):
        client.testException("TException")
    assert client.testMultiException("fine", "text") == Things("text")
    with pytest.raises(Failure):
        client.testMultiException("Xception", "")
    with pytest.raises(OtherFailure) as other:
        client.testMultiException("Xception2", "")
    assert (other.value.errorCode, other.value.things.text) == (2002, "This is an Xception2")


@pytest.mark.parametrize(("server_type", "wire"), [*places(Wire()), *places(Wire("buffered", "compact"))[:2]])
def test_multiplexed(server_type: str, wire: Wire) -> None:
    """Apache's multiplexed protocol serves several services on one port. A call without a service name is an error."""
    with Hosted(server_type, "multiplexed", wire=wire) as server, server.connect() as sock:

        def named(name: str, service: Any) -> Any:
            return client_on(sock, wire, service, lambda protocol: TMultiplexedProtocol(protocol, name))

        calculator, greeter = named("calculator", Calculator), named("greeter", Greeter)
        assert calculator.echo(LARGE) == LARGE
        assert greeter.greet("you") == "Hello, you"
        assert calculator.add(1, 2) == 3
        with pytest.raises(TApplicationException) as caught:
            client_on(sock, wire).add(1, 2)
        assert caught.value.type == TApplicationException.PROTOCOL_ERROR
        assert "add" in caught.value.message


@contextlib.contextmanager
def relayed(server: Hosted) -> Iterator[socket.socket]:
    """A connection to a server through a relay that passes on small pieces."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listening.getsockname(), PATIENCE_S))
        middle = stack.enter_context(listening.accept()[0])
        far = stack.enter_context(server.connect())
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threads = [threading.Thread(target=_pump, args=pair) for pair in ((middle, far), (far, middle))]
        for thread in threads:
            thread.start()
        yield near
        near.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    while piece := source.recv(PIECE):
        target.sendall(piece)
    target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("server_type", "calls"),
    [
        (server_type, 200 if server_type in ("TNonblockingServer", "TProcessPoolServer", "TBatchingServer") else 40)
        for server_type in TYPES
    ],
)
def test_large_messages_through_a_relay(server_type: str, calls: int) -> None:
    """Messages of 602 KB that arrive in pieces of 16 KiB are all read correctly."""
    with Hosted(server_type) as server, relayed(server) as sock:
        client = client_on(sock, server.wire)
        for _ in range(calls):
            assert client.echo(LARGE) == LARGE


@pytest.mark.parametrize(("server_type", "wire"), [*places(Wire()), *places(Wire("buffered"))[-1:]])
def test_unix_socket(server_type: str, wire: Wire, tmp_path: Path) -> None:
    """A server can listen on a Unix socket. It removes the file when it ends."""
    path = tmp_path / "thrift.sock"
    with Hosted(server_type, wire=wire, unix_socket=str(path)) as server:
        assert path.is_socket()
        server.serves()
        with server.client() as client:
            assert client.echo(LARGE) == LARGE
            assert client.add(1, 2) == 3
    assert not path.exists()


def test_unix_socket_left_over(tmp_path: Path) -> None:
    """A server replaces the socket file of a killed server, but no socket in use and no other file."""
    path = tmp_path / "thrift.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Hosted("TThreadedServer", unix_socket=str(path)) as server:
        server.serves()
        assert Hosted("TThreadedServer", unix_socket=str(path)).fails()[0] == ExitCode.BIND
        server.serves()
    path.write_text("mine", encoding="utf-8")
    assert Hosted("TThreadedServer", unix_socket=str(path)).fails()[0] == ExitCode.BIND
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.fixture
def _ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.usefixtures("_ipv6")
@pytest.mark.parametrize("server_type", ["TThreadPoolServer", "TForkingServer", "TProcessPoolServer"])
def test_ipv6(server_type: str) -> None:
    """A server can listen on an IPv6 address."""
    with Hosted(server_type, host="::1") as server:
        assert server.family == socket.AF_INET6
        server.serves()


@pytest.mark.parametrize("server_type", TYPES)
def test_service_that_fails_to_load(server_type: str) -> None:
    """If the service can't be created, the server ends with the reason and its exit code, without a ready line."""
    code, log = Hosted(server_type, "broken").fails()
    assert code == ExitCode.MODEL_LOAD
    assert "the service is broken on purpose" in log


@pytest.mark.parametrize(("server_type", "wire"), places(Wire("framed"), Wire("buffered")))
def test_drain(server_type: str, wire: Wire) -> None:
    """After SIGTERM, requests sent before are answered, idle connections closed, new ones refused; exit code 0."""
    with Hosted(server_type, wire=wire) as server, contextlib.ExitStack() as stack:
        idle, busy, *late = (stack.enter_context(server.connect()) for _ in range(5))
        if server_type in SEVERAL_AT_ONCE:
            assert client_on(idle, wire).add(1, 2) == 3
        else:
            idle.close()
        busy.sendall(wire.message(lambda client: client.send_wait(300)) + add(3, 4, wire) + add(5, 6, wire))
        for sock in late:
            sock.sendall(add(7, 8, wire))
        assert server.stop() == ExitCode.OK
        client = client_on(busy, wire)
        assert (client.recv_wait(), client.recv_add(), client.recv_add()) == (300, 7, 11)
        assert [client_on(sock, wire).recv_add() for sock in late] == [15] * 3
        for sock in (busy, *late, *((idle,) if server_type in SEVERAL_AT_ONCE else ())):
            assert read_to_end(sock) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_a_client_that_never_pauses_does_not_block_others() -> None:
    """A worker accepts new connections even if its only connection always has a next request."""
    with Hosted("TProcessPoolServer", workers=1) as server, server.client() as busy:
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                busy.add(1, 2)

        caller = threading.Thread(target=call)
        caller.start()
        try:
            for _ in range(3):
                with server.client() as other:
                    assert other.add(3, 4) == 7
        finally:
            stop.set()
            caller.join()


def test_children_inherit_no_descriptors() -> None:
    """A child of TForkingServer has its own connection, but neither the listening socket nor other connections."""
    with Hosted("TForkingServer") as server, server.client() as first, server.client() as second:
        first.add(1, 2)
        links = _descriptors(second.process())
        assert sum(link.startswith("socket:") for link in links) == 1, links


def _descriptors(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]

"""THeader: clients of several dialects on one port, on every server type."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from thrift.Thrift import TApplicationException
from thrift.transport.TTransport import TTransportException

from dialect_client import DialectClient
from hosting import TYPES, Hosted
from services.gen.calculator.ttypes import DivisionByZero, Pair, Parcel

LARGE = bytes(range(256)) * 2352
MAX_MESSAGE_BYTES = 1_000_000
DIALECTS = ("binary", "compact", "header-binary", "header-compact", "header-zlib")


@pytest.fixture(scope="module", params=TYPES)
def server(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """One server of each type that speaks THeader."""
    with Hosted(request.param, protocol="header", max_message_bytes=MAX_MESSAGE_BYTES) as hosted:
        yield hosted


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_client_is_answered_in_its_dialect(server: Hosted, dialect: str) -> None:
    """Results, exceptions and large contents reach clients of every dialect on one port."""
    with DialectClient(server, dialect) as client:
        assert client.add(2**40, 1) == 2**40 + 1
        parcel = Parcel("label", LARGE)
        assert client.forward(parcel).content == LARGE
        with pytest.raises(DivisionByZero):
            client.divide(1, 0)
        assert client.add(1, 2) == 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_goes_wrong_is_told_in_the_dialect(server: Hosted, dialect: str) -> None:
    """A missing required field is answered as such, and the connection goes on."""
    with DialectClient(server, dialect) as client:
        with pytest.raises(TApplicationException, match="left") as caught:
            client.total(Pair(None, 2))
        assert caught.value.type == TApplicationException.PROTOCOL_ERROR
        assert client.add(1, 2) == 3


def test_garbage_costs_its_own_connection(server: Hosted) -> None:
    """Headers that are none end their connection; the next client is served."""
    with socket.create_connection(server.address) as sock:
        sock.sendall(b"\0\0\0\x10\x0f\xff\0\0\0\0\0\1\x7f\xff" + b"\xff" * 6)
        assert sock.recv(100) == b""
    with DialectClient(server, "header-binary") as client:
        assert client.add(1, 2) == 3


def test_a_bomb_is_refused(server: Hosted) -> None:
    """A small compressed frame that unfolds past the limit ends its connection, not the memory."""
    with DialectClient(server, "header-zlib") as client, pytest.raises((TTransportException, OSError)):
        client.forward(Parcel("label", bytes(10 * MAX_MESSAGE_BYTES)))
    with DialectClient(server, "header-binary") as client:
        assert client.add(1, 2) == 3

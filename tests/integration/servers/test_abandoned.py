"""Clients that go before they are answered: nothing that waits is run for them, except oneway calls."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from batched_load import frame
from documents import SUPPORT
from hosting import TYPES, Hosted, Wire, client_on, eventually, places
from served import Served

MANY = 30
#: Requests that had begun, or were with a worker, before their client's end could be seen.
BEGUN = 5
#: In TThreadedServer nothing waits.
WAITING = [each for each in TYPES if each != "TThreadedServer"]
ONE_AT_A_TIME = ("--threads", "1", "--workers", "1", "--max-children", "1", "--runs-per-worker", "1")


def runs(ledger: Path) -> int:
    """How often the model ran."""
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("server_type", WAITING)
def test_nobody_works_for_a_client_that_has_gone(server_type: str, reset: bool, tmp_path: Path) -> None:
    """Of many requests whose clients have gone, those that wait are not run; a client behind them is answered."""
    ledger = tmp_path / "ledger"
    model = f"m=python:fault_models:Ledger?path={ledger}&ms=150"
    with Served("--model", model, "--server-type", server_type, *ONE_AT_A_TIME, PYTHONPATH=str(SUPPORT)) as server:
        busy = socket.create_connection(("127.0.0.1", server.port))
        busy.sendall(frame(0))
        for number in range(1, MANY + 1):
            gone = socket.create_connection(("127.0.0.1", server.port))
            gone.sendall(frame(number))
            if reset:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        busy.recv(1)
        busy.close()
        with server.client() as client:
            client.predict("m", {"x": [1.0]})
        assert runs(ledger) <= 2 + BEGUN


@pytest.mark.parametrize("server_type", TYPES)
def test_oneway_calls_of_clients_that_have_gone(server_type: str) -> None:
    """Oneway calls are run though their clients went at once: nobody would wait for a reply."""
    with Hosted(server_type, threads=1, workers=1, max_children=1) as server:
        for number in range(MANY):
            sock = server.connect()
            client_on(sock, server.wire).send_remember(str(number))
            sock.close()
        with server.client() as client:
            if server_type != "TForkingServer":  # there each child has a memory of its own
                eventually(lambda: len(client.remembered()) == MANY, "every oneway call")
        assert "had gone" not in server.log()


@pytest.mark.parametrize("answered", [False, True], ids=["default", "answered"])
@pytest.mark.parametrize(("server_type", "wire"), places(Wire(), Wire(protocol="compact"), Wire("buffered")))
def test_half_closed(server_type: str, wire: Wire, answered: bool) -> None:
    """A client that closes its sending side, and reads on, is answered where the setting says so."""
    with Hosted(server_type, wire=wire, threads=1, workers=1, max_children=1, answer_half_closed=answered) as server:
        busy = server.connect()
        first = client_on(busy, wire)
        first.send_wait(300)
        sock = server.connect()
        client = client_on(sock, wire)
        client.send_wait(1)
        sock.shutdown(socket.SHUT_WR)
        first.recv_wait()
        busy.close()
        if answered:
            assert client.recv_wait() == 1
        elif server_type in WAITING:
            assert sock.recv(1) == b""
        sock.close()

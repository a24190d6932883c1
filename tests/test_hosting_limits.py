"""More clients than a server has room for: idle ones, waiting ones, ones beyond its descriptors."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from thrift.Thrift import TApplicationException

from hosting import MANY_IDLE, PATIENCE_S, TYPES, Hosted, Wire, add, client_on, eventually
from services.gen.calculator.ttypes import Busy, Pair

IDLE_CLIENTS = 1500
OPEN_FILES = 48
#: Of one core; a loop that spins takes all of it.
SPINNING = 0.5


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
@pytest.mark.parametrize("server_type", MANY_IDLE)
def test_idle_connections(server_type: str) -> None:
    """1,500 connections that were used once and are kept stand in nobody's way, and are there when used again."""
    request, answer = add(1, 2), 4 + 4 + 4 + 3 + 4 + 3 + 8 + 1
    with Hosted(server_type, max_queued=2 * IDLE_CLIENTS) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(IDLE_CLIENTS)]
        for _ in range(2):
            for sock in idle:
                sock.sendall(request)
            for sock in idle:
                assert len(sock.recv(answer, socket.MSG_WAITALL)) == answer
            with server.client() as active:
                for n in range(200):
                    assert active.add(n, 1) == n + 1
            server.serves()


@pytest.mark.parametrize("server_type", TYPES)
def test_descriptors_run_out(server_type: str) -> None:
    """Out of descriptors a server waits without spinning, serves whom it has, and takes new ones when some are free."""
    with Hosted(server_type, open_files=OPEN_FILES, max_children=8) as server, contextlib.ExitStack() as stack:
        held = stack.enter_context(server.client())
        if server_type in MANY_IDLE:
            assert held.add(1, 2) == 3
        others = [stack.enter_context(server.connect()) for _ in range(4 * OPEN_FILES)]
        for sock in others:
            sock.sendall(add(1, 2))
        if server_type in MANY_IDLE:
            eventually(lambda: "can't accept connections" in server.log(), "out of descriptors")
        before = server.cpu_s()
        began = time.monotonic()
        while time.monotonic() - began < 1:  # the one thing that only time shows: what is used while nothing happens
            time.sleep(0.25)
            if server_type in MANY_IDLE:
                assert held.add(1, 2) == 3
        assert server.cpu_s() - before < SPINNING * (time.monotonic() - began)
        for sock in others:
            sock.close()
        stack.close()
        server.serves()


def _full(server_type: str) -> dict[str, Any]:
    """Settings under which one client at work leaves room for few."""
    if server_type == "TThreadedServer":
        return {"max_connections": 3}
    return {"threads": 1, "workers": 1, "max_children": 1, "max_queued": 2}


class Crowd:
    """Clients that call at the same time, each on a connection of its own; what became of each call.

    A client keeps its connection until somebody was refused, or they could come one after the other, and all have room.
    """

    def __init__(self, server: Hosted, method: str, *arguments: Any) -> None:
        self._server = server
        self._call = (method, arguments)
        self.answers: list[Any] = []
        self._refused = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(8)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        method, arguments = self._call
        with self._server.client() as client:
            try:
                self.answers.append(getattr(client, method)(*arguments))
            except (TApplicationException, Busy) as error:
                self.answers.append(error)
                self._refused.set()
            self._refused.wait(PATIENCE_S)


@pytest.mark.parametrize("server_type", TYPES)
def test_queue_is_full(server_type: str) -> None:
    """Past the bound of its queue a server refuses, in the service's own words where it has some, and serves on."""
    with Hosted(server_type, refuses_with_busy=True, **_full(server_type)) as server:
        for method, argument, refusal in (("total", Pair(1, 2), Busy), ("wait", 3, TApplicationException)):
            with server.connect() as sock:
                working = client_on(sock, Wire())
                working.send_wait(700)
                crowd = Crowd(server, method, argument)
                with crowd:
                    eventually(lambda: any(type(each) is refusal for each in crowd.answers), "one refused")  # noqa: B023
                    assert working.recv_wait() == 700
                    sock.close()
            refused = [each for each in crowd.answers if isinstance(each, Exception)]
            assert {type(each) for each in refused} == {refusal}
            assert all(each == 3 for each in crowd.answers if not isinstance(each, Exception))
            assert 1 <= len(refused) < len(crowd.answers) == 8
            assert re.search("full|limit", str(refused[0]))
            # Connections of clients that have gone count until somebody has closed them.
            eventually(lambda: _is_served(server), "room for the next client")


@pytest.mark.parametrize("server_type", MANY_IDLE)
def test_connections_are_capped(server_type: str) -> None:
    """One connection more than --max-connections is refused with the reason; when another has gone it is welcome."""
    with Hosted(server_type, max_connections=2, workers=1) as server:
        with server.client() as first, server.client() as second:
            assert (first.add(1, 2), second.add(3, 4)) == (3, 7)
            with server.client() as third, pytest.raises(TApplicationException, match="limit") as caught:
                third.add(5, 6)
            assert caught.value.type == TApplicationException.INTERNAL_ERROR
            assert (first.add(1, 2), second.add(3, 4)) == (3, 7)
        eventually(lambda: _is_served(server), "room for a third")


def _is_served(server: Hosted) -> bool:
    with contextlib.suppress(TApplicationException), server.client() as client:
        return bool(client.add(1, 2) == 3)
    return False


@pytest.mark.parametrize("server_type", TYPES)
def test_idle_connection_is_closed(server_type: str) -> None:
    """A connection without a request for --idle-timeout-s is closed, whether it ever had one or not."""
    with Hosted(server_type, idle_timeout_s=0.3) as server, server.connect() as fresh, server.connect() as used:
        if server_type == "TSimpleServer":
            assert fresh.recv(1) == b""
        assert client_on(used, server.wire).add(1, 2) == 3
        assert used.recv(1) == b""
        assert fresh.recv(1) == b""


@pytest.mark.parametrize("server_type", ["TNonblockingServer", "TProcessPoolServer"])
def test_oneway_calls_are_no_idleness(server_type: str) -> None:
    """A client that only sends oneway calls, which nobody answers, is not idle while it does."""
    with Hosted(server_type, idle_timeout_s=2.0) as server, server.client() as client:
        for number in range(3):  # late clients are looked for each second, or a second after the last event
            client.remember(str(number))
            time.sleep(1.3)
        assert client.remembered() == [str(number) for number in range(3)]

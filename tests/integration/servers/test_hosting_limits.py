"""More clients than a server's limits: idle ones, waiting ones, more than its descriptors."""

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
#: The share of one core that a waiting server may use. A loop that spins uses all of it.
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
    """1,500 idle connections don't slow an active client down, and work when they are used again."""
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
    """Out of descriptors a server does not spin, serves its clients, and accepts new ones once descriptors are free."""
    with Hosted(server_type, open_files=OPEN_FILES, max_children=8) as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(server.client())
        if server_type in MANY_IDLE:
            assert first.add(1, 2) == 3
        others = [stack.enter_context(server.connect()) for _ in range(4 * OPEN_FILES)]
        for sock in others:
            sock.sendall(add(1, 2))
        if server_type in MANY_IDLE:
            eventually(lambda: "can't accept connections" in server.log(), "out of descriptors")
        before = server.cpu_s()
        start = time.monotonic()
        while time.monotonic() - start < 1:  # CPU use of a waiting server needs time to measure
            time.sleep(0.25)
            if server_type in MANY_IDLE:
                assert first.add(1, 2) == 3
        assert server.cpu_s() - before < SPINNING * (time.monotonic() - start)
        for sock in others:
            sock.close()
        stack.close()
        server.serves()


def _small_limits(server_type: str) -> dict[str, Any]:
    """Return settings with room for few clients beside a busy one."""
    if server_type == "TThreadedServer":
        return {"max_connections": 3}
    return {"threads": 1, "workers": 1, "max_children": 1, "max_queued": 2}


class Crowd:
    """Clients that call at the same time, each on its own connection.

    A client keeps its connection until one was rejected. Otherwise they might call one after the other.

    Attributes:
        answers: what each call returned or raised.
    """

    def __init__(self, server: Hosted, method: str, *arguments: Any) -> None:
        self._server = server
        self._call = (method, arguments)
        self.answers: list[Any] = []
        self._rejected = threading.Event()
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
                self._rejected.set()
            self._rejected.wait(PATIENCE_S)


@pytest.mark.parametrize("server_type", TYPES)
def test_queue_is_full(server_type: str) -> None:
    """A server with a full queue rejects requests, with the service's own error if it has one, and serves on."""
    with Hosted(server_type, refuses_with_busy=True, **_small_limits(server_type)) as server:
        for method, argument, refusal in (("total", Pair(1, 2), Busy), ("wait", 3, TApplicationException)):
            with server.connect() as sock:
                working = client_on(sock, Wire())
                working.send_wait(700)
                crowd = Crowd(server, method, argument)
                with crowd:
                    eventually(lambda: any(type(answer) is refusal for answer in crowd.answers), "a rejection")  # noqa: B023
                    assert working.recv_wait() == 700
                    sock.close()
            errors = [answer for answer in crowd.answers if isinstance(answer, Exception)]
            assert {type(error) for error in errors} == {refusal}
            assert all(answer == 3 for answer in crowd.answers if not isinstance(answer, Exception))
            assert 1 <= len(errors) < len(crowd.answers) == 8
            assert re.search("full|limit", str(errors[0]))
            # A connection counts until the server has noticed its end and closed it.
            eventually(lambda: _is_served(server), "room for the next client")


@pytest.mark.parametrize("server_type", MANY_IDLE)
def test_connections_are_limited(server_type: str) -> None:
    """A connection over --max-connections is rejected with the reason. Once another has ended, it is served."""
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
    """A connection without a request for --idle-timeout-s is closed, used before or not."""
    with Hosted(server_type, idle_timeout_s=0.3) as server, server.connect() as fresh, server.connect() as used:
        if server_type == "TSimpleServer":
            assert fresh.recv(1) == b""
        assert client_on(used, server.wire).add(1, 2) == 3
        assert used.recv(1) == b""
        assert fresh.recv(1) == b""


@pytest.mark.parametrize("server_type", ["TNonblockingServer", "TProcessPoolServer"])
def test_oneway_calls_are_not_idle(server_type: str) -> None:
    """Oneway calls, which get no response, restart the idle time-out."""
    with Hosted(server_type, idle_timeout_s=2.0) as server, server.client() as client:
        for number in range(3):  # servers check for idle clients every second
            client.remember(str(number))
            time.sleep(1.3)
        assert client.remembered() == [str(number) for number in range(3)]


#: Connections that come at once, and how many of them may wait.
BURST, QUEUED = 2000, 10


def _result_or_refusal(sock: socket.socket, wire: Wire) -> Any:
    try:
        return client_on(sock, wire).recv_add()
    except TApplicationException as error:
        return error


@pytest.mark.usefixtures("_many_files")
@pytest.mark.parametrize("silent", [0, 40], ids=["all-talk", "some-silent"])
@pytest.mark.parametrize("server_type", TYPES)
def test_refusals_keep_pace(server_type: str, silent: int) -> None:
    """Of a burst exactly those for whom there is room are served; everybody else who sends a request is refused."""
    limits: dict[str, Any] = {"max_queued": QUEUED, "threads": 1, "workers": 1, "max_children": 1}
    room = QUEUED
    if server_type == "TThreadedServer":  # nothing waits there
        limits["max_connections"] = QUEUED
        room -= 1  # the busy client has a connection, too
    with Hosted(server_type, **limits) as server, contextlib.ExitStack() as stack:
        busy = stack.enter_context(server.connect())
        working = client_on(busy, server.wire)
        working.send_wait(3000)
        for _ in range(silent):
            stack.enter_context(server.connect())
        crowd = [stack.enter_context(server.connect()) for _ in range(BURST)]
        for sock in crowd:
            sock.sendall(add(1, 2))
        served = 0
        assert working.recv_wait() == 3000
        busy.close()
        for sock in crowd:
            answer = _result_or_refusal(sock, server.wire)
            served += answer == 3
            assert answer == 3 or re.search("full|limit", str(answer))
            sock.close()
        assert served <= room
        assert silent or served == room  # silent clients may have the room to themselves
        stack.close()
        eventually(lambda: _is_served(server), "room for the next client")

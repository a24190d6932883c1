"""Requests that nobody would send: made from the OpenAPI description, and valid ones changed by chance.

The suite sends some thousands; `make fuzz` sends more of both: FUZZ_TIMES as many, from FUZZ_SEED on.
"""

from __future__ import annotations

import http.client
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import bad_requests
import exports_examples
import openapi_fuzz
from documents import SUPPORT
from gateway_served import COMMAND, Answer, Door
from small_models import small
from thriftserve_bench.processes import ServerProcess, clean_environment
from thriftserve_client import Client
from valid_requests import SEEDS

TIMES = float(os.environ.get("FUZZ_TIMES", "1"))
SEED = int(os.environ.get("FUZZ_SEED", "20"))
#: Bodies may be so large; a packed one that unpacks to more is refused.
LIMIT = 2_000_000
#: What a request may be answered that is wrong in itself.
THEIRS = (400, 404, 405, 406, 408, 413, 415, 431)
#: A type that no model takes; a time that the request itself set too short.
OURS = (501, 504)
WARM_UP, BAD = 2_000, 10_000
#: What a process may have grown by after BAD requests: 600 bytes for each would be seen. After many more it may be
#: four times as much, and no more than that: cycles wait for the collector, and the allocator's holes level out.
FLAT_BYTES = round(6 * 2**20 * min(max(TIMES, 1), 4))


class Site:
    """A server of several models and a gateway before it, their logs kept."""

    def __init__(self, server: ServerProcess, gateway: ServerProcess) -> None:
        self.server, self.gateway = server, gateway
        self.door = Door(gateway)

    def resident(self) -> dict[str, int]:
        """Bytes of memory of the gateway and of each process of the server."""
        with Client("127.0.0.1", self.server.port) as client:
            workers = {f"{one.role} {one.index}": one.pid for one in client.server_status().workers}
        pids = {"gateway": self.gateway.pid, "parent": self.server.pid, **workers}
        return {name: psutil.Process(pid).memory_info().rss for name, pid in pids.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    scratch = tmp_path_factory.mktemp("fuzz")
    models = {
        "half_plus_two": small("half_plus_two"),
        "text": small("text_classifier"),
        "examples": exports_examples.write(scratch / "examples"),
        "stripes": small("image_classifier"),
        "detector": small("detector"),
        "kinds": "python:gateway_models:Kinds",
    }
    flags = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
    env = clean_environment(PYTHONPATH=str(SUPPORT))
    with ServerProcess(
        [*flags, "--port", "0", "--workers", "1", "--devices", "cpu"], env=env, log=scratch / "server.log"
    ) as server:
        own = ("--backend", f"127.0.0.1:{server.port}", "--max-body-bytes", str(LIMIT), "--read-timeout-s", "2")
        with ServerProcess(own, command=COMMAND, log=scratch / "gateway.log") as gateway:
            yield (made := Site(server, gateway))
            made.door.hang_up()
    for log in ("server.log", "gateway.log"):
        assert "Traceback" not in (scratch / log).read_text(encoding="utf-8")


class Line:
    """A connection for requests as bytes; whoever damages one on it gets another for the next."""

    def __init__(self, site: Site) -> None:
        self._address = (site.gateway.host, site.gateway.port)
        self._sock: socket.socket | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, data: bytes, method: str) -> Answer:
        """The answer to a whole request."""
        if self._sock is None:
            self._sock = socket.create_connection(self._address, 60)
        self._sock.sendall(data)
        answer = _read(self._sock, method)
        assert answer is not None, data[:500]
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def ask_broken(self, data: bytes, method: str) -> Answer | None:
        """The answer to a damaged one after which nothing comes; None: there is none."""
        self.close()
        with socket.create_connection(self._address, 60) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                return None  # the gateway saw enough
            return _read(sock, method)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _read(sock: socket.socket, method: str) -> Answer | None:
    response = http.client.HTTPResponse(sock, method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    except (http.client.HTTPException, ConnectionResetError):
        return None
    finally:
        response.close()


def _send(site: Site, dice: random.Random, number: int) -> Counter[int | str]:
    """So many bad requests; how often which status came."""
    seen: Counter[int | str] = Counter()
    with Line(site) as line:
        for _ in range(number):
            answer = (_send_broken if dice.random() < 0.1 else _send_whole)(line, dice)
            seen["none" if answer is None else answer.status] += 1
    return seen


def _send_broken(line: Line, dice: random.Random) -> Answer | None:
    request = bad_requests.asked(dice)
    data = bad_requests.broken(dice, request)
    answer = line.ask_broken(data, request.method)
    assert answer is None or answer.status in (200, *THEIRS, *OURS), (answer, data[:2000])
    return answer


def _send_whole(line: Line, dice: random.Random) -> Answer:
    request = bad_requests.asked(dice)
    answer = line.ask(bad_requests.wire(request, chunked=dice.choice((0, 0, 0, 5, 1000))), request.method)
    assert answer.status in (200, *THEIRS, *OURS), (answer, request)
    if answer.status != 200 and answer.headers["content-type"] == "application/json" and answer.body:
        assert answer.error
    return answer


def test_what_is_changed_was_valid(site: Site) -> None:
    """The requests that the others come from are answered 200, but for a label that nobody set."""
    with Line(site) as line:
        for request in SEEDS:
            answer = line.ask(bad_requests.wire(request), request.method)
            assert answer.status == (400 if "/labels/" in request.path else 200), (answer, request)


def test_what_the_description_allows_and_forbids(site: Site, tmp_path: Path) -> None:
    """schemathesis finds no answer that is a failure of ours, and none that is not as described."""
    models = ["half_plus_two", "text", "examples", "stripes", "detector", "kinds"]
    done = openapi_fuzz.run(site.door, models, tmp_path, examples=round(6 * TIMES), seed=SEED)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "Tested: 31" in done.stdout, done.stdout


def test_bad_requests_get_answers_and_leave_nothing_behind(site: Site) -> None:
    """Ten thousand requests that are almost right: each its own answer, none of them a failure, no memory kept."""
    dice = random.Random(SEED)
    seen = _send(site, dice, WARM_UP)
    before = site.resident()
    seen += _send(site, dice, round(BAD * TIMES))
    grown = {name: bytes_ - before[name] for name, bytes_ in site.resident().items()}
    assert seen[200] > 1000 and seen[400] > 3000 and seen["none"] > 100, seen
    assert all(more < FLAT_BYTES for more in grown.values()), grown
    site.door.hang_up()  # it has been idle all the while
    for request in SEEDS[:3]:
        assert site.door.post(request.path, request.body).status == 200

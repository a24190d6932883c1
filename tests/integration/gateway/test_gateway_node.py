"""The gateway among servers that fail, clients that misbehave and operators that stop it."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from certificates import Authority
from client_service import Service, hanging_up, relaying_to, saying, scripted, serving, silent
from gateway_served import COMMAND, Door, gateway
from thriftserve.gateway.images import is_public
from thriftserve_bench.processes import clean_environment
from thriftserve_client import DataType, ErrorCode
from thriftserve_idl import ttypes

HALF = "/v1/models/half_plus_two:predict"
BODY = {"inputs": [1.0, 2.0]}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A model server in this process."""
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def door(service: Service) -> Iterator[Door]:
    """A gateway before it."""
    with gateway(service.port, flags=("--read-timeout-s", "0.5", "--backend-connections", "2")) as made:
        yield made


@contextlib.contextmanager
def answering(service: Service, method: str, function: Callable[[Any], Any]) -> Iterator[None]:
    """Has the service answer a method by a function."""
    setattr(service.handler, method, function)
    try:
        yield
    finally:
        delattr(service.handler, method)


def failing(code: ErrorCode, retryable: bool) -> Callable[[Any], Any]:
    """A method that fails."""

    def fail(_: Any) -> Any:
        raise ttypes.PredictError(code, "as you wished", retryable)

    return fail


def test_a_server_that_breaks_off_costs_no_request(service: Service) -> None:
    """Of two servers one hangs up on every call: each request is answered by the other, and /readyz tells."""
    with scripted(hanging_up) as broken, gateway(broken, service.port) as door:
        assert [door.predict("half_plus_two", BODY).status for _ in range(30)] == [200] * 30
        told = door.get("/readyz")
        assert told.status == 200 and told.json()["status"] == "degraded"
        states = {one["backend"]: one["status"] for one in told.json()["backends"]}
        assert states == {f"127.0.0.1:{broken}": "failed", f"127.0.0.1:{service.port}": "ok"}


def test_servers_behind_tls(tmp_path: Path) -> None:
    """A server that asks for a certificate is called by TLS; one signed by another authority is not trusted."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server, client = ours.issue("server"), ours.issue("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.cert, server.key)
    shown = ("--backend-cert", client.cert, "--backend-key", client.key)
    with serving(context=context) as service:
        with gateway(service.port, flags=("--backend-ca", ours.cert, *shown)) as door:
            assert door.predict("half_plus_two", BODY).json()["outputs"]["y"] == [2.5, 3.0]
        with gateway(service.port, flags=("--backend-ca", theirs.cert, *shown)) as door:
            refused = door.predict("half_plus_two", BODY)
            assert refused.status == 503 and "certificate" in refused.error.lower()


def test_connections_that_were_closed_are_replaced(service: Service) -> None:
    """A server that closes every connection after a call or two costs no request."""
    with scripted(relaying_to(service.port, calls=2)) as relay, gateway(relay) as door:
        assert [door.predict("half_plus_two", BODY).status for _ in range(9)] == [200] * 9


def test_unavailable_and_full_servers_are_passed_over(service: Service) -> None:
    """Where one server is UNAVAILABLE or full, the other answers; where there is no other, the client is told so."""
    with serving() as other, gateway(service.port, other.port) as door:
        assert door.predict("half_plus_two", BODY).status == 200
        for code in (ErrorCode.UNAVAILABLE, ErrorCode.RESOURCE_EXHAUSTED):
            with answering(other, "predict", failing(code, True)):
                assert [door.predict("half_plus_two", BODY).status for _ in range(10)] == [200] * 10
    with gateway(service.port) as door:
        assert door.predict("half_plus_two", BODY).status == 200
        for code, retryable, status in [
            (ErrorCode.UNAVAILABLE, True, 503),
            (ErrorCode.RESOURCE_EXHAUSTED, True, 503),
            (ErrorCode.RESOURCE_EXHAUSTED, False, 429),
            (ErrorCode.ABORTED, False, 409),
            (ErrorCode.PERMISSION_DENIED, False, 403),
            (ErrorCode.UNAUTHENTICATED, False, 401),
            (ErrorCode.DATA_LOSS, False, 500),
            (ErrorCode.CANCELLED, False, 499),
        ]:
            with answering(service, "predict", failing(code, retryable)):
                answer = door.predict("half_plus_two", BODY)
            assert (answer.status, answer.error) == (status, "as you wished")
            assert ("retry-after" in answer.headers) == (status == 503)


def test_without_a_server(unused: int) -> None:
    """With no server there, requests are answered 503 with the reason, and /readyz fails while /healthz does not."""
    with gateway(unused) as door:
        answer = door.predict("half_plus_two", BODY)
        assert answer.status == 503 and f"127.0.0.1:{unused} refused" in answer.error
        told = door.get("/readyz")
        assert told.status == 503 and "refused" in told.json()["backends"][0]["error"]
        assert door.get("/v2/health/ready").status == 503
        assert door.get("/healthz").status == 200


@pytest.fixture
def unused() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_servers_that_answer_nothing_or_nonsense() -> None:
    """A server that never answers is a 504 when the time is over, one that is no thriftserve a 502."""
    with scripted(silent) as mute, gateway(mute) as door:
        answer = door.post(f"{HALF}?timeout=0.2", BODY)
        assert answer.status == 504 and "in time" in answer.error
    with scripted(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as other, gateway(other) as door:
        assert door.predict("half_plus_two", BODY).status == 502


def test_the_request_reaches_the_server_whole(service: Service, door: Door) -> None:
    """Request id, time left, version and signature stand in the request that the server gets."""
    service.handler.requests.clear()
    path = "/v1/models/half_plus_two/versions/9:predict?timeout=7"
    body = {"signature_name": "serving_default", "inputs": [1.0]}
    assert door.post(path, body, {"X-Request-Id": "mine-1"}).status == 200
    (request,) = service.handler.requests
    assert request.request_id == "mine-1" and 5000 < request.timeout_ms <= 7000
    assert (request.model_spec.version, request.model_spec.signature_name) == (9, "serving_default")


def test_a_model_that_changes_is_described_anew(service: Service, door: Door) -> None:
    """Once a model takes another type than it was described with, the first request already fits the new one."""
    assert door.predict("half_plus_two", BODY).json()["outputs"]["y"] == [2.5, 3.0]
    whole = ttypes.TensorInfo("x", DataType.INT64, [-1])
    signature = ttypes.SignatureInfo("serving_default", "tensorflow/serving/predict", {"x": whole}, {})
    described = ttypes.ModelMetadata(
        ttypes.ModelSpec("half_plus_two", 8), "tensorflow", {"serving_default": signature}, []
    )

    def predict(request: Any) -> Any:
        if request.inputs["x"].dtype != DataType.INT64:
            raise ttypes.PredictError(ErrorCode.INVALID_ARGUMENT, "x must be INT64", False)
        return ttypes.PredictResponse(ttypes.ModelSpec("half_plus_two", 8), {"y": request.inputs["x"]})

    with answering(service, "predict", predict), answering(service, "getModelMetadata", lambda spec: described):
        assert door.predict("half_plus_two", {"inputs": [1, 2]}).json() == {"outputs": [1, 2]}
    while (
        answer := door.predict("half_plus_two", BODY)
    ).status != 200:  # what does not fit is asked about once a second
        assert "not of expected type: int64" in answer.error


def test_more_requests_than_connections(service: Service, door: Door) -> None:
    """Requests wait their turn where every connection to the server is busy; all are answered."""

    def some(_: int) -> list[int]:
        own = Door(door.process)
        found = [own.predict("half_plus_two", BODY).status for _ in range(20)]
        own.hang_up()
        return found

    with ThreadPoolExecutor(16) as threads:
        assert [one for found in threads.map(some, range(16)) for one in found] == [200] * 320


class Gate:
    """A predict that waits until it is let go."""

    def __init__(self, service: Service) -> None:
        self._answer = type(service.handler).predict
        self._handler = service.handler
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, request: Any) -> Any:
        self.reached.set()
        self.open.wait(30)
        return self._answer(self._handler, request)


def test_more_requests_than_are_allowed(service: Service) -> None:
    """A request beyond --max-in-flight is answered 503 at once; those under way are not disturbed."""
    with gateway(service.port, flags=("--max-in-flight", "1")) as door, ThreadPoolExecutor(1) as threads:
        gate = Gate(service)
        with answering(service, "predict", gate):
            first = threads.submit(door.predict, "half_plus_two", BODY)
            assert gate.reached.wait(30)
            second = Door(door.process)
            refused = second.predict("half_plus_two", BODY)
            second.hang_up()
            gate.open.set()
            assert first.result(30).status == 200
        assert refused.status == 503 and "max_in_flight is 1" in refused.error
        assert door.predict("half_plus_two", BODY).status == 200


def test_sigterm_lets_requests_end(service: Service) -> None:
    """After SIGTERM no connection is taken, the request under way is answered, and the exit code is 0."""
    with gateway(service.port) as door, ThreadPoolExecutor(1) as threads:
        gate = Gate(service)
        with answering(service, "predict", gate):
            under_way = threads.submit(door.predict, "half_plus_two", BODY)
            assert gate.reached.wait(30)
            psutil.Process(door.process.pid).send_signal(signal.SIGTERM)
            while True:  # until it listens no more
                try:
                    socket.create_connection((door.host, door.port), 5).close()
                except ConnectionError:
                    break
            gate.open.set()
            assert under_way.result(30).status == 200
        assert door.process.wait(30) == 0


def sent_raw(door: Door, data: bytes) -> bytes:
    """What comes back for bytes that no HTTP client would send, up to the end of the connection or an answer."""
    with socket.create_connection((door.host, door.port), 20) as sock:
        sock.sendall(data)
        return sock.recv(65536)


def test_bodies_that_never_end(door: Door) -> None:
    """A body that does not come is a 408; bytes that are no HTTP are a 400; neither disturbs others."""
    head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
    assert sent_raw(door, head).startswith(b"HTTP/1.1 408")
    assert sent_raw(door, b"\x80\x01\x00\x01 this is thrift\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert door.predict("half_plus_two", BODY).status == 200


def sent_until_closed(door: Door, *parts: bytes) -> bytes:
    """What comes back until the gateway closes the connection."""
    found = b""
    with socket.create_connection((door.host, door.port), 20) as sock, contextlib.suppress(ConnectionError):
        for part in parts:
            sock.sendall(part)
        while piece := sock.recv(65536):
            found += piece
    return found


def test_clients_that_say_nothing_or_never_come_to_the_point(door: Door) -> None:
    """A connection without a request, or with part of a head, is closed in time; a head without end is refused."""
    head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    assert sent_until_closed(door) == b""
    assert sent_until_closed(door, head) == b""
    whole, rest = sent_until_closed(door, head + b"\r\n" + head).split(b"\r\n", 1)
    assert whole == b"HTTP/1.1 200 OK" and rest.endswith(b'{"status":"ok"}')
    endless = sent_until_closed(door, head, *[b"X-More: " + b"a" * 1000 + b"\r\n"] * 300)
    assert not endless or endless.startswith(b"HTTP/1.1 431")
    endless = sent_until_closed(door, b"GET /" + b"a" * 100_000)
    assert not endless or endless.startswith(b"HTTP/1.1 431")
    assert door.predict("half_plus_two", BODY).status == 200


def test_a_slow_answer_outlives_what_comes_after_it(service: Service, door: Door) -> None:
    """Part of a next head does not cut off the answer that is still being made."""
    gate = Gate(service)
    body = b'{"inputs": [1.0, 2.0]}'
    whole = (
        b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    with answering(service, "predict", gate), ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(sent_until_closed, door, whole, b"GET /healthz HTTP/1.1\r\n")
        assert gate.reached.wait(30)
        threading.Event().wait(1.2)  # twice the time that a head may take
        gate.open.set()
        assert under_way.result(30).startswith(b"HTTP/1.1 200 OK")


def test_addresses_inside_are_not_fetched(door: Door) -> None:
    """Image addresses that lead to this machine are refused unless the settings allow them."""
    told = door.post("/service?model=m", ["http://127.0.0.1:1/a.png", "http://[::1]/a.png", "http://localhost/"]).json()
    assert [one["error"] for one in told] == ["its address is in a private network"] * 3


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.3.4", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    """Private, local, shared and translated addresses are told from public ones."""
    assert is_public(ipaddress.ip_address(address)) == public


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--backend", "nowhere"], 2, "HOST:PORT"),
        (["--backend", ","], 2, "one server"),
        (["--request-timeout-s", "700"], 2, "max_timeout_s"),
        (["--cors-origin", "example.org"], 2, "cors_origin"),
        (["--modle", "x"], 2, "unknown option --modle"),
        (["--backend-cert", "a.pem"], 2, "backend_ca"),
        (["--host", "no.such.host.invalid"], 3, "not an address of this machine"),
    ],
)
def test_settings_that_can_not_be(flags: list[str], code: int, word: str) -> None:
    """A wrong setting ends the command at once, with its exit code and a message that names it."""
    command = [sys.executable, "-m", "thriftserve", "gateway", *flags]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code and word in done.stderr, done.stderr


def test_settings_are_shown(door: Door) -> None:
    """--print-settings shows each value and where it came from; the server's own variables mean nothing here."""
    command = [*COMMAND, "--print-settings"]
    env = clean_environment(THRIFTSERVE_GATEWAY_BACKEND="10.0.0.1:1,unix:/run/a", THRIFTSERVE_PORT="9")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "10.0.0.1:1, unix:/run/a" in lines["backend"] and "THRIFTSERVE_GATEWAY_BACKEND" in lines["backend"]
    assert lines["port"].split()[1:] == ["0", "flag", "--port"]

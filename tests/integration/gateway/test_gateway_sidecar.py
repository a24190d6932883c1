"""`thriftserve serve --rest-port`: the gateway as a child of the server that it calls."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from documents import SUPPORT
from gateway_served import Door
from thriftserve_bench.process_tree import signal_process
from thriftserve_bench.processes import ServerProcess, clean_environment
from thriftserve_client import Client

TESTS = str(SUPPORT)
FLAGS = ["--model", "m=python:gateway_models:Moody", "--port", "0", "--rest-port", "0", "--workers", "1"]
COMMAND = [sys.executable, "-m", "thriftserve", "serve"]


@pytest.mark.parametrize("server_type", ["TBatchingServer", "TThreadPoolServer"])
def test_a_server_with_its_own_gateway(server_type: str) -> None:
    """It answers on both ports, takes the gateway's variables, replaces one that is killed, lets requests end."""
    flags = [*FLAGS, "--server-type", server_type, "--devices", "cpu"]
    # A port of its own would be ambiguous: that follows from the server's settings.
    variables = {"THRIFTSERVE_GATEWAY_CORS_ORIGIN": "https://good.example", "THRIFTSERVE_GATEWAY_PORT": "1"}
    with ServerProcess(flags, env=clean_environment(PYTHONPATH=TESTS, **variables), command=COMMAND) as server:
        door = Door(server)
        door.port = int(server.ready["rest_port"])
        assert door.predict("m", {"inputs": ["fine"]}).json() == {"outputs": ["fine"]}
        allowed = door.get("/healthz", Origin="https://good.example").headers
        assert allowed["access-control-allow-origin"] == "https://good.example"
        with Client(server.host, server.port) as client:
            (gateway,) = [one for one in client.server_status().workers if one.role == "gateway"]
        assert gateway.state == "IDLE"
        signal_process(gateway.pid, signal.SIGKILL)
        door.hang_up()
        while True:  # until its successor is there
            try:
                assert door.predict("m", {"inputs": ["fine"]}).status == 200
                break
            except (ConnectionError, OSError):
                continue
        with ThreadPoolExecutor(1) as threads:
            under_way = threads.submit(door.predict, "m", {"inputs": ["sleep 0.5"]})
            with Client(server.host, server.port) as client:
                while not (under_way.done() or any(one.in_flight for one in client.server_status().workers)):
                    pass
            signal_process(server.pid, signal.SIGTERM)
            assert under_way.result(30).json() == {"outputs": ["sleep 0.5"]}
        assert server.wait(30) == 0
        door.hang_up()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--transport", "buffered", "--server-type", "TThreadPoolServer"], "buffered"),
        (["--rest-port", "70000"], "65535"),
    ],
)
def test_servers_that_the_gateway_can_not_call(flags: list[str], word: str) -> None:
    """A transport that the gateway does not speak, and a port that is none, end the server at once with code 2."""
    done = subprocess.run(
        [*COMMAND, *FLAGS, *flags],
        env=clean_environment(PYTHONPATH=TESTS),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and word in done.stderr, done.stderr

"""deploy/haproxy.cfg: nodes that answer a ping, gateways that are ready; one of each killed under load."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.transport.TTransport import TFramedTransport, TMemoryBuffer

from deployed import BODY, DEPLOY, PREDICT, TESTS, Load, ask, needs, ports, rendered, started, wait_until
from gateway_served import gateway
from served import Served
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import Client
from thriftserve_idl import Predict


def checked(word: str) -> bytes:
    """The bytes that the health check sends or expects."""
    text = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    (found,) = re.findall(rf"tcp-check {word} ([0-9a-f]+)$", text, re.MULTILINE)
    return bytes.fromhex(found)


def node() -> Served:
    return Served("--model", "any=python:served_models:Doubler", "--workers", "1", PYTHONPATH=TESTS)


def test_the_health_check_is_a_ping_of_the_contract() -> None:
    """What is sent is what the generated client writes, what is expected is what the generated reply writes."""
    sent = TMemoryBuffer()
    Predict.Client(TBinaryProtocolAccelerated(TFramedTransport(sent), fallback=False)).send_ping()
    assert sent.getvalue() == checked("send-binary")
    reply = TMemoryBuffer()
    framed = TFramedTransport(reply)
    protocol = TBinaryProtocolAccelerated(framed, fallback=False)
    protocol.writeMessageBegin("ping", 2, 0)
    Predict.ping_result().write(protocol)
    protocol.writeMessageEnd()
    framed.flush()
    assert reply.getvalue() == checked("expect binary")


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts and says nothing: alive to whoever only connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listening.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in held:
                one.close()


class Caller:
    """Calls a node through HAProxy, each thread on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._of_thread = threading.local()
        self.made: list[Client] = []

    def __call__(self) -> None:
        client = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = Client("127.0.0.1", self._port, timeout_s=10)
            self.made.append(client)
        assert client.predict("any", {"x": np.array([1, 2])})["y"].tolist() == [2, 4]


def test_a_killed_node_and_a_killed_gateway_cost_no_client_an_error(tmp_path: Path) -> None:
    """Clients that repeat a call once see no error, Thrift or HTTP; a port that says nothing never gets a call."""
    needs("haproxy")
    thrift, http = ports(2)
    with node() as first, node() as second, gateway(first.port, second.port) as one, gateway(second.port) as two:
        words = {
            "bind :9090": f"bind 127.0.0.1:{thrift}",
            "bind :8080": f"bind 127.0.0.1:{http}",
            "127.0.0.1:9091": f"127.0.0.1:{first.port}",
            "127.0.0.1:9092": f"127.0.0.1:{second.port}",
            "127.0.0.1:8501": f"127.0.0.1:{one.port}",
            "127.0.0.1:8502": f"127.0.0.1:{two.port}",
        }
        with silent() as mute:
            words["server node-2"] = f"server node-0 127.0.0.1:{mute}\n    server node-2"
            config = rendered("haproxy.cfg", tmp_path, words)
            with started(["haproxy", "-db", "-f", str(config)], tmp_path):
                log = tmp_path / "haproxy.log"
                wait_until(lambda: "nodes/node-0 is DOWN" in log.read_text(), "the silent port is found out")
                _survives(thrift, http, first, two.process.pid, log)


def _survives(thrift: int, http: int, victim: Served, gateway_pid: int, log: Path) -> None:
    wait_until(lambda: ask(http, "/readyz")[0] == 200, "a gateway is ready behind it")
    call = Caller(thrift)

    def over_http() -> None:
        assert ask(http, PREDICT, BODY)[0] == 200

    with Load(call, clients=4) as load, Load(over_http, clients=2) as web:
        load.goes_on(200)
        web.goes_on()
        with victim.client() as own:
            assert sum(one.requests for one in own.server_status().workers) > 20, "it had no part of the load"
        signal_process(victim.pid, signal.SIGKILL)
        load.goes_on(200)
        web.goes_on(50)
        signal_process(gateway_pid, signal.SIGKILL)
        wait_until(lambda: "nodes/node-1 is DOWN" in log.read_text(), "the killed node is found out")
        wait_until(lambda: "gateways/gateway-2 is DOWN" in log.read_text(), "the killed gateway is found out")
        web.goes_on()
        load.goes_on(200)
    for client in call.made:
        client.close()
    assert (load.lost, web.lost) == ([], [])

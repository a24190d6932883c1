"""Failures of processes: killed workers, killed supervisors, failed loads, signals under load."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from documents import SUPPORT
from served import Served, command, environment
from thriftserve.errors import ExitCode
from thriftserve.settings import SERVER_TYPES
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import Client, ConnectionFailed, InternalError, ThriftServeClientError

HERE = str(SUPPORT)
X = np.arange(3, dtype=np.float32)

every_type = pytest.mark.parametrize("server_type", SERVER_TYPES)


def ledger_server(server_type: str, ledger: Path, *arguments: str, ms: int = 0) -> Served:
    """Return a server whose model writes each run to `ledger`."""
    model = f"m=python:fault_models:Ledger?path={ledger}&ms={ms}"
    return Served("--model", model, "--server-type", server_type, *arguments, PYTHONPATH=HERE)


@pytest.fixture(name="lasting", scope="module", params=SERVER_TYPES)
def _lasting(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server of each type, for tests that it survives. Its model `bad` crashes."""
    models = ("--model", "m=python:fault_models:Ledger?path=/dev/null", "--model", "bad=python:fault_models:Crasher")
    with Served(*models, "--server-type", request.param, "--workers", "2", PYTHONPATH=HERE) as server:
        yield server
        assert server.stop()[0] == ExitCode.OK


@pytest.fixture
def server(lasting: Served) -> Served:
    """The lasting server, after all its workers have recovered from the previous test."""
    wait_until(lambda: works(lasting) and len(worker_pids(lasting)) == _worker_count(lasting) and _serving(lasting))
    return lasting


def _worker_count(server: Served) -> int:
    return 2 if server.server_type in ("TProcessPoolServer", "TBatchingServer") else 1


def _serving(server: Served) -> bool:
    with server.client() as client:
        return bool(client.server_status().state == "SERVING")


def runs(ledger: Path) -> int:
    """Return how many requests the server has run."""
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. pytest's time-out is the limit."""
    while not condition():
        time.sleep(0.01)


def works(server: Served) -> bool:
    """Return whether a request on a new connection is answered."""
    try:
        with Client("127.0.0.1", server.port, timeout_s=20) as client:
            return bool((client.predict("m", {"x": X})["x"] == X).all())
    except ThriftServeClientError:
        return False


def worker_pids(server: Served) -> list[int]:
    """Return the supervisor's children that have a model: no front, no controller."""
    children = psutil.Process(server.pid).children()
    if server.server_type != "TBatchingServer":
        return [child.pid for child in children if has_listener(child)]
    pids = [child.pid for child in children]
    with server.client() as client:
        return [
            worker.pid for worker in client.server_status().workers if worker.role == "worker" and worker.pid in pids
        ]


def has_listener(process: psutil.Process) -> bool:
    """Return whether a process has the listening socket. The controller has not."""
    try:
        return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False


def alive(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def served_by(client: Client) -> int:
    """Return the pid of the worker that answers this client."""
    timing = client.predict("m", {"x": X}).timing
    assert timing is not None
    return timing.worker_pid


def test_a_killed_worker_is_replaced(server: Served) -> None:
    """After kill -9 of a worker another replaces it, the status shows that, and requests are answered."""
    restarts, before = _restarts(server), len(server.log())
    victim = worker_pids(server)[0]
    signal_process(victim, signal.SIGKILL)
    wait_until(lambda: not alive(victim) and _works_without(server, victim))
    wait_until(lambda: _serving(server))
    assert _restarts(server) == restarts + 1
    assert "by SIGKILL" in server.log()[before:]


def _works_without(server: Served, *victims: int) -> bool:
    return works(server) and not set(victims) & set(worker_pids(server))


def _restarts(server: Served) -> int:
    with server.client() as client:
        return sum(worker.restarts for worker in client.server_status().workers)


def test_the_others_serve_on(tmp_path: Path) -> None:
    """The death of a worker does not affect clients of the other workers."""
    with ledger_server("TProcessPoolServer", tmp_path / "ledger", "--workers", "2") as server:
        first, second = server.client(), server.client()
        pids = [served_by(client) for client in (first, second)]
        assert pids[0] != pids[1], "two clients spread over two idle workers"
        signal_process(pids[0], signal.SIGKILL)
        for _ in range(50):
            assert served_by(second) == pids[1]
        wait_until(lambda: works(server))
        first.close()
        second.close()


def test_every_worker_killed_at_once(server: Served) -> None:
    """The server recovers from the loss of all its workers."""
    before = worker_pids(server)
    for pid in before:
        signal_process(pid, signal.SIGKILL)
    wait_until(lambda: works(server))
    assert not set(before) & set(worker_pids(server))


@every_type
def test_nobody_outlives_the_parent(server_type: str, tmp_path: Path) -> None:
    """After kill -9 of the supervisor no process of the server is left, and the port is closed."""
    with ledger_server(server_type, tmp_path / "ledger", "--workers", "2") as server, server.client() as client:
        client.ping()  # a TForkingServer has a child now
        tree = psutil.Process(server.pid).children(recursive=True)
        assert tree
        signal_process(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(process.pid) for process in tree))
        wait_until(lambda: _refuses(server.port))


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


@every_type
def test_a_model_that_never_loads(server_type: str, tmp_path: Path) -> None:
    """The server ends with the reason and its exit code, and has never opened its port."""
    server = Served(
        "--model", f"m=python:fault_models:LoadsWhileThere?path={tmp_path / 'none'}", "--server-type", server_type,
        PYTHONPATH=HERE,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="exit code 4") as caught, server:
        pass
    assert "is gone" in str(caught.value)


def test_the_port_is_closed_while_models_load(tmp_path: Path) -> None:
    """Until a worker is ready, connections are refused at once and don't hang."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = psutil.Popen(
        command("serve", "--model", f"m=python:fault_models:OpensGate?path={gate}", "--port", str(port)),
        env=environment(PYTHONPATH=HERE),
    )
    try:
        # Opening the gate waits for the model to be loading, and keeps it so.
        with gate.open("w"), pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with Client("127.0.0.1", port) as client:
            wait_until(lambda: _pings(client))
    finally:
        process.terminate()
        assert process.wait(30) == ExitCode.OK


def _pings(client: Client) -> bool:
    try:
        client.ping()
    except ConnectionFailed:
        return False
    return True


@every_type
def test_drain_answers_every_accepted_request(server_type: str, tmp_path: Path) -> None:
    """After SIGTERM under load, each request that ran is answered, and the server ends with 0."""
    ledger = tmp_path / "ledger"
    answered: list[int] = []
    with ledger_server(server_type, ledger, "--workers", "2", ms=5) as server:

        def load() -> None:
            done = 0
            try:
                with Client("127.0.0.1", server.port, timeout_s=30) as client:
                    while True:
                        client.predict("m", {"x": X})
                        done += 1
            except ThriftServeClientError:
                answered.append(done)  # the server has gone

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: runs(ledger) > 50)
        code, rest = server.stop()
        for thread in threads:
            thread.join()
    assert (code, rest) == (ExitCode.OK, "")
    assert len(answered) == 8
    assert sum(answered) == runs(ledger), "requests that were run, and answers that came"


@every_type
def test_told_twice_it_stops_now(server_type: str, tmp_path: Path) -> None:
    """A second SIGTERM ends the server at once, with the exit code for cut-off requests."""
    ledger = tmp_path / "ledger"
    with ledger_server(server_type, ledger) as server:
        call = _slow_call(server, seconds=60)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in server.log())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == ExitCode.FORCED
        call.join()
    assert runs(ledger) == 0


@every_type
def test_the_drain_has_an_end(server_type: str, tmp_path: Path) -> None:
    """Requests still in flight after the drain time-out are cut off; the exit code says so."""
    with ledger_server(server_type, tmp_path / "ledger", "--drain-timeout-s", "0.5") as server:
        call = _slow_call(server, seconds=60)
        assert server.stop()[0] == ExitCode.FORCED
        assert "drain time-out" in server.log()
        call.join()


def _slow_call(server: Served, seconds: float) -> threading.Thread:
    """Start a request in a thread, and wait until it runs."""

    def call() -> None:
        with Client("127.0.0.1", server.port, timeout_s=90) as client, pytest.raises(ThriftServeClientError):
            client.predict("m", {"x": X, "seconds": np.float64(seconds)})

    thread = threading.Thread(target=call)
    thread.start()
    tree = psutil.Process(server.pid)
    wait_until(lambda: any(_connected(child) for child in tree.children(recursive=True)))
    return thread


def _connected(process: psutil.Process) -> bool:
    try:
        return any(connection.status == psutil.CONN_ESTABLISHED for connection in process.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False


def test_a_crash_in_a_request_affects_only_that_client(server: Served) -> None:
    """If a model crashes its process, the caller gets an error and the next caller is served.

    TBatchingServer tries a second worker, and then answers with a typed error.
    """
    expected = InternalError if server.server_type == "TBatchingServer" else ConnectionFailed
    with server.client() as client, pytest.raises(expected):
        client.predict("bad", {"x": X})
    wait_until(lambda: works(server))


def test_a_worker_that_keeps_crashing_ends_the_server() -> None:
    """A worker that keeps dying before it is ready is restarted with back-off, then the server gives up."""
    server = Served("--model", "m=python:fault_models:CrashesOnLoad", PYTHONPATH=HERE)
    with pytest.raises(AssertionError, match="exit code 6") as caught, server:
        pass
    assert "keeps ending by SIGSEGV" in str(caught.value)
    assert "in 0.8 s" in str(caught.value), "each try waited longer"


@every_type
def test_reload_under_load_loses_nothing(server_type: str, tmp_path: Path) -> None:
    """SIGHUP replaces every worker under load, without an error for a client."""
    clients = 1 if server_type == "TSimpleServer" else 4  # more would only wait for the first to go
    ledger = tmp_path / "ledger"
    with ledger_server(server_type, ledger, "--workers", "2", ms=4) as server:
        before = worker_pids(server)
        stop = threading.Event()
        failures: list[Exception] = []

        def load() -> None:
            try:
                with Client("127.0.0.1", server.port, timeout_s=30) as client:
                    while not stop.is_set():
                        client.predict("m", {"x": X})
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(clients)]
        for thread in threads:
            thread.start()
        wait_until(lambda: runs(ledger) > 50)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not set(before) & set(worker_pids(server)))
        seen = runs(ledger)
        wait_until(lambda: runs(ledger) > seen + 50)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert server.stop()[0] == ExitCode.OK


def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    """If the new workers can't load, the old ones serve on, and the log has the reason."""
    flag = tmp_path / "flag"
    flag.touch()
    with Served("--model", f"m=python:fault_models:LoadsWhileThere?path={flag}", PYTHONPATH=HERE) as server:
        before = worker_pids(server)
        flag.unlink()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "serves on" in server.log())
        assert "is gone" in server.log()
        assert worker_pids(server) == before
        assert works(server)


def test_stacks_are_printed_on_demand(server: Served) -> None:
    """SIGUSR1 prints the stacks of all threads of supervisor and workers. All of them run on."""
    before, workers = len(server.log()), worker_pids(server)
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: server.log()[before:].count("most recent call first") > len(workers))
    assert "arbiter.py" in server.log()[before:]
    assert works(server)
    assert set(worker_pids(server)) == set(workers)


def test_stacks_of_running_threads_cost_no_worker() -> None:
    """Asked again and again while requests run, no worker ends. Stacks read without the lock once did that."""
    with Served(
        "--server-type", "TThreadPoolServer", "--model", "m=python:fault_models:Ledger?path=/dev/null", PYTHONPATH=HERE
    ) as server:
        workers, stop = worker_pids(server), threading.Event()

        def load() -> None:
            while not stop.is_set() and works(server):
                pass

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            server.process.send_signal(signal.SIGUSR1)
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        assert worker_pids(server) == workers


def test_forked_children_are_reaped(tmp_path: Path) -> None:
    """Children of a TForkingServer end soon after their clients. Their requests stay counted."""
    with ledger_server("TForkingServer", tmp_path / "ledger") as server:
        for _ in range(5):
            assert works(server)
        forker = psutil.Process(worker_pids(server)[0])
        wait_until(lambda: not forker.children())
        with server.client() as client:
            status = client.server_status()
        assert status.past_requests == 5


def test_stopped_while_it_loads(tmp_path: Path) -> None:
    """SIGTERM while models load ends the server at once, with 0: nothing was cut off."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = psutil.Popen(
        command("serve", "--model", f"m=python:fault_models:OpensGate?path={gate}", "--port", "0"),
        env=environment(PYTHONPATH=HERE),
    )
    with gate.open("w"):  # the model is being loaded, and stays so
        process.terminate()
        assert process.wait(30) == ExitCode.OK


def test_killed_while_its_successor_loads(tmp_path: Path) -> None:
    """If a worker dies during its reload, its successor takes over. In the end there is one worker."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with ServedThroughGate(gate) as server:
        before = worker_pids(server)
        server.process.send_signal(signal.SIGHUP)
        with gate.open("w"):  # the successor is loading
            signal_process(before[0], signal.SIGKILL)
            wait_until(lambda: "restarting" in server.log())
        threading.Thread(target=_open_for_ever, args=(gate,), daemon=True).start()  # for the next workers
        wait_until(lambda: works(server))
        wait_until(lambda: len(worker_pids(server)) == 1)
        assert server.stop()[0] == ExitCode.OK


class ServedThroughGate(Served):
    """A server whose model loads once its gate has been opened. It is opened here for the first worker."""

    def __init__(self, gate: Path) -> None:
        super().__init__("--model", f"m=python:fault_models:OpensGate?path={gate}", "--workers", "1", PYTHONPATH=HERE)
        with gate.open("w"):
            pass


def _open_for_ever(gate: Path) -> None:
    while gate.exists():
        with gate.open("w"):
            pass


def test_a_forking_drain_respects_max_children(tmp_path: Path) -> None:
    """Connections pending at a drain are answered, by no more than --max-children children."""
    ledger = tmp_path / "ledger"
    with ledger_server("TForkingServer", ledger, "--max-children", "1", ms=50) as server:
        most = 0
        clients = [server.client() for _ in range(5)]
        calls = [threading.Thread(target=client.predict, args=("m", {"x": X})) for client in clients]
        for call in calls:
            call.start()
        wait_until(lambda: runs(ledger) == 1)
        forker = psutil.Process(worker_pids(server)[0])
        server.process.send_signal(signal.SIGTERM)
        while any(call.is_alive() for call in calls):
            with contextlib.suppress(psutil.NoSuchProcess):
                most = max(most, len([child for child in forker.children() if alive(child.pid)]))
        assert server.process.wait(30) == ExitCode.OK
        for client in clients:
            client.close()
    assert (runs(ledger), most) == (5, 1)

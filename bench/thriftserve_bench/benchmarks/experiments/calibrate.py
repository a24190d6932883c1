"""Costs of this machine that the simulator needs, each measured by itself.

    sockets, threads, forks, a lone client at each server  -->  {"connect_s": …, "call_s/ours/TForkingServer": …}

The names are explained at `ExperimentRun.calibration`. A server's figures are medians; the machine's own are lower
quartiles, for whatever else runs can only add to them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from statistics import median, quantiles

import psutil

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.experiments.hosts import Host
from thriftserve_bench.load.pattern_clients import MODEL, NO_SERVICE, make_inputs
from thriftserve_bench.records.experiments import REAL_MODEL
from thriftserve_bench.servers import BATCHING
from thriftserve_bench.workloads.timed import HoldGil
from thriftserve_client import Client, ThriftServeClientError

_REPEATS = 30
_CLIENTS = 100
_CROWDS = 3
_WARM_UP_CALLS = 5
_SHORT_WAIT_S = 0.005
_CALL_TIMEOUT_S = 10.0
#: What the status calls a front.
_FRONT = "front"


def of_machine() -> dict[str, float]:
    """Measure the costs that have nothing to do with a server."""
    return {
        "connect_s": _connect_s(),
        "thread_start_s": _quartile_s(_start_thread),
        "client_start_s": _client_start_s(),
        "fork_s": _fork_s(),
        "oversleep_s": _oversleep_s(),
    }


def _quartile_s(action: Callable[[], None]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return _lower_quartile(times)


def _lower_quartile(times: list[float]) -> float:
    return quantiles(times, n=4)[0]


def _connect_s() -> float:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            with socket.create_connection(listening.getsockname()[:2]):
                listening.accept()[0].close()

        return _quartile_s(once)


def _start_thread() -> None:
    running = threading.Event()
    thread = threading.Thread(target=running.set)
    thread.start()
    running.wait()
    thread.join()


def _client_start_s() -> float:
    """Measure threads behind a barrier: the time from the release until the last one runs, by their number."""
    return min(_crowd_start_s() for _ in range(_CROWDS)) / _CLIENTS


def _crowd_start_s() -> float:
    released, running = [0.0], [0.0] * _CLIENTS
    barrier = threading.Barrier(_CLIENTS, action=lambda: released.__setitem__(0, time.perf_counter()))

    def client(number: int) -> None:
        barrier.wait()
        running[number] = time.perf_counter()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(running) - released[0]


def _fork_s() -> float:
    """Measure a fork in a small process: see `forks`."""
    from thriftserve_bench.benchmarks.experiments.forks import measure

    return _lower_quartile(measure("ballast", 0, _REPEATS).fork_s)


def _oversleep_s() -> float:
    workload = HoldGil("0")
    workload.load()
    return _quartile_s(lambda: workload.spend(_SHORT_WAIT_S)) - _SHORT_WAIT_S


def of_server(host: Host, probes: int) -> dict[str, float]:
    """Return what calls without service time cost at one server; empty if it can't answer such calls.

    Args:
        host: it runs, and nobody else calls it.
        probes: calls on one connection, and connections with a call each.
    """
    if host.failed or host.plan.workload == REAL_MODEL:
        return {}
    try:
        costs = _calls(host, probes) | _first_calls(host, probes)
    except ThriftServeClientError:
        return {}
    return {f"{name}/{host.plan.side}/{host.plan.server_type}": value for name, value in costs.items()}


def _calls(host: Host, probes: int) -> dict[str, float]:
    inputs = make_inputs(NO_SERVICE)
    times = []
    with _client(host) as client:
        for _ in range(_WARM_UP_CALLS):
            client.predict(MODEL, inputs)
        fronts = _fronts(client, host)
        cpu_before, front_before = process_tree.cpu_s(host.process.pid), _cpu_of(fronts)
        for _ in range(probes):
            began = time.perf_counter()
            client.predict(MODEL, inputs)
            times.append(time.perf_counter() - began)
        cpu_s, front_s = process_tree.cpu_s(host.process.pid) - cpu_before, _cpu_of(fronts) - front_before
    costs = {"call_s": median(times), "call_cpu_s": cpu_s / probes}
    return costs | ({"front_cpu_s": front_s / probes} if fronts else {})


def _fronts(client: Client, host: Host) -> list[int]:
    """Return the processes of a server that hold connections for its workers."""
    if host.plan.server_type != BATCHING:
        return []
    return [worker.pid for worker in client.server_status().workers if worker.role == _FRONT]


def _cpu_of(pids: list[int]) -> float:
    return sum(map(process_tree.own_cpu_s, pids))


def _first_calls(host: Host, probes: int) -> dict[str, float]:
    inputs = make_inputs(NO_SERVICE)
    times = []
    cpu_before, lasting_before = process_tree.cpu_s(host.process.pid), _own_cpu(host.process.pid)
    for _ in range(probes):
        began = time.perf_counter()
        with _client(host) as client:
            client.predict(MODEL, inputs)
            times.append(time.perf_counter() - began)
    lasting, cpu_s = _own_cpu(host.process.pid), process_tree.cpu_s(host.process.pid) - cpu_before
    parent_s = sum(lasting[pid] - before for pid, before in lasting_before.items() if pid in lasting)
    return {
        "first_call_s": median(times),
        "first_call_cpu_s": cpu_s / probes,
        "first_call_parent_cpu_s": parent_s / probes,
    }


def _client(host: Host) -> Client:
    return Client(host.process.host, host.process.port, timeout_s=_CALL_TIMEOUT_S)


def _own_cpu(root: int) -> dict[int, float]:
    """Return CPU seconds of each process of a tree."""
    cpu_s = {}
    for pid in [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]:
        try:
            cpu_s[pid] = process_tree.own_cpu_s(pid)
        except OSError:
            continue  # it has just ended
    return cpu_s

"""The servers of the experiments: one of each type and side, a process tree each, started once.

HostPlan  -->  start_all: as many at once as there are cores, each awaited by ping  -->  Host  -->  stop_all
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.load.pattern_clients import EMPTY, IMAGES, MODEL, make_inputs
from thriftserve_bench.processes import ServerFailed, ServerProcess
from thriftserve_bench.records.calls import APACHE, OURS
from thriftserve_bench.servers import BATCHING, WITH_THREADS, WITH_WORKERS
from thriftserve_client import Client, ThriftServeClientError

#: The classes of the workloads with a service time.
TIMED = {"hold-gil": "HoldGil", "spin": "Spin", "sleep": "Sleep"}
REAL_MODEL = "model"
_MODULE = "thriftserve_bench.workloads.timed"
_READY_TIMEOUT_S = 120.0
_PING_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class HostPlan:
    """The plan of one server."""

    side: str
    server_type: str
    workload: str
    service_ms: float
    workers: int
    threads: int
    #: Base path of the SavedModel, for the workload of that kind.
    model_path: Path | None = None

    def process(self) -> ServerProcess:
        """Return the process to start."""
        kinds = {OURS: self._ours, APACHE: self._apache}
        arguments, command = kinds[self.side]()
        return ServerProcess(arguments, command=command, ready_timeout_s=_READY_TIMEOUT_S)

    def _ours(self) -> tuple[list[str], None]:
        source = str(self.model_path) if self.workload == REAL_MODEL else f"python:{self._python_source()}"
        arguments = ["--server-type", self.server_type, "--port", "0", "--log-level", "warning"]
        arguments += ["--model", f"{MODEL}={source}"]
        if self.server_type in WITH_WORKERS:
            arguments += ["--workers", str(self.workers)]
        if self.server_type == BATCHING:  # so that it runs as many calls at once as it has workers, like the pool
            arguments += ["--runs-per-worker", "1"]
        if self.server_type in WITH_THREADS:
            arguments += ["--threads", str(self.threads)]
        return arguments, None

    def _apache(self) -> tuple[list[str], list[str]]:
        numbers = ["--workers", str(self.workers), "--threads", str(self.threads)]
        command = [sys.executable, "-m", "thriftserve_bench.servers.apache_host"]
        return [self.server_type, *numbers, "--workload", self._python_source()], command

    def _python_source(self) -> str:
        if self.workload == REAL_MODEL:
            return f"{_MODULE}:SavedModel?path={self.model_path}"
        return f"{_MODULE}:{TIMED[self.workload]}?ms={self.service_ms:g}"


@dataclass
class Host:
    """A server that was started, or the reason why not."""

    plan: HostPlan
    process: ServerProcess
    failure: str = ""

    def start(self) -> None:
        """Start it and wait until it answers; what goes wrong is its `failure`."""
        try:
            self.process.start()
            self._ping()
        except (ServerFailed, ThriftServeClientError) as error:
            self.failure = str(error)

    def _ping(self) -> None:
        """Ping through connections that stay open meanwhile, as many as there are workers.

        A worker of Apache's pool serves one connection at a time, and says nothing about being there. The front of
        TBatchingServer answers for its workers: each has a call instead, for it imports what a first call needs.
        """
        connections = self.plan.workers if self.plan.server_type in WITH_WORKERS else 1
        with ExitStack() as stack:
            clients = [stack.enter_context(self._client()) for _ in range(connections)]
            for client in clients:
                client.ping()
                if self.plan.workload == REAL_MODEL:  # Apache's have no warm-up: a process loads it at its first call
                    client.predict(MODEL, make_inputs(IMAGES))
            if self.plan.server_type == BATCHING and self.plan.workload != REAL_MODEL:
                pool = stack.enter_context(ThreadPoolExecutor(connections))
                list(pool.map(lambda client: client.predict(MODEL, make_inputs(EMPTY)), clients))

    def _client(self) -> Client:
        return Client(self.process.host, self.process.port, timeout_s=_PING_TIMEOUT_S)

    @property
    def failed(self) -> str:
        """Why nothing can be measured on it; empty: it runs."""
        if not self.failure and not self.process.running:
            self.failure = f"the server has ended\n{self.process.log_tail()}".rstrip()
        return self.failure

    def stop(self) -> None:
        """End it. Apache's classes have no graceful end and leave workers behind: they are killed."""
        if self.plan.side == APACHE:
            self.process.kill()
        else:
            self.process.stop()
        self.process.close()


def start_all(hosts: Sequence[Host], started: Callable[[Host], None]) -> None:
    """Start servers, two a core at once; `started` is called after each, in their order."""
    with ThreadPoolExecutor(2 * len(os.sched_getaffinity(0))) as pool:
        try:
            for host, _ in zip(hosts, pool.map(Host.start, hosts), strict=True):
                started(host)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def stop_all(hosts: Sequence[Host]) -> None:
    """Stop servers side by side; kill them on an exception."""
    try:
        with ThreadPoolExecutor(max(1, len(hosts))) as pool:
            list(pool.map(Host.stop, hosts))
    except BaseException:
        for host in hosts:
            host.process.kill()
        raise

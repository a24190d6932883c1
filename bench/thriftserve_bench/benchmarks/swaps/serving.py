"""The server whose versions change.

server type, Versions  --serving-->  ServerProcess, StateLog, Swapper
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.benchmarks.swaps.state_log import StateLog
from thriftserve_bench.benchmarks.swaps.swapper import Swapper
from thriftserve_bench.processes import ServerProcess
from thriftserve_bench.servers import WITH_WORKERS
from thriftserve_bench.workloads.versions import MODEL, Versions


@dataclass(frozen=True)
class Serving:
    """A server that serves version 1, and what is needed to change that."""

    server: ServerProcess
    log: StateLog
    swapper: Swapper
    versions: Versions


@contextmanager
def serving(
    server_type: str, store: Path, scratch: Path, *, workers: int | None = None, poll_s: float, logs: Path
) -> Iterator[Serving]:
    """A server of that type; it is gone afterwards, its log stays in `logs`.

    Raises:
        ServerFailed: it does not start.
    """
    versions = Versions(store, scratch / server_type / MODEL)
    flags = ["--model", f"{MODEL}={versions.base}", "--server-type", server_type, "--port", "0", "--devices", "cpu"]
    flags += ["--file-system-poll-s", str(poll_s)]
    if workers and server_type in WITH_WORKERS:
        flags += ["--workers", str(workers)]
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"{server_type}.log"
    with ServerProcess(flags, log=path) as server:
        log = StateLog(path)
        try:
            yield Serving(server, log, Swapper(server, versions, log), versions)
        finally:
            log.close()

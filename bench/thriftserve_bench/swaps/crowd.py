"""All clients of a server at once, each a process of its own.

Crowd.begin(server)  -->  N x client, calling  --end-->  their Calls
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thriftserve_bench.asked_process import AskedProcess
from thriftserve_bench.swaps.client import Calls, Order

_MODULE = "thriftserve_bench.swaps.client"


class Crowd:
    """Clients that call from `crowd(…)` on.

    Args:
        processes: one for each client.
        pool: as many threads, each waiting for one of them.
        order: what they do.
    """

    def __init__(self, processes: list[AskedProcess], pool: ThreadPoolExecutor, order: Order) -> None:
        self._stop = Path(order.stop_file)
        self._stop.write_bytes(b"\0")
        self._answers: list[Future[Any]] = [pool.submit(one.ask, asdict(order)) for one in processes]

    @property
    def all_gone(self) -> bool:
        """Whether every one has given up: the server answers nobody."""
        return all(one.done() for one in self._answers)

    def end(self) -> list[Calls]:
        """Has each finish its call and stop; what they were answered.

        Raises:
            ProcessEnded: a client's process is gone.
        """
        with self._stop.open("r+b") as file:  # never shorter meanwhile: they have it mapped
            file.write(b"\1")
        return [Calls(**one.result()) for one in self._answers]


@contextmanager
def crowd(count: int, host: str, port: int, scratch: Path) -> Iterator[Crowd]:
    """So many clients, calling; their processes are gone afterwards."""
    processes = [AskedProcess(_MODULE) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        try:
            yield Crowd(processes, pool, Order(host, port, str(scratch / "stop")))
        finally:
            for one in processes:
                one.close()

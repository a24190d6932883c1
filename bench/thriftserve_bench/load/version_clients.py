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

from thriftserve_bench.load.version_client import Calls, Order
from thriftserve_bench.processes import JsonLinesChild

_MODULE = "thriftserve_bench.load.version_client"


class Crowd:
    """Clients that call, from its construction on.

    Args:
        processes: one for each client.
        pool: as many threads, each waiting for one of them.
        host: the server's.
        port: the server's.
        flags: a path for the file by which they are told to stop.
    """

    def __init__(
        self, processes: list[JsonLinesChild], pool: ThreadPoolExecutor, host: str, port: int, flags: Path
    ) -> None:
        self._flags = flags
        self._count = len(processes)
        flags.write_bytes(bytes(self._count + 1))
        orders = (Order(host, port, str(flags), number) for number in range(self._count))
        self._answers: list[Future[Any]] = [
            pool.submit(process.ask, asdict(order)) for process, order in zip(processes, orders, strict=True)
        ]

    @property
    def begun(self) -> bool:
        """Whether every one has been answered, or has given up."""
        flags = self._flags.read_bytes()
        return all(flags[number] or one.done() for number, one in enumerate(self._answers))

    def end(self) -> list[Calls]:
        """Has each finish its call and stop; what they were answered.

        Raises:
            ProcessEnded: a client's process is gone.
        """
        with self._flags.open("r+b") as file:  # in place, and never shorter: they have it mapped
            file.seek(self._count)
            file.write(b"\1")
        return [Calls(**one.result()) for one in self._answers]


@contextmanager
def crowd(count: int, host: str, port: int, scratch: Path) -> Iterator[Crowd]:
    """So many clients, calling; their processes are gone afterwards."""
    processes = [JsonLinesChild(_MODULE) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        try:
            yield Crowd(processes, pool, host, port, scratch / "flags")
        finally:
            for one in processes:
                one.close()

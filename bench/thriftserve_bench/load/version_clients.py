"""Real clients that call without a pause, each in a process of its own, until they are stopped.

    order: port, file of flags  -->  Client.predict in a closed loop  -->  each call's start, latency, version

    python -m thriftserve_bench.load.version_clients     one order a line of JSON, one answer a line

A call that fails is counted with its reason, and the loop continues.
"""

from __future__ import annotations

import base64
import gc
import mmap
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve_bench.processes import JsonLinesChild, answer_json_lines
from thriftserve_bench.workloads.versions import MODEL, expected
from thriftserve_client import Client, Prediction, ThriftServeClientError

_MODULE = "thriftserve_bench.load.version_clients"
_X = np.array([0.0, 1.0, 2.0], dtype=np.float32)
_CALL_TIMEOUT_S = 30.0
#: A server that fails this often in a row is given up.
_MAX_FAILURES_IN_ROW = 50
_PAUSE_S = 0.05
_LONGEST_REASON = 300


@dataclass(frozen=True)
class ClientOrder:
    """One client's order."""

    host: str
    port: int
    #: A file with a byte for each client, 1 once it has an answer, and a last byte, 1 once all are to stop.
    flags_file: str
    number: int


@dataclass
class Calls:
    """The calls of one client.

    The three columns are base64 of little-endian int64: when each answered call began (microseconds since
    1970), how long it took (microseconds), which version the answer names.
    """

    begun_us: str = ""
    latency_us: str = ""
    version: str = ""
    #: By reason.
    failures: dict[str, int] = field(default_factory=dict)
    #: When each failed call began, microseconds since 1970.
    failed_us: list[int] = field(default_factory=list)
    #: Answers whose values are not those of the version that they name, and up to three in words.
    wrong: int = 0
    wrong_examples: list[str] = field(default_factory=list)

    def columns(self) -> tuple[Any, Any, Any]:
        """Return start, latency and version of every answered call, int64 arrays [n]."""
        begun, latency, version = (
            np.frombuffer(base64.b64decode(column), "<i8") for column in (self.begun_us, self.latency_us, self.version)
        )
        return begun, latency, version


class _Caller:
    """The loop of one client."""

    def __init__(self, order: ClientOrder) -> None:
        self._order = order
        self._columns = array("q"), array("q"), array("q")
        self._failures: Counter[str] = Counter()
        self._in_row = 0
        self._calls = Calls()

    def run(self) -> Calls:
        """Call until the last flag is set."""
        order = self._order
        with (
            Path(order.flags_file).open("r+b") as file,
            mmap.mmap(file.fileno(), 0) as flags,
            Client(order.host, order.port, timeout_s=_CALL_TIMEOUT_S) as client,
        ):
            while not flags[-1] and self._in_row < _MAX_FAILURES_IN_ROW:
                self._call(client)
                flags[order.number] = len(self._columns[0]) > 0
        calls = self._calls
        calls.failures = dict(self._failures)
        calls.begun_us, calls.latency_us, calls.version = (
            base64.b64encode(column.tobytes()).decode() for column in self._columns
        )
        return calls

    def _call(self, client: Client) -> None:
        begun_us = time.time_ns() // 1000
        clock_ns = time.perf_counter_ns()
        try:
            answer = client.predict(MODEL, {"x": _X})
        except (ThriftServeClientError, OSError) as error:
            self._failures[f"{type(error).__name__}: {error}"[:_LONGEST_REASON]] += 1
            self._calls.failed_us.append(begun_us)
            self._in_row += 1
            time.sleep(_PAUSE_S)
            return
        latency_us = (time.perf_counter_ns() - clock_ns) // 1000
        self._in_row = 0
        for column, value in zip(self._columns, (begun_us, latency_us, answer.version or 0), strict=True):
            column.append(value)
        if not np.array_equal(answer["y"], expected(_X, answer.version or 0)):
            self._count_wrong(answer)

    def _count_wrong(self, answer: Prediction) -> None:
        self._calls.wrong += 1
        if len(self._calls.wrong_examples) < 3:
            self._calls.wrong_examples.append(f"version {answer.version} answered {answer['y'].tolist()}")


class VersionClients:
    """Clients that call from the construction on.

    Args:
        children: the processes, one for each client.
        pool: as many threads, each to wait for one of them.
        host: the server's.
        port: the server's.
        flags: path of the file that stops them.
    """

    def __init__(
        self, children: list[JsonLinesChild], pool: ThreadPoolExecutor, host: str, port: int, flags: Path
    ) -> None:
        self._flags = flags
        self._count = len(children)
        flags.write_bytes(bytes(self._count + 1))
        orders = (ClientOrder(host, port, str(flags), number) for number in range(self._count))
        self._answers: list[Future[Any]] = [
            pool.submit(child.ask, asdict(order)) for child, order in zip(children, orders, strict=True)
        ]

    @property
    def all_calling(self) -> bool:
        """Whether every client has had an answer, or has given up."""
        flags = self._flags.read_bytes()
        return all(flags[number] or answer.done() for number, answer in enumerate(self._answers))

    def stop(self) -> list[Calls]:
        """Stop the clients after their current call, and return their calls.

        Raises:
            ChildEnded: a client's process has ended.
        """
        with self._flags.open("r+b") as file:  # in place: they have it mapped
            file.seek(self._count)
            file.write(b"\1")
        return [Calls(**answer.result()) for answer in self._answers]


@contextmanager
def version_clients(count: int, host: str, port: int, scratch: Path) -> Iterator[VersionClients]:
    """Yield so many clients that call; their processes end with the block."""
    children = [JsonLinesChild(_MODULE) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        try:
            yield VersionClients(children, pool, host, port, scratch / "flags")
        finally:
            for child in children:
                child.close()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    return asdict(_Caller(ClientOrder(**order)).run())


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)

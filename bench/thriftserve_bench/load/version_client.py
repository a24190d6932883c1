"""One client that calls without a pause, in a process of its own, until it is told to stop.

    order: port, file of flags  -->  Client.predict in a closed loop  -->  each call's start, latency, version

    python -m thriftserve_bench.load.version_client     one order a line of JSON, one answer a line

Nothing raises: a call that fails is counted with its reason, and the loop goes on.
"""

from __future__ import annotations

import base64
import gc
import mmap
import time
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.workloads.versions import MODEL
from thriftserve_client import Client, Prediction, ThriftServeClientError

_X = np.array([0.0, 1.0, 2.0], dtype=np.float32)
_CALL_TIMEOUT_S = 30.0
#: A server that fails this often in a row is given up.
_MAX_FAILURES_IN_ROW = 50
_PAUSE_S = 0.05
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Order:
    """What a client is to do."""

    host: str
    port: int
    #: A file with a byte for each client, 1 once it has an answer, and a last one, 1 once all are to stop.
    flags_file: str
    number: int


@dataclass
class Calls:
    """What one client was answered.

    The three columns are base64 of little-endian int64: when each answered call was begun (microseconds since
    1970), how long it took (microseconds), which version the answer names.
    """

    begun_us: str = ""
    latency_us: str = ""
    version: str = ""
    #: Reason -> how many.
    failures: dict[str, int] = field(default_factory=dict)
    #: When each failed call was begun, microseconds since 1970.
    failed_us: list[int] = field(default_factory=list)
    #: Answers whose values are not those of the version that they name; in words, up to three.
    wrong: int = 0
    wrong_examples: list[str] = field(default_factory=list)

    def columns(self) -> tuple[Any, Any, Any]:
        """Start, latency and version of every answered call, int64 arrays [n]."""
        begun, latency, version = (
            np.frombuffer(base64.b64decode(one), "<i8") for one in (self.begun_us, self.latency_us, self.version)
        )
        return begun, latency, version


class Caller:
    """The loop."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._columns = array("q"), array("q"), array("q")
        self._failures: Counter[str] = Counter()
        self._in_row = 0
        self._calls = Calls()

    def run(self) -> Calls:
        """Calls until the last flag says so."""
        order = self._order
        with (
            Path(order.flags_file).open("r+b") as file,
            mmap.mmap(file.fileno(), 0) as flags,
            Client(order.host, order.port, timeout_s=_CALL_TIMEOUT_S) as client,
        ):
            while not flags[-1] and self._in_row < _MAX_FAILURES_IN_ROW:
                self._call(client)
                flags[order.number] = len(self._columns[0]) > 0
        found = self._calls
        found.failures = dict(self._failures)
        found.begun_us, found.latency_us, found.version = (
            base64.b64encode(one.tobytes()).decode() for one in self._columns
        )
        return found

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
        if not np.array_equal(answer["y"], _X * 0.5 + (answer.version or 0)):
            self._wrong(answer)

    def _wrong(self, answer: Prediction) -> None:
        self._calls.wrong += 1
        if len(self._calls.wrong_examples) < 3:
            self._calls.wrong_examples.append(f"version {answer.version} answered {answer['y'].tolist()}")


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    return asdict(Caller(Order(**order)).run())


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)

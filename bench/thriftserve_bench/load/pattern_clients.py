"""The clients of one pattern, threads of a process of their own.

    PatternOrder  --barrier-->  each thread: a client, calls in a row  -->  every call's start, end, outcome, pid

    python -m thriftserve_bench.load.pattern_clients     one order a line of JSON, one answer a line

Nothing raises: a failure of a call is its outcome.
"""

from __future__ import annotations

import gc
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.experiments import OK, Call
from thriftserve_client import Client

#: The model's name at every server.
MODEL = "w"
_LONGEST_OUTCOME = 200
#: Workloads of milliseconds need no input.
EMPTY = "empty"
#: The same, asked to spend no time at all.
NO_SERVICE = "no-service"
#: Images for `image_classifier`, the model that stands for real ones: enough for some milliseconds.
IMAGES = "images"
_BATCH = 64


@dataclass(frozen=True)
class PatternOrder:
    """One order: a pattern of clients."""

    host: str
    port: int
    threads: int
    calls_per_thread: int
    shared_client: bool
    #: What every call sends; see `make_inputs`.
    inputs: str
    #: Calls that have not ended so long after the release have failed.
    bound_s: float


class PatternClients:
    """The threads of one order."""

    def __init__(self, order: PatternOrder) -> None:
        self._order = order
        self._inputs = make_inputs(order.inputs)
        self._barrier = threading.Barrier(order.threads, action=self._release)
        self._released = 0.0
        self._calls: list[list[Call]] = [[] for _ in range(order.threads)]

    def run(self) -> list[Call]:
        """Make every call; they come in the order of their threads."""
        order = self._order
        with ExitStack() as stack:
            shared = stack.enter_context(self._client()) if order.shared_client else None
            threads = [
                threading.Thread(target=self._run_thread, args=(number, shared), daemon=True)
                for number in range(order.threads)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return [call for calls in self._calls for call in calls]

    def _release(self) -> None:
        self._released = time.perf_counter()

    def _client(self) -> Client:
        return Client(self._order.host, self._order.port, connect_timeout_s=self._order.bound_s)

    def _run_thread(self, number: int, shared: Client | None) -> None:
        self._barrier.wait()
        client = shared or self._client()
        for _ in range(self._order.calls_per_thread):
            self._calls[number].append(self._call(number, client))
        if client is not shared:
            client.close()

    def _call(self, number: int, client: Client) -> Call:
        start_s = time.perf_counter() - self._released
        left_s = self._order.bound_s - start_s
        pid = 0
        if left_s <= 0:
            return Call(number, start_s, start_s, f"not made: {self._order.bound_s:g} s were over", 0)
        try:
            timing = client.predict(MODEL, self._inputs, timeout_s=left_s).timing
            outcome, pid = OK, timing.worker_pid if timing else 0
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"[:_LONGEST_OUTCOME]
        return Call(number, start_s, time.perf_counter() - self._released, outcome, pid)


def make_inputs(kind: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the arrays of that kind; IMAGES is float32 [64, 28, 28, 1]."""
    if kind == NO_SERVICE:
        return {"ms": np.asarray(0.0)}
    if kind == IMAGES:
        return {"image": np.random.default_rng(1).random((_BATCH, 28, 28, 1), np.float32)}
    return {}


def _answer(order: dict[str, Any]) -> list[dict[str, Any]]:
    calls = PatternClients(PatternOrder(**order)).run()
    gc.collect()
    return [asdict(call) for call in calls]


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)

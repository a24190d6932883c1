"""The load generator of `calls`: closed loops of one echo call, in a process of its own.

    python -m thriftserve_bench.load.echo_load [CORES]

    stdin: an EchoOrder, one line of JSON  -->  connect, warm up, call  -->  stdout: a Window, one line

Requests are encoded beforehand and replies are not decoded, so that the client's cost does not hide the server's.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from thriftserve_bench import process_tree
from thriftserve_bench.load import loops
from thriftserve_bench.load.connection import Connection, Connections
from thriftserve_bench.load.loops import GivenUp, Tally, closed_loop, open_connection, settle
from thriftserve_bench.load.protocols import thrift_length
from thriftserve_bench.machine import core_set
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.calls import Window
from thriftserve_bench.stats import three_digits
from thriftserve_bench.workloads.messages import LENGTH, read_reply
from thriftserve_bench.workloads.payloads import echo_frame, echo_tensor

_WARM_UP_S = 0.15
#: Every so many replies a piece of the content is compared; the length always is.
_SAMPLE_EVERY = 16
_SAMPLE_BYTES = 64
_SAMPLE_STEP = 7919


@dataclass(frozen=True)
class EchoOrder:
    """One window of echo calls."""

    port: int
    #: The server's process, for its CPU and memory.
    pid: int
    payload: str
    connections: int
    #: The window ends after this time, but not before `min_calls`.
    seconds: float
    min_calls: int
    #: Whether to poll for replies without sleeping.
    awake: bool = False


class EchoCalls:
    """One call of the echo service again and again; its reply must be the echo.

    Args:
        payload: a name of PAYLOADS.
    """

    def __init__(self, payload: str) -> None:
        self._frame = echo_frame(payload)
        self._tensor = echo_tensor(payload)
        self._expected = b""

    def frame(self, _: Connection) -> bytes:
        """Return the call."""
        return self._frame

    def check(self, connection: Connection, reply: memoryview) -> None:
        """Decode a connection's first reply; compare later ones with it, their length and a sample of their bytes.

        Raises:
            ValueError: it is not the echo.
        """
        if connection.replies == 1:
            message = bytes(reply)
            if read_reply(message[LENGTH.size :]).success.outputs["x"] != self._tensor:
                raise ValueError("the reply is not what was sent")
            self._expected = message
        expected = self._expected
        if len(reply) != len(expected):
            raise ValueError(f"a reply of {len(reply)} bytes, expected {len(expected)}")
        if connection.replies % _SAMPLE_EVERY == 0:
            start = connection.replies * _SAMPLE_STEP % len(expected)
            if reply[start : start + _SAMPLE_BYTES] != expected[start : start + _SAMPLE_BYTES]:
                raise ValueError(f"a reply of other content at byte {start}")


def measure(order: EchoOrder) -> Window:
    """Measure a window: connect, warm up, call and count; read the server's CPU around the calls."""
    calls, tally = _calls(order.payload), Tally()
    load_1m = os.getloadavg()[0]
    elapsed_s = server_cpu_s = client_cpu_s = 0.0
    connections = Connections(order.port, thrift_length)
    try:
        open_all(connections, calls, order.connections)
        warm_up = Tally()
        _run(connections, calls, warm_up, order, _WARM_UP_S, order.connections)
        if not connections.idle:
            raise GivenUp(warm_up.reason)
        server_cpu_s, client_cpu_s = -process_tree.cpu_s(order.pid), -time.process_time()
        try:
            elapsed_s = _run(connections, calls, tally, order, order.seconds, order.min_calls)
        finally:
            client_cpu_s += time.process_time()
            server_cpu_s += process_tree.cpu_s(order.pid)
    except GivenUp as error:
        if not tally.failures:
            tally.failures["GivenUp"] = 1
        tally.reason = str(error)
    finally:
        connections.close()
    memory = process_tree.memory(order.pid)
    counted = Counter(three_digits(latency_ns // 1000) for latency_ns in tally.latencies)
    return Window(
        calls=tally.calls,
        failures=sum(tally.failures.values()),
        reason=tally.reason,
        elapsed_s=elapsed_s,
        latencies_us=sorted(counted.items()),
        server_cpu_s=server_cpu_s,
        client_cpu_s=client_cpu_s,
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
        load_1m=load_1m,
    )


@cache
def _calls(payload: str) -> EchoCalls:
    return EchoCalls(payload)


def open_all(connections: Connections, calls: EchoCalls, count: int) -> None:
    """Open connections, each with one right reply.

    Raises:
        GivenUp: too many attempts failed in a row.
    """
    tally = Tally()
    while len(connections.idle) < count:
        connection = open_connection(connections, tally)
        now = time.perf_counter_ns()
        connections.begin(connection, calls.frame(connection), now, now)
        finished = connections.poll(loops.CALL_TIMEOUT_S)
        while not finished and connection.busy and time.perf_counter_ns() - now < loops.CALL_TIMEOUT_S * 1e9:
            finished = connections.poll(loops.CALL_TIMEOUT_S)
        if not finished:
            raise GivenUp(f"no reply within {loops.CALL_TIMEOUT_S:g} s")
        answers = tally.calls
        settled = settle(connections, calls, tally, connection, finished[0][1], now, insist=False)
        if tally.calls > answers:
            connections.idle.append(connection)
        elif settled is not None:
            connections.drop(settled)


def _run(
    connections: Connections, calls: EchoCalls, tally: Tally, order: EchoOrder, seconds: float, min_calls: int
) -> float:
    until = time.perf_counter_ns() + int(seconds * 1e9)
    return closed_loop(
        connections,
        calls,
        tally,
        lambda now: now < until or tally.calls < min_calls,
        loops.CALL_TIMEOUT_S,
        spin=order.awake,
    )


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    window = measure(EchoOrder(**order))
    gc.collect()
    return asdict(window)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, core_set(sys.argv[1]))
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)

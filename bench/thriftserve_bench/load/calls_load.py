"""The load generator: a process of its own, the same for every server.

    python -m thriftserve_bench.load.calls_load [CORES]

    stdin: an order, one line of JSON  -->  connect, warm up, call in a closed loop  -->  stdout: a window, one line

Questions are encoded beforehand and replies are not decoded, so that the client's cost does not hide
the server's.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from thriftserve_bench import process_tree
from thriftserve_bench.load.calls_loops import Callers, GivenUp, InTurns, Tally, in_line, open_all
from thriftserve_bench.load.predict_call import EchoCall
from thriftserve_bench.machine import core_set
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.calls import Order, Window

_WARM_UP_S = 0.15


def measure(order: Order) -> Window:
    """One window: connections opened and warmed up, calls made and counted, the server's CPU read around them."""
    question = _question(order.payload)
    tally = Tally()
    callers: Callers = {}
    load_before = os.getloadavg()[0]
    elapsed_s = server_cpu_s = client_cpu_s = 0.0
    try:
        callers = open_all(order, question)
        warm_up = Tally()
        _run(callers, replace(order, seconds=_WARM_UP_S, min_calls=order.connections), question, warm_up)
        if not callers:
            raise GivenUp(warm_up.reason)
        cpu_before, own_before = process_tree.cpu_s(order.pid), time.process_time()
        elapsed_s = _run(callers, order, question, tally)
        client_cpu_s = time.process_time() - own_before
        server_cpu_s = process_tree.cpu_s(order.pid) - cpu_before
    except GivenUp as error:
        tally.failures = max(1, tally.failures)
        tally.reason = str(error)
    memory = process_tree.memory(order.pid)
    for caller in callers.values():
        caller.close()
    return Window(
        calls=tally.calls,
        failures=tally.failures,
        reason=tally.reason,
        elapsed_s=elapsed_s,
        latencies_us=sorted(tally.latencies_us.items()),
        server_cpu_s=server_cpu_s,
        client_cpu_s=client_cpu_s,
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
        load_1m=load_before,
    )


@cache
def _question(name: str) -> EchoCall:
    return EchoCall(name)


def _run(callers: Callers, order: Order, question: EchoCall, tally: Tally) -> float:
    if order.connections == 1:
        return in_line(callers, order, question, tally)
    return InTurns(callers, order, question, tally).run()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    window = measure(Order(**order))
    gc.collect()
    return asdict(window)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, core_set(sys.argv[1]))
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)

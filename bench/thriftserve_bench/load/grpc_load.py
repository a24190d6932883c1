"""The load generator for gRPC: its own client on its own event loop, a channel for each client.

PYTHON_OF_THE_PEER -m thriftserve_bench.load.grpc_load

stdin: PeerOrder, one line of JSON  -->  each client asks again as soon as it has its answer  -->  stdout: PeerWindow
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import grpc

from thriftserve_bench.load.calls_loops import GivenUp
from thriftserve_bench.load.marks import NET_WARM_UP_S, PATIENCE_S, Marks
from thriftserve_bench.load.peers_load import questions
from thriftserve_bench.load.protocols import DIALECTS
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.peers import PeerOrder, PeerWindow
from thriftserve_bench.workloads.jobs import JOBS

_METHOD = "/peers.Model/Predict"
#: Channels of one process share a connection otherwise.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def _ask_on(client: int, order: PeerOrder, marks: Marks) -> None:
    job, dialect = JOBS[order.job], DIALECTS[order.dialect]
    pool = questions(order.pool, order.job, order.dialect)
    asked = client * 5
    async with grpc.aio.insecure_channel(f"127.0.0.1:{order.port}", options=_OPTIONS) as channel:
        call = channel.unary_unary(_METHOD)
        while marks.step(time.perf_counter_ns()):
            asked = (asked + 1) % len(pool)
            question, content = pool[asked]
            began_ns = time.perf_counter_ns()
            try:
                reply = await call(content)
                now_ns = time.perf_counter_ns()
                dialect.check(job, reply, question)
                marks.answered(client, began_ns, now_ns)
            except Exception as error:  # refused, broken or wrong: each is a failed call, whatever its kind
                marks.tally.failed(error)


async def _measure(order: PeerOrder, marks: Marks) -> None:
    clients = [asyncio.create_task(_ask_on(client, order, marks)) for client in range(order.clients)]
    _, waiting = await asyncio.wait(clients, timeout=NET_WARM_UP_S + order.seconds + PATIENCE_S)
    for one in waiting:
        one.cancel()
    marks.starved(len(waiting))
    for result in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(result, GivenUp):
            marks.tally.reason = str(result)


def measure(order: PeerOrder) -> PeerWindow:
    """One window."""
    marks = Marks(order)
    asyncio.run(_measure(order, marks))
    return marks.window()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    return asdict(measure(PeerOrder(**order)))


if __name__ == "__main__":
    answer_json_lines(_answer)

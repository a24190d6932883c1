"""The load generator of `peers` for gRPC: its own client on its own event loop, a channel for each client.

PYTHON_OF_THE_PEER -m thriftserve_bench.load.grpc_load

stdin: a JobOrder, one line of JSON  -->  each client calls without a pause  -->  stdout: a PeerWindow
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import grpc

from thriftserve_bench.load.job_load import DRAIN_S, NET_WARM_UP_S, JobOrder, MarkedTally, encoded_samples
from thriftserve_bench.load.loops import GivenUp
from thriftserve_bench.load.protocols import PROTOCOLS
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.peers import PeerWindow
from thriftserve_bench.workloads.jobs import JOBS

_METHOD = "/peers.Model/Predict"
#: Channels of one process share a connection otherwise.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def _call_on(client: int, order: JobOrder, tally: MarkedTally) -> None:
    job, protocol = JOBS[order.job], PROTOCOLS[order.protocol]
    samples = encoded_samples(order.samples, order.job, order.protocol)
    place = client * 5
    async with grpc.aio.insecure_channel(f"127.0.0.1:{order.port}", options=_OPTIONS) as channel:
        call = channel.unary_unary(_METHOD)
        while tally.running(time.perf_counter_ns()):
            place = (place + 1) % len(samples)
            sample, content = samples[place]
            sent_ns = time.perf_counter_ns()
            try:
                reply = await call(content)
                now_ns = time.perf_counter_ns()
                protocol.check(job, reply, sample)
                tally.answered_at(client, sent_ns, now_ns)
            except Exception as error:  # refused, broken or wrong: each is a failed call, whatever its kind
                tally.failed(error)


async def _measure(order: JobOrder, tally: MarkedTally) -> None:
    clients = [asyncio.create_task(_call_on(client, order, tally)) for client in range(order.clients)]
    _, waiting = await asyncio.wait(clients, timeout=NET_WARM_UP_S + order.seconds + DRAIN_S)
    for task in waiting:
        task.cancel()
    tally.starved(len(waiting))
    for result in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(result, GivenUp):
            tally.reason = str(result)


def measure(order: JobOrder) -> PeerWindow:
    """Measure a window."""
    tally = MarkedTally(order)
    asyncio.run(_measure(order, tally))
    return tally.window()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    return asdict(measure(JobOrder(**order)))


if __name__ == "__main__":
    answer_json_lines(_answer)

"""What the load generator itself can do: the same closed loop against a server that does nothing.

sink on the servers' cores  <--  generators  -->  calls a second, and calls for each second of a generator's CPU
"""

from __future__ import annotations

import sys

from thriftserve_bench.benchmarks.sweep.settle import rate
from thriftserve_bench.load.generators import Generators
from thriftserve_bench.machine import running_on
from thriftserve_bench.processes import ServerProcess
from thriftserve_bench.records.sweep import CLOSED, ECHO, Setting, Variant
from thriftserve_bench.workloads.payloads import echo_frame

#: Enough that neither side ever waits for the other.
CONNECTIONS = 32
_WINDOWS = 3
_SETTING = Setting(Variant("sink", 0, 0, ECHO), "tiny", CLOSED, float(CONNECTIONS), CONNECTIONS)


def measure_limit(generators: Generators, cores: set[int], seconds: float) -> dict[str, float]:
    """The generators' limit with tiny calls: the best of three windows.

    Returns:
        calls_per_s: with the sink as it is, which may be slower than the generators.
        calls_per_core_s: calls for each second of CPU that the generators took.
    """
    command = [sys.executable, "-m", "thriftserve_bench.servers.null_server"]
    server = ServerProcess([], command=command)
    with running_on(cores):
        server.start()
    with server:
        generators.open(server.port, echo_frame("tiny"), CONNECTIONS)
        windows = [generators.window(_SETTING, seconds, seed, server.pid) for seed in range(_WINDOWS)]
        generators.close_connections()
    return {
        "calls_per_s": max(rate(one) for one in windows),
        "calls_per_core_s": max(one.calls / sum(one.client_cpu_s) for one in windows),
    }

"""How long a pattern would take if connecting, forking and switching cost nothing.

pattern, server type, workers, threads, service time, workload  -->  rounds  -->  seconds
"""

from __future__ import annotations

from math import ceil

from thriftserve_bench.records.experiments import Pattern
from thriftserve_bench.servers import WITH_WORKERS

#: Workloads that keep other Python threads of their process waiting.
HOLDS_LOCK = ("hold-gil", "spin")
#: Workloads that keep a core busy: no more calls at once than cores.
USES_CORE = ("spin", "model")

_A_PROCESS_EACH = ("TForkingServer", *WITH_WORKERS)


def ideal_s(
    pattern: Pattern,
    server_type: str,
    workers: int,
    threads: int,
    service_s: float,
    workload: str,
    cores: int | None = None,
) -> float:
    """Return seconds from the first call's start to the last one's end, with no overhead at all.

    Args:
        pattern: how clients call.
        server_type: Apache's name, or TBatchingServer.
        workers: processes of TProcessPoolServer and TBatchingServer.
        threads: of TThreadPoolServer and TNonblockingServer.
        service_s: seconds of one call alone.
        workload: what a call does; `HOLDS_LOCK` and `USES_CORE` bound how many run at once.
        cores: the machine's; None: one for everything that runs.
    """
    at_once = calls_at_once(pattern, server_type, workers, threads, workload, cores)
    return ceil(pattern.calls / at_once) * service_s


def calls_at_once(
    pattern: Pattern, server_type: str, workers: int, threads: int, workload: str, cores: int | None = None
) -> int:
    """Return how many calls can make progress at the same time: seats, one lock a process, cores."""
    if pattern.shared_client:
        # One connection carries one call at a time.
        return 1
    at_once = _seats(pattern, server_type, workers, threads)
    if workload in HOLDS_LOCK and server_type not in _A_PROCESS_EACH:
        at_once = 1
    return min(at_once, cores) if cores and workload in USES_CORE else at_once


def _seats(pattern: Pattern, server_type: str, workers: int, threads: int) -> int:
    """Return how many calls are worked on at the same time, lock and cores aside."""
    seats = {
        "TSimpleServer": 1,
        "TThreadPoolServer": threads,
        "TNonblockingServer": threads,
        "TProcessPoolServer": workers,
        "TBatchingServer": workers,
    }.get(server_type, pattern.threads)
    return max(1, min(seats, pattern.threads))

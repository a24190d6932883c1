"""A run of the experiments for tests, of simulated calls: no server has seen any of them.

service time, workloads  -->  sample_run  -->  ExperimentRun that agrees with itself
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from thriftserve_bench.records.calls import SIDES
from thriftserve_bench.records.experiments import PATTERNS, TYPES, Call, ExperimentRun, ForkCost, Outcome, Pattern
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.simulator.predict import predict
from thriftserve_bench.simulator.setup import Setup

MIB = 2**20
_WORKERS = 10


def sample_run(service_ms: float = 300, workloads: Sequence[str] = ("hold-gil",), cores: int = 2) -> ExperimentRun:
    """Every pattern on every type, both sides; times are the simulator's, a little off."""
    chance = Random(7)
    outcomes = [
        _outcome(pattern, server_type, side, workload, service_ms, cores, chance)
        for workload in workloads
        for pattern in PATTERNS.values()
        for server_type in SERVER_TYPES
        for side in SIDES
        if server_type in TYPES[side]
    ]
    return ExperimentRun(
        began="2000-01-01T00:00:00+00:00",
        settings={"sample": "simulated, for tests", "service_ms": service_ms},
        machine={"cpu": "A simulated <CPU>", "cores": cores, "kernel": "Linux 6", "memory_bytes": 8 * 2**30},
        versions={"python": "3.11", "thrift": "0.25"},
        commit="0" * 12,
        outcomes=outcomes,
        fork_costs=_fork_costs(chance),
        calibration={"call_s/ours/TForkingServer": 0.0005, "first_call_s/ours/TForkingServer": 0.0125},
    )


def _fork_costs(chance: Random) -> list[ForkCost]:
    sizes = [
        ("ballast", 30),
        ("ballast", 130),
        ("ballast", 270),
        ("ballast", 530),
        ("ballast", 1030),
        ("tensorflow", 480),
    ]
    costs = []
    for kind, size in sizes:
        fork_s = [0.0006 + size * 9e-6 * chance.uniform(0.9, 1.25) for _ in range(9)]
        costs.append(ForkCost(kind, size * MIB, fork_s, [seconds * 1.7 for seconds in fork_s]))
    return costs


def _outcome(
    pattern: Pattern, server_type: str, side: str, workload: str, service_ms: float, cores: int, chance: Random
) -> Outcome:
    setup = Setup(server_type, side, workload, service_ms / 1000, cores, _WORKERS, _WORKERS)
    slower = 1 + chance.uniform(0, 0.02)
    calls = [
        Call(call.thread, call.start_s * slower, call.end_s * slower, "ok", 0) for call in predict(pattern, setup).calls
    ]
    placed = _with_pids(calls, server_type)
    last = max(call.end_s for call in placed)
    return Outcome(pattern.name, server_type, side, workload, service_ms, _WORKERS, _WORKERS, last, placed)


def _with_pids(calls: Sequence[Call], server_type: str) -> list[Call]:
    """Who answered: one process, one a connection, or of the pool the one that has been idle for longest."""
    idle_since = dict.fromkeys(range(4100, 4100 + _WORKERS), 0.0)
    placed = []
    for call in sorted(calls, key=lambda call: call.end_s):
        pid = 4000
        if server_type == "TForkingServer":
            pid = 5000 + call.thread
        elif server_type in WITH_WORKERS:
            pid = min(idle_since, key=lambda each: idle_since[each])
            idle_since[pid] = call.end_s
        placed.append(Call(call.thread, call.start_s, call.end_s, call.outcome, pid))
    return sorted(placed, key=lambda call: (call.thread, call.start_s))

"""The model of the server types: cases that a formula answers, the published column, a run.

Nothing here waits and nothing is measured: simulated seconds are exact.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
from simpy import Environment

from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import (
    HUNDRED,
    PATTERNS,
    PUBLISHED,
    SERIES,
    SHARED,
    TEN,
    TYPES,
    Call,
    ExperimentRun,
    ForkCost,
    Outcome,
    Pattern,
    Published,
)
from thriftserve_bench.servers import BATCHING, SERVER_TYPES
from thriftserve_bench.simulator.machine import Connection, Cores, Interpreter, Steps
from thriftserve_bench.simulator.predict import (
    check,
    predict,
    predict_published,
    published_fork_s,
    published_parent_bytes,
)
from thriftserve_bench.simulator.server_models import ProcessPool
from thriftserve_bench.simulator.setup import (
    HOLD_GIL,
    SLEEP,
    SPIN,
    WORKLOADS,
    Costs,
    NotSimulated,
    Setup,
    costs_from,
    fork_line,
)
from thriftserve_bench.simulator.world import World

SERVICE_S = 0.3
#: Everything but the service is for nothing: what remains can be computed by hand.
FREE = Costs(**dict.fromkeys(Costs.__dataclass_fields__, 0.0))
LOCK_BOUND = ("TSimpleServer", "TThreadedServer", "TThreadPoolServer", "TNonblockingServer")
CELLS = [(side, server_type) for side in SIDES for server_type in TYPES[side]]


def setup(server_type: str, side: str = OURS, **changes: object) -> Setup:
    """A server without costs, on a machine that is never short of cores."""
    return replace(Setup(server_type, side, service_s=SERVICE_S, costs=FREE), **changes)  # type: ignore[arg-type]


def elapsed_s(pattern: Pattern, server_type: str, side: str = OURS, **changes: object) -> float:
    """When all calls are done."""
    return predict(pattern, setup(server_type, side, **changes)).elapsed_s


# By hand


@pytest.mark.parametrize(("side", "server_type"), CELLS)
@pytest.mark.parametrize("pattern", [SERIES, SHARED])
def test_one_call_at_a_time_takes_calls_times_service(side: str, server_type: str, pattern: Pattern) -> None:
    """Ensures that no server type gains anything where clients wait for each other."""
    for workload in WORKLOADS:
        assert elapsed_s(pattern, server_type, side, workload=workload) == pytest.approx(100 * SERVICE_S)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("server_type", LOCK_BOUND)
@pytest.mark.parametrize("threads", [1, 10, 100])
def test_the_lock_is_what_threads_wait_for(side: str, server_type: str, threads: int) -> None:
    """Ensures that code which keeps the lock takes as long on any number of threads, and on many cores."""
    for pattern, workload in product((TEN, HUNDRED), (HOLD_GIL, SPIN)):
        taken_s = elapsed_s(pattern, server_type, side, threads=threads, workload=workload)
        assert taken_s == pytest.approx(100 * SERVICE_S)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("threads", "rounds"), [(1, 100), (5, 20), (10, 10)])
def test_a_wait_without_the_lock_runs_on_all_threads(side: str, threads: int, rounds: int) -> None:
    """Ensures that threads do help where the service lets the lock go, as many as there are."""
    for server_type in ("TThreadPoolServer", "TNonblockingServer"):
        taken_s = elapsed_s(TEN, server_type, side, threads=threads, workload=SLEEP)
        # Ours gives threads away for a millisecond at a time.
        assert taken_s == pytest.approx(rounds * SERVICE_S, rel=0.01)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("workers", "rounds"), [(1, 100), (2, 50), (5, 20), (10, 10)])
def test_workers_divide_the_time(side: str, workers: int, rounds: int) -> None:
    """Ensures that N workers take an Nth of the time, for ten clients and for a hundred."""
    for pattern in (TEN, HUNDRED):
        taken_s = elapsed_s(pattern, "TProcessPoolServer", side, workers=workers)
        assert taken_s == pytest.approx(rounds * SERVICE_S)


@pytest.mark.parametrize(("workers", "runs"), [(1, 1), (3, 1), (10, 1), (64, 1), (2, 5), (1, 100)])
@pytest.mark.parametrize("pattern", [TEN, HUNDRED])
def test_an_idle_worker_takes_whichever_request_waits(workers: int, runs: int, pattern: Pattern) -> None:
    """Ensures that no request waits while a worker of TBatchingServer idles, whose slots share its lock."""
    for workload, seats in ((HOLD_GIL, workers), (SLEEP, workers * runs)):
        rounds = -(-100 // min(seats, pattern.threads))
        taken_s = elapsed_s(pattern, BATCHING, workers=workers, runs=runs, workload=workload)
        assert taken_s == pytest.approx(rounds * SERVICE_S)


def test_the_front_is_one_process() -> None:
    """Ensures that what the front does is serial, and that workers compute beside it."""
    costs = replace(FREE, front_s=0.01, server_call_s=0.01)
    taken_s = elapsed_s(HUNDRED, BATCHING, workers=64, service_s=0.0, costs=costs)
    assert taken_s == pytest.approx(100 * 0.01 + 0.005, abs=0.011)


def test_apache_has_no_such_type() -> None:
    """Ensures that a type that is ours alone is not predicted for the other side."""
    with pytest.raises(NotSimulated, match="none with side=apache"):
        setup(BATCHING, APACHE)


def test_a_connection_stays_with_its_worker() -> None:
    """Ensures that ten clients keep no more than ten of many workers busy, and that four divide them as 3, 3, 2, 2."""
    assert elapsed_s(TEN, "TProcessPoolServer", workers=64) == pytest.approx(10 * SERVICE_S)
    assert elapsed_s(TEN, "TProcessPoolServer", workers=4) == pytest.approx(30 * SERVICE_S)


@pytest.mark.parametrize("server_type", ["TProcessPoolServer", "TThreadPoolServer"])
def test_apaches_pools_let_the_others_wait_for_the_end_of_a_connection(server_type: str) -> None:
    """Ensures that the first answer of a late client comes after an early one's last at Apache's, and not at ours."""
    last_to_begin_s = {}
    for side in SIDES:
        few = Pattern("few", 4, 10)
        calls = predict(few, setup(server_type, side, workers=2, threads=2, workload=SLEEP)).calls
        last_to_begin_s[side] = max(min(call.end_s for call in calls if call.thread == thread) for thread in range(4))
    assert last_to_begin_s[APACHE] == pytest.approx(11 * SERVICE_S)
    assert last_to_begin_s[OURS] < 4 * SERVICE_S


def test_a_connection_goes_to_the_idle_worker_with_the_fewest() -> None:
    """Ensures that clients that come one after the other spread over our pool, so that later they don't meet."""
    world = World(setup("TProcessPoolServer", workers=3))
    server = ProcessPool(world)
    server.start()
    connections = [Connection(world.env) for _ in range(3)]
    for connection in connections:
        server.connect(connection)
        world.env.run(until=connection.send().answered)
    began = world.env.now
    for request in [connection.send() for connection in connections]:
        world.env.run(until=request.answered)
    assert world.env.now - began == pytest.approx(SERVICE_S)


@pytest.mark.parametrize("side", SIDES)
def test_forks_are_serial_in_the_parent(side: str) -> None:
    """Ensures that the last of n clients has its child after n forks, whatever the number of cores."""
    costs = replace(FREE, fork_s=0.1, fork_child_s=0.02)
    taken_s = [elapsed_s(each, "TForkingServer", side, costs=costs) for each in (SERIES, TEN, HUNDRED)]
    assert taken_s == pytest.approx([0.12 + 100 * SERVICE_S, 10 * 0.1 + 0.02 + 10 * SERVICE_S, 10.02 + SERVICE_S])


@pytest.mark.parametrize("side", SIDES)
def test_computing_needs_cores(side: str) -> None:
    """Ensures that what computes is bound by two cores, with more processes than that; what sleeps is not."""
    for server_type in ("TForkingServer", "TProcessPoolServer"):
        assert elapsed_s(TEN, server_type, side, cores=2, workload=SPIN) == pytest.approx(50 * SERVICE_S)
        assert elapsed_s(TEN, server_type, side, cores=2, workload=HOLD_GIL) == pytest.approx(10 * SERVICE_S)
        assert elapsed_s(TEN, server_type, side, cores=10, workload=SPIN) == pytest.approx(10 * SERVICE_S)


def test_cores_are_shared_evenly() -> None:
    """Ensures the sharing itself: three that want 1 s, 1 s and 2 s of two cores end at 1.5 s, 1.5 s and 2.5 s."""
    env = Environment()
    cores, ends = Cores(env, 2), []

    def thread(cpu_s: float) -> Steps:
        yield cores.run(cpu_s)
        ends.append(env.now)

    for cpu_s in (1.0, 1.0, 2.0):
        env.process(thread(cpu_s))
    env.run()
    assert ends == pytest.approx([1.5, 1.5, 2.5])


def test_a_thread_gets_the_lock_of_a_computing_one_after_the_switch_interval() -> None:
    """Ensures that a short piece of work waits 5 ms behind a long one that computes, and all of one that holds on."""
    waited = {}
    for kind in ("compute", "hold"):
        env = Environment()
        process = Interpreter(env, Cores(env, 8))
        env.process(process.compute(1.0) if kind == "compute" else process.hold(0.0, 1.0))

        def short(env: Environment = env, process: Interpreter = process, kind: str = kind) -> Steps:
            yield from process.compute(0.001)
            waited[kind] = env.now

        env.process(short())
        env.run()
    assert waited == pytest.approx({"compute": 0.006, "hold": 1.001})


# In general


@pytest.mark.parametrize(("side", "server_type"), CELLS)
def test_every_call_happens_once(side: str, server_type: str) -> None:
    """Ensures that no call is lost or doubled, that none is faster than its service and a thread's don't overlap."""
    for pattern, workload in product(PATTERNS.values(), WORKLOADS):
        prediction = predict(pattern, Setup(server_type, side, workload, SERVICE_S, cores=2))
        assert len(prediction.calls) == pattern.calls
        assert prediction.elapsed_s == max(call.end_s for call in prediction.calls)
        for thread in range(pattern.threads):
            own = [call for call in prediction.calls if call.thread == thread]
            assert len(own) == pattern.calls_per_thread
            assert all(call.end_s - call.start_s >= SERVICE_S - 1e-9 for call in own)
            assert all(before.end_s <= after.start_s for before, after in pairwise(own))


@pytest.mark.parametrize(("side", "pattern"), [*product(SIDES, (TEN, HUNDRED))])
def test_more_workers_are_never_slower(side: str, pattern: Pattern) -> None:
    """Ensures that adding workers never costs time where no core is used."""
    taken_s = [
        predict(pattern, Setup("TProcessPoolServer", side, workers=workers, cores=2)).elapsed_s
        for workers in range(1, 33)
    ]
    assert all(after <= before + 0.02 for before, after in pairwise(taken_s)), taken_s


def events(server_type: str, workload: str, clients: int, service_s: float = SERVICE_S) -> int:
    """The steps of the simulation of so many clients, a call each."""
    pattern = Pattern("many", clients, 1)
    return predict(
        pattern, Setup(server_type, workload=workload, service_s=service_s, cores=8, clients_here=False)
    ).events


@pytest.mark.parametrize("workload", [HOLD_GIL, SPIN])
@pytest.mark.parametrize("server_type", SERVER_TYPES)
def test_many_clients_take_a_bounded_number_of_steps(server_type: str, workload: str) -> None:
    """Ensures that the cost of a simulation grows with its calls and no faster."""
    few, many = (events(server_type, workload, clients, service_s=0.01) for clients in (150, 1_500))
    assert many <= 45 * 1_500
    assert many <= 11 * few


@pytest.mark.parametrize("server_type", ["TThreadPoolServer", BATCHING])
def test_ten_thousand_clients_take_a_bounded_number_of_steps(server_type: str) -> None:
    """Ensures that the bound is none of small numbers: the types of the most steps, with ten thousand clients."""
    assert events(server_type, SPIN, 10_000) <= 45 * 10_000


# The published column


@pytest.mark.parametrize("row", PUBLISHED, ids=[row.row for row in PUBLISHED])
def test_the_published_column_is_predicted(row: Published) -> None:
    """Ensures that each published figure is met within 15 %, and those of one server type within the stated error."""
    found_s = predict_published(row).elapsed_s
    assert 0.85 * row.low_s <= found_s <= 1.15 * row.high_s
    if row.server_type == "TForkingServer":
        assert row.low_s <= found_s <= row.high_s


def test_one_cost_of_a_fork_explains_both_forking_rows() -> None:
    """Ensures that experiments 5 and 6 agree on a fork's cost, about 0.11 s, and that without it neither is met."""
    low_s, high_s = published_fork_s()
    assert 0.1 < low_s < high_s < 0.12
    for row in PUBLISHED:
        if row.server_type == "TForkingServer":
            assert predict_published(row, fork_s=0.0).elapsed_s < row.low_s
            assert row.low_s <= predict_published(row, fork_s=low_s + 0.001).elapsed_s <= row.high_s


# Against a run


def run_of(**changes: object) -> ExperimentRun:
    """A run on two cores that measured what a forking server costs."""
    calibration = {
        "connect_s": 0.001,
        "client_start_s": 0.0002,
        "call_s/ours/TForkingServer": 0.003,
        "call_cpu_s/ours/TForkingServer": 0.002,
        "first_call_s/ours/TForkingServer": 0.024,
        "first_call_cpu_s/ours/TForkingServer": 0.027,
        "first_call_parent_cpu_s/ours/TForkingServer": 0.006,
    }
    run = ExperimentRun("now", {}, {"cores": 2}, {}, "none", calibration=calibration)
    return replace(run, **changes)  # type: ignore[arg-type]


def test_costs_are_told_apart() -> None:
    """Ensures that a measured first call is split into connection, call, fork, the child's beginning and its end."""
    costs = costs_from(run_of(), "TForkingServer", OURS)
    split = (costs.client_call_s, costs.server_call_s, costs.fork_s, costs.fork_child_s, costs.fork_exit_s)
    assert split == pytest.approx((0.001, 0.002, 0.006, 0.014, 0.005))
    assert costs.accept_s == 0
    assert costs_from(run_of(), "TThreadedServer", APACHE).accept_s == Costs().accept_s


def test_the_front_has_its_part_of_a_call() -> None:
    """Ensures that the front's CPU is taken out of the server's, and that no call loses any."""
    measured = {"call_s": 0.004, "call_cpu_s": 0.003, "front_cpu_s": 0.001}
    run = run_of(calibration={f"{name}/ours/{BATCHING}": value for name, value in measured.items()})
    costs = costs_from(run, BATCHING, OURS)
    assert (costs.client_call_s, costs.server_call_s, costs.front_s) == pytest.approx((0.001, 0.002, 0.001))
    assert costs_from(run, "TThreadedServer", OURS).front_s == 0


def test_cells_are_checked_and_failed_ones_left_out() -> None:
    """Ensures that a prediction stands beside each measured cell, on the cores of the run, with the run's costs."""
    call = Call(0, 0.0, 1.0, "ok")
    good = Outcome("ten", "TForkingServer", OURS, SPIN, 100.0, 0, 0, 5.4, [call])
    failed, unknown = replace(good, failure="no server"), replace(good, workload="model")
    ((outcome, predicted_s, measured_s, ratio),) = check(run_of(outcomes=[failed, good, unknown]))
    assert (outcome, measured_s) == (good, 5.4)
    assert ratio == predicted_s / measured_s
    # 100 calls and 10 set-ups on two cores; the last client ends while some cores are idle already.
    assert predicted_s == pytest.approx((100 * 0.103 + 10 * 0.021) / 2, rel=0.05)


def test_the_fork_costs_tell_how_large_the_published_parent_would_be() -> None:
    """Ensures that the line through the measured forks is fitted, and read backwards."""
    forks = [ForkCost("ballast", size, [0.001 + size * 1e-11] * 3, [1.0]) for size in (10**8, 10**9, 2 * 10**9)]
    run = run_of(fork_costs=[*forks, ForkCost("tensorflow", 10**9, [9.0], [9.0])])
    line = fork_line(run)
    assert line is not None
    assert line.fork_s(10**9) == pytest.approx(0.011)
    parent = published_parent_bytes(run)
    assert parent == pytest.approx([(cost_s - 0.001) * 1e11 for cost_s in published_fork_s()])
    assert published_parent_bytes(run_of()) is None

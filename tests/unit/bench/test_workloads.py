"""The workloads spend their time each in its own way: the lock held, the CPU used, or neither."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from thriftserve_bench.benchmarks.experiments.hosts import TIMED
from thriftserve_bench.workloads.builders import build
from thriftserve_bench.workloads.timed import HoldGil, SavedModel, Sleep, Spin

MS = 60.0


def hold_gil(ms: float = MS) -> HoldGil:
    """A loaded HoldGil."""
    workload = HoldGil(str(ms))
    workload.load()
    return workload


def in_two_threads(action: Callable[[], object]) -> list[tuple[float, float]]:
    """When an action began and ended in each of two threads that are let go together."""
    together, spans = threading.Barrier(2), []

    def one() -> None:
        together.wait()
        began = time.perf_counter()
        action()
        spans.append((began, time.perf_counter()))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spans


def test_hold_gil_keeps_other_threads_out() -> None:
    """Two threads of one process take twice the time: their waits can't overlap."""
    spans = in_two_threads(lambda: hold_gil().predict({}))
    assert max(end for _, end in spans) - min(began for began, _ in spans) >= 2 * MS / 1000


def test_sleep_lets_the_lock_go() -> None:
    """Two threads of one process sleep at the same time."""
    spans = in_two_threads(lambda: Sleep("400").predict({}))
    assert max(began for began, _ in spans) < min(end for _, end in spans)


def test_spin_uses_cpu_and_the_others_do_not() -> None:
    """Spin's time is CPU time of its thread; the two that wait use next to none."""
    used = {}
    for name, workload in (("spin", Spin(str(MS))), ("sleep", Sleep(str(MS))), ("hold-gil", hold_gil())):
        before = time.thread_time()
        workload.predict({})
        used[name] = time.thread_time() - before
    assert used["spin"] >= MS / 1000
    assert max(used["sleep"], used["hold-gil"]) < MS / 1000 / 2


@pytest.fixture
def _alarms() -> Iterator[None]:
    """A signal every few milliseconds."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_alarms")
def test_signals_do_not_shorten_the_wait() -> None:
    """A wait with the lock held goes on after a signal, to its end."""
    assert float(hold_gil().predict({})["took_ms"]) >= MS


@pytest.mark.parametrize("name", TIMED)
def test_a_call_may_ask_for_another_time(name: str) -> None:
    """The input "ms" takes the place of the service time for one call; what it took is told."""
    workload = {"hold-gil": hold_gil(60_000.0), "spin": Spin("60000"), "sleep": Sleep("60000")}[name]
    took = workload.predict({"ms": np.asarray(2.0)})["took_ms"]
    assert took.dtype == np.float64
    assert 2.0 <= float(took) < 60_000.0


@pytest.mark.parametrize("ms", ["-1", "nan", "soon"])
def test_times_of_no_use_are_refused(ms: str) -> None:
    """A service time must be a number, 0 or more."""
    with pytest.raises(ValueError, match=ms if ms != "soon" else "could not convert"):
        Sleep(ms)


def test_a_saved_model_answers(tmp_path: Path) -> None:
    """The newest version of a real model runs, in a server without model code of its own."""
    workload = SavedModel(str(build("half_plus_two", tmp_path, version=3)))
    workload.load()
    found = workload.predict({"x": np.asarray([1.0, 4.0], np.float32)})
    np.testing.assert_allclose(found["y"], [2.5, 4.0])


def test_a_directory_without_versions_is_refused(tmp_path: Path) -> None:
    """A base path needs a version directory."""
    with pytest.raises(ValueError, match="no version directory"):
        SavedModel(str(tmp_path))

"""Histograms of a real server: every request that ran is in them, once, whoever ran it and whatever became of that."""

from __future__ import annotations

import json
import re
import signal
import time

import numpy as np
import psutil
import pytest

from client_service import serving
from documents import SUPPORT
from served import Served
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import ServerError, ServerStatus
from thriftserve_client.cli.main import main
from thriftserve_idl import ttypes

HERE = str(SUPPORT)
ROWS = np.ones((3, 2), np.float32)


def of_rows(server_type: str, *arguments: str) -> Served:
    """A server of a model that takes x FLOAT [n, 2]."""
    model = "m=python:served_models:Declared"
    return Served("--model", model, "--server-type", server_type, *arguments, PYTHONPATH=HERE)


def status(server: Served) -> ServerStatus:
    """The server's status, asked on a connection of its own."""
    with server.client() as client:
        return client.server_status()


def counts(server: Served) -> set[int]:
    """How many requests each histogram tells of."""
    return {each.count for each in status(server).histograms}


def wait_for(server: Served, count: int) -> None:
    """Waits until the histograms tell of so many requests; never of more."""
    while (now := counts(server)) != {count}:
        assert max(now) <= count
        time.sleep(0.01)


@pytest.mark.parametrize("server_type", ["TThreadPoolServer", "TForkingServer", "TBatchingServer"])
def test_every_request_is_counted(server_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as were answered from the model, with the figures of their Timing; the command shows them."""
    with of_rows(server_type) as server:
        timings = []
        for _ in range(2):
            with server.client() as client:
                timings += [client.predict("m", {"x": ROWS}).timing for _ in range(5)]
                client.ping()
                with pytest.raises(ServerError):
                    client.predict("m", {"x": ROWS[0]})
        wait_for(server, 10)
        queue, compute, batch = status(server).histograms
        assert (queue.name, compute.name, batch.name) == ("queue_time", "compute_time", "batch_size")
        assert queue.sum == sum(one.queue_us for one in timings if one)
        assert compute.sum == sum(one.compute_us for one in timings if one)
        assert (batch.sum, batch.bound_of(0.01), batch.bound_of(1)) == (30, 4, 4)

        assert main(["status", "--port", str(server.port)]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["batch", "size", "10", "<=", "4", "<=", "4", "3"] in lines
        assert main(["status", "--json", "--port", str(server.port)]) == 0
        shown = json.loads(capsys.readouterr().out)["histograms"]
        assert [tuple(one["counts"]) for one in shown] == [queue.counts, compute.counts, batch.counts]
        assert [one["sum"] for one in shown] == [queue.sum, compute.sum, batch.sum]

        server.stop()
        told = re.findall(r"info \S+context \d+ ran (\d+) requests: queue time p50 <= .*; (.*)", server.log())
        assert sum(int(count) for count, _ in told) == 10
        assert {mean for _, mean in told} == {"mean batch size 3.0"}


@pytest.mark.parametrize("server_type", ["TProcessPoolServer", "TBatchingServer"])
def test_numbers_of_a_killed_worker_stay(server_type: str) -> None:
    """kill -9 of a worker takes nothing from the histograms, and they grow on from there."""
    with of_rows(server_type, "--workers", "2") as server:
        for round_ in range(3):
            with server.client() as client:
                timings = [client.predict("m", {"x": ROWS}).timing for _ in range(4)]
            wait_for(server, 4 * (round_ + 1))
            assert timings[-1]
            victim = timings[-1].worker_pid  # the other one serves on
            signal_process(victim, signal.SIGKILL)
            while psutil.pid_exists(victim):
                time.sleep(0.01)
        assert counts(server) == {12}
        assert "requests: queue time" not in server.log()


def test_a_worker_without_requests_says_nothing() -> None:
    """The line of figures at a worker's end is there only where there are figures."""
    with of_rows("TThreadedServer") as server:
        assert counts(server) == {0}
        server.stop()
        assert "requests: queue time" not in server.log()


def test_status_shows_fronts_and_queues(capsys: pytest.CaptureFixture[str]) -> None:
    """A server with fronts: what each process does, what waits, notes; a server without: nothing of it."""
    with serving() as service:
        old = service.handler.getServerStatus()
        assert main(["status", "--port", str(service.port)]) == 0
        plain = capsys.readouterr().out
        assert not any(word in plain for word in ("queued", "role", "note", "of requests run"))

        new = service.handler.getServerStatus()
        new.workers.append(ttypes.WorkerStatus(*(getattr(new.workers[0], name) for name in new.workers[0].__slots__)))
        new.workers[0].role, new.workers[0].note = "worker", "frozen"
        new.workers[1].role = "front"
        new.queued, new.queued_bytes = 7, 4200
        new.histograms = [ttypes.Histogram("queue_time", "us", [8, 16, 2048], [0, 0, 0, 0], 0)]
        service.handler.getServerStatus = lambda: new  # type: ignore[method-assign]
        assert main(["status", "--port", str(service.port)]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert "queued 7 requests, 4200 bytes" in lines
        assert "queue time 0 - - -" in lines
        assert lines[-2].endswith("0 1 worker frozen")
        assert lines[-1].endswith("0 1 front")

        new.histograms[0].counts, new.histograms[0].sum = [49, 1, 48, 2], 151_000
        assert main(["status", "--port", str(service.port)]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert "queue time 100 <= 16 us > 2.048 ms 1.51 ms" in lines
        assert old.histograms is None

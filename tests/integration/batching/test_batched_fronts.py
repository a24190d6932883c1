"""Several fronts on one port: clients spread over them, one that is killed is replaced, the others serve on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil

from batched_load import Pipe, frame, fronts, right, steered, workers, workers_by
from documents import SUPPORT
from hosting import eventually
from served import Served, command, environment
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process

CLIENTS = 24


def front_of(pipe: Pipe, server: Served) -> int:
    """The pid of the front that holds a connection."""
    port = pipe.sock.getsockname()[1]
    for front in fronts(server):
        with contextlib.suppress(psutil.Error):
            if any(port in each.raddr for each in front.net_connections("tcp")):
                return front.pid
    raise AssertionError("no front has it")


def ask(pipe: Pipe, number: int) -> bool:
    """Whether a request on a connection is answered rightly."""
    pipe.send(frame(number))
    return [(got, right(number, answer)) for got, answer in pipe.answers(1)] == [(number, True)]


def test_two_fronts(tmp_path: Path) -> None:
    """Both serve, from the same workers; killed, one is replaced, and the clients of the other see nothing of it."""
    with steered(tmp_path, "--workers", "2", "--fronts", "2") as server, contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(Pipe(server)) for _ in range(CLIENTS)]
        assert all(ask(pipe, number) for number, pipe in enumerate(pipes))
        homes = [front_of(pipe, server) for pipe in pipes]
        assert len(set(homes)) == 2, "the kernel spreads them"
        before = set(workers(server))
        victim = homes[0]
        kept = [pipe for pipe, home in zip(pipes, homes, strict=True) if home != victim]
        signal_process(victim, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(victim), "its end")
        for turn in range(20):
            assert all(ask(pipe, turn) for pipe in kept)
        for number in range(CLIENTS):  # new ones, of whom some come to the new front
            assert ask(stack.enter_context(Pipe(server)), number)
        assert len({front.pid for front in fronts(server)} | {victim}) == 3
        assert set(workers(server)) == before, "no worker ended with it"
        with server.client() as client:
            eventually(lambda: client.server_status().state == "SERVING", "all is well again")
            assert sum(each.restarts for each in client.server_status().workers if each.role == "front") == 1
        second = command("serve", "--model", "m=python:batched_models:Brightness", "--port", str(server.port))
        for many in ("1", "2"):  # two that share a port must be of one server
            taken = subprocess.run(
                [*second, "--fronts", many, "--devices", "cpu"],
                env=environment(PYTHONPATH=str(SUPPORT)),
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert taken.returncode == ExitCode.BIND, taken.stderr
            assert "is in use" in taken.stderr
        assert server.stop() == (ExitCode.OK, "")


def test_a_killed_front_under_load(tmp_path: Path) -> None:
    """The only front is killed with requests under way: workers serve its successor, answers are nobody else's."""
    with steered(tmp_path, "--workers", "2") as server, contextlib.ExitStack() as stack:
        before = set(workers(server))
        for _ in range(3):
            pipes = [stack.enter_context(Pipe(server)) for _ in range(8)]
            for number, pipe in enumerate(pipes):
                pipe.send(*(frame(number) for _ in range(50)))
            assert ask_again(pipes[0])
            signal_process(fronts(server)[0].pid, signal.SIGKILL)
            for pipe in pipes:
                pipe.sock.close()
            with server.client() as client:
                for number in range(50):
                    assert (client.predict("m", {"x": np.full(3, number, np.float32)})["y"] == 2 * number + 1).all()
        assert set(workers(server)) == before
        assert server.stop() == (ExitCode.OK, "")


def test_workers_come_back_with_no_descriptor_left(tmp_path: Path) -> None:
    """Clients may have every descriptor of a front but those of its workers, who find theirs when they come back."""
    with steered(tmp_path, "--workers", "1") as server, server.client() as client, contextlib.ExitStack() as stack:
        (front,) = fronts(server)
        client.ping()
        limit = front.num_fds() + 8
        front.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
        pipe, *_ = [stack.enter_context(Pipe(server)) for _ in range(2 * limit)]
        eventually(lambda: "can't accept connections" in server.log(), "out of descriptors")
        for turn in range(3):
            assert ask(pipe, turn)
            (victim,) = workers_by(client)
            signal_process(victim, signal.SIGKILL)
            eventually(lambda: victim not in workers_by(client), "its end")  # noqa: B023  # called here
        assert ask(pipe, 9)


def ask_again(pipe: Pipe) -> bool:
    """Whether the next answer, to a request numbered 0, is right."""
    ((number, answer),) = pipe.answers(1)
    return right(number, answer)

"""TBatchingServer when workers die, hang or load: who is answered, with what, and who notices nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from batched_load import Loops, Pipe, frame, right, steered, told, workers
from hosting import PATIENCE_S, eventually
from served import Served
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import InternalError, UnavailableError
from thriftserve_idl.ttypes import ErrorCode, PredictError

KILLS = 4
WORKER_TIMEOUT_S = "0.6"


def state(server: Served) -> str:
    """What it says of itself."""
    with server.client() as client:
        return str(client.server_status().state)


@pytest.fixture(scope="module", params=[1, 2], ids=["one-run", "two-runs"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """Two workers, of one or two runs at once, that may hang for less than a second."""
    folder = tmp_path_factory.mktemp("steered")
    runs = str(request.param)
    with steered(folder, "--workers", "2", "--runs-per-worker", runs, "--worker-timeout-s", WORKER_TIMEOUT_S) as made:
        yield made, folder
        assert made.stop() == (ExitCode.OK, "")
        assert "Traceback" not in made.log(), made.log()


def test_killed_workers_cost_no_request(server: tuple[Served, Path]) -> None:
    """Workers are killed while 16 clients call: each request is answered, rightly, by whoever is left."""
    served, _ = server
    with Loops(served, 16) as loops:
        for _ in range(KILLS):
            loops.go_on(200)
            victim = workers(served)[0]
            signal_process(victim, signal.SIGKILL)
            _wait_for_successor(served, victim)
        loops.go_on(200)
    assert loops.failures == []
    assert max(loops.sizes) > 1


def _wait_for_successor(server: Served, victim: int) -> None:
    eventually(lambda: len(set(workers(server)) - {victim}) == 2, "another worker")


def test_a_request_that_kills_fails_alone(server: tuple[Served, Path]) -> None:
    """Requests that kill their worker are answered INTERNAL after two of them; those beside them get their answers."""
    served, _ = server
    poisoned = {3, 9, 17, 30, 38}
    with Loops(served, 4) as loops, Pipe(served) as pipe:
        pipe.send(*(frame(number, told("kill" if number in poisoned else "", number)) for number in range(40)))
        for expected, (number, answer) in enumerate(pipe.answers(40)):
            assert number == expected
            if number not in poisoned:
                assert right(number, answer)
                continue
            assert isinstance(answer, PredictError)
            assert (answer.code, answer.retryable) == (ErrorCode.INTERNAL, False)
            assert "2 workers died" in answer.message
    assert loops.failures == []


def test_a_worker_that_hangs_is_replaced(server: tuple[Served, Path]) -> None:
    """A worker that holds a request for too long is killed; so is a second one; then the client is told."""
    served, _ = server
    before = served.log().count("is killed")
    with Loops(served, 4) as loops:
        with served.client() as client, pytest.raises(InternalError, match="2 workers died"):
            client.predict("m", told("hang"))
        loops.go_on(20)
    assert loops.failures == []
    assert served.log().count("is killed") - before == 2


def test_the_front_answers_whatever_the_workers_do(tmp_path: Path) -> None:
    """Ping and status are answered while all workers are busy, or loading; ping says which. What comes then waits."""
    with steered(tmp_path, "--workers", "1") as server, Pipe(server) as pipe, server.client() as client:
        pipe.send(frame(1, told("hold:gate", 1)))
        eventually((tmp_path / "gate.held").exists, "a busy worker")
        client.ping()
        assert client.server_status().state == "SERVING"
        (tmp_path / "no-load").touch()
        (victim,) = workers(server)
        signal_process(victim, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(victim), "its end")
        eventually(lambda: state(server) == "DEGRADED", "the status")
        pipe.send(frame(2))
        for _ in range(20):
            with pytest.raises(UnavailableError, match="all are loading, or stuck"):
                client.ping()
        eventually(lambda: [each for each in workers(server) if each != victim] != [], "a successor, loading")
        with pytest.raises(UnavailableError):
            client.ping()
        assert client.server_status().models == ("m",)
        (tmp_path / "gate").touch()
        with pytest.raises(UnavailableError):
            client.wait_for_ready(0.2)
        (tmp_path / "no-load").unlink()
        client.wait_for_ready(PATIENCE_S)
        assert [(number, right(number, answer)) for number, answer in pipe.answers(2)] == [(1, True), (2, True)]
        assert (client.predict("m", {"x": np.ones(2, np.float32)})["y"] == 3).all()
        client.ping()


def test_a_stuck_worker_is_not_ready(tmp_path: Path) -> None:
    """While the only worker hangs in a run, ping says so, long before the worker is killed; and OK once it goes on.

    Its runs take a while, so that it has a second slot, which could take a batch, but not run it.
    """
    with steered(tmp_path, "--workers", "1", ms=2) as server, Pipe(server) as pipe, server.client() as client:
        for number in range(200):  # runs are known to be short
            client.predict("m", told("", number))
        pipe.send(frame(1, told("hold:gate", 1)))
        eventually((tmp_path / "gate.held").exists, "a busy worker")
        client.ping()  # one run may take longer than the others
        eventually(lambda: not answers_ping(server), "ping that fails")
        assert client.server_status().state == "SERVING"
        (tmp_path / "gate").touch()
        assert [(number, right(number, answer)) for number, answer in pipe.answers(1)] == [(1, True)]
        client.ping()


def answers_ping(server: Served) -> bool:
    """Whether a request that is sent now would be run."""
    with server.client() as client:
        try:
            client.ping()
        except UnavailableError:
            return False
    return True


def test_requests_that_kill_never_end_the_server(tmp_path: Path) -> None:
    """Requests that kill: one by one, many and different. Each is answered; others like them are refused unrun."""
    with steered(tmp_path, "--workers", "1") as server, server.client() as client:
        for number in range(5):
            with pytest.raises(InternalError, match="2 workers died"):
                client.predict("m", told("kill", number))
        eventually(lambda: server.log().count("ended by SIGKILL") == 10, "the last worker's end in the log")
        for number in range(5):
            with pytest.raises(InternalError, match="it is not run again for"):
                client.predict("m", told("kill", number), request_id=f"again {number}", timeout_s=60)
        assert server.log().count("ended by SIGKILL") == 10
        assert (client.predict("m", told("", 9))["y"] == 19).all()
        assert server.stop() == (ExitCode.OK, "")


def test_others_are_served_while_suspects_run(tmp_path: Path) -> None:
    """Of two workers one at a time runs what may have killed another; the other one is not put at risk."""
    with steered(tmp_path, "--workers", "2") as server, Loops(server, 4) as loops, Pipe(server) as pipe:
        pipe.send(*(frame(number, told("kill", number)) for number in range(12)))
        least = 2
        for _ in pipe.answers(12):
            least = min(least, len(workers(server)))
            loops.go_on(1)
        assert loops.failures == []

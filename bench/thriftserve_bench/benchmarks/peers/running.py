"""A contestant while it runs: its server, and the load generator that speaks to it.

    Contestant, job  --start-->  Running, once it answers right  --measure-->  PeerWindow  --stop-->  no process left

A ready line is not enough here: some servers listen long before their workers can answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.peers.systems import OURS, Contestant
from thriftserve_bench.processes import ChildEnded, JsonLinesChild, ServerFailed, ServerProcess, clean_environment
from thriftserve_bench.records.peers import PeerOrder, PeerWindow

_READY_TIMEOUT_S = 60.0
_STOP_PATIENCE_S = 5.0
_TRIAL_S = 0.05


class Loads:
    """The load generators of a run: one for Thrift and HTTP, and the peers' own where they need one.

    Args:
        pythons: the Python of each family's environment.
    """

    def __init__(self, pythons: Mapping[str, Path]) -> None:
        self._pythons = pythons
        self._processes: dict[str, JsonLinesChild] = {}

    def of(self, contestant: Contestant) -> JsonLinesChild:
        """The one that speaks to it; it is started when first needed."""
        if contestant.dialect != "content":
            return self.for_thrift()
        name = contestant.family
        if name not in self._processes:
            module, python = "thriftserve_bench.load.grpc_load", self._pythons[name]
            self._processes[name] = JsonLinesChild(module, python=str(python))
        return self._processes[name]

    def for_thrift(self) -> JsonLinesChild:
        """The one for Thrift and HTTP; it is started when first needed."""
        if "" not in self._processes:
            self._processes[""] = JsonLinesChild("thriftserve_bench.load.peers_load")
        return self._processes[""]

    def close(self) -> None:
        """Ends them."""
        for one in self._processes.values():
            one.close()


class Running:
    """A contestant's server that answers. Made by `start`."""

    def __init__(
        self, contestant: Contestant, job: str, pool: Path, server: ServerProcess, load: JsonLinesChild
    ) -> None:
        self.contestant = contestant
        self.server = server
        self._job, self._pool, self._load = job, pool, load

    def measure(self, clients: int, seconds: float) -> PeerWindow:
        """Has one window measured.

        Raises:
            ServerFailed: the server or the load generator has ended.
        """
        server, contestant = self.server, self.contestant
        order = PeerOrder(contestant.dialect, self._job, str(self._pool), server.port, server.pid, clients, seconds)
        try:
            window = PeerWindow(**self._load.ask(asdict(order)))
        except ChildEnded as error:
            raise ServerFailed(f"{contestant.name}: its load generator is gone: {error}", None) from error
        if not server.running:
            raise ServerFailed(f"{contestant.name} ended under load\n{server.log_tail()}", None)
        return window

    def pause(self) -> None:
        """Stops it until `resume`: some keep a core busy while nobody asks them, and others would pay for it."""
        process_tree.pause(self.server.pid)

    def resume(self) -> None:
        """Lets it go on."""
        process_tree.resume(self.server.pid)

    def stop(self) -> None:
        """Ends it with all its processes, paused or not."""
        self.resume()
        process_tree.stop(self.server.pid, _STOP_PATIENCE_S)
        self.server.stop()
        self.server.close()


def start(contestant: Contestant, job: str, model: Path, pool: Path, python: Path, load: JsonLinesChild) -> Running:
    """Starts a contestant's server and waits until it gives a right answer.

    Args:
        contestant: whom.
        job: name of the job.
        model: base path of the job's model.
        pool: file of its questions.
        python: of its environment.
        load: what asks it.

    Raises:
        ServerFailed: it ended, or gave no right answer in time; it is gone then.
    """
    is_ours = contestant.family == OURS
    server = ServerProcess(
        contestant.arguments(job, model),
        env=clean_environment() | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
        command=None if is_ours else [os.fspath(python), "-m", contestant.host],
        ready_timeout_s=_READY_TIMEOUT_S,
    )
    running = Running(contestant, job, pool, server.start(), load)
    try:
        _wait_for_answer(running)
    except BaseException:
        running.stop()
        raise
    return running


def _wait_for_answer(running: Running) -> None:
    until = time.monotonic() + _READY_TIMEOUT_S
    while True:
        window = running.measure(1, _TRIAL_S)
        if window.calls and not window.failures:
            return
        if time.monotonic() > until:
            raise ServerFailed(
                f"{running.contestant.name} gave no right answer within {_READY_TIMEOUT_S:g} s: {window.reason}\n"
                f"{running.server.log_tail()}",
                None,
            )

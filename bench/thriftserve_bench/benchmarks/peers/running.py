"""A system while it runs: its server, and the load generator that calls it.

    System, job  --start-->  RunningSystem, once it answers right  --measure-->  PeerWindow  --stop-->  no process left

A ready line is not enough here: some servers listen long before their workers can answer.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.peers.systems import System
from thriftserve_bench.load.job_load import JobOrder
from thriftserve_bench.processes import (
    TENSORFLOW_ON_CPU,
    ChildEnded,
    JsonLinesChild,
    ServerFailed,
    ServerProcess,
    clean_environment,
)
from thriftserve_bench.records.peers import OUR_FAMILY, PeerWindow
from thriftserve_bench.run_file import from_data

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
#: Length of the window that tries whether a system answers.
_TRIAL_S = 0.05


class LoadGenerators:
    """The load generators of a run, each started when first needed: one for all frames, and gRPC's own.

    Args:
        pythons: the Python of each family's environment.
    """

    def __init__(self, pythons: Mapping[str, Path]) -> None:
        self._pythons = pythons
        self._children: dict[str, JsonLinesChild] = {}

    def of(self, system: System) -> JsonLinesChild:
        """Return the load generator that speaks a system's protocol."""
        if system.protocol != "content":
            return self.for_frames()
        if system.family not in self._children:
            python = str(self.python_of(system))
            self._children[system.family] = JsonLinesChild("thriftserve_bench.load.grpc_load", python=python)
        return self._children[system.family]

    def for_frames(self) -> JsonLinesChild:
        """Return the load generator for Thrift and HTTP."""
        if "" not in self._children:
            self._children[""] = JsonLinesChild("thriftserve_bench.load.job_load")
        return self._children[""]

    def python_of(self, system: System) -> Path:
        """Return the Python of a system's environment."""
        return self._pythons.get(system.family, Path(sys.executable))

    def close(self) -> None:
        """End them."""
        for child in self._children.values():
            child.close()


class RunningSystem:
    """A system's server that answers; `start` makes it."""

    def __init__(self, system: System, job: str, samples: Path, server: ServerProcess, load: JsonLinesChild) -> None:
        self.system = system
        self.server = server
        self._job, self._samples, self._load = job, samples, load

    def measure(self, clients: int, seconds: float) -> PeerWindow:
        """Measure a window.

        Raises:
            ServerFailed: the server or the load generator has ended.
        """
        server, name = self.server, self.system.name
        samples = str(self._samples)
        order = JobOrder(self.system.protocol, self._job, samples, server.port, server.pid, clients, seconds)
        try:
            window = from_data(PeerWindow, self._load.ask(asdict(order)))
        except ChildEnded as error:
            raise ServerFailed(f"{name}: its load generator has ended: {error}") from error
        if not server.running:
            raise ServerFailed(f"{name} ended under load\n{server.log_tail()}")
        return window

    def pause(self) -> None:
        """Stop its processes until `resume`: some keep a core busy while idle, which others would pay for."""
        process_tree.pause(self.server.pid)

    def resume(self) -> None:
        """Let its processes continue."""
        process_tree.resume(self.server.pid)

    def stop(self) -> None:
        """End it with all its processes, paused or not."""
        self.resume()
        process_tree.stop(self.server.pid, _STOP_TIMEOUT_S)
        self.server.stop()
        self.server.close()


def start(system: System, job: str, model: Path, samples: Path, loads: LoadGenerators) -> RunningSystem:
    """Start a system's server and wait until it gives a right answer.

    Args:
        system: which one.
        job: name of the job.
        model: base path of the job's model.
        samples: file of its samples.
        loads: the load generators.

    Raises:
        ServerFailed: it ended, or gave no right answer in time; no process is left then.
    """
    host = None if system.family == OUR_FAMILY else [os.fspath(loads.python_of(system)), "-m", system.host]
    server = ServerProcess(
        system.arguments(job, model),
        env=clean_environment(**TENSORFLOW_ON_CPU),
        command=host,
        ready_timeout_s=_READY_TIMEOUT_S,
    )
    running = RunningSystem(system, job, samples, server.start(), loads.of(system))
    try:
        _wait_for_answer(running)
    except BaseException:
        running.stop()
        raise
    return running


def _wait_for_answer(running: RunningSystem) -> None:
    until = time.monotonic() + _READY_TIMEOUT_S
    while True:
        window = running.measure(1, _TRIAL_S)
        if window.calls and not window.failures:
            return
        if time.monotonic() > until:
            reason = f"{running.system.name} gave no right answer within {_READY_TIMEOUT_S:g} s: {window.reason}"
            raise ServerFailed(f"{reason}\n{running.server.log_tail()}")

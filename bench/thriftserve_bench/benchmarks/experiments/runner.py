"""The experiments, from settings to a file that holds every call.

    forks, machine  -->  servers up  -->  a lone client at each  -->  cells side by side, then alone  -->  FILE.json

The file is written anew after each cell, so whatever ends the run, what was measured is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from thriftserve_bench import machine
from thriftserve_bench.benchmarks.experiments import calibrate
from thriftserve_bench.benchmarks.experiments.forks import fork_costs
from thriftserve_bench.benchmarks.experiments.hosts import Host, HostPlan, start_all, stop_all
from thriftserve_bench.benchmarks.experiments.lanes import Lanes
from thriftserve_bench.benchmarks.experiments.progress import Telling
from thriftserve_bench.benchmarks.experiments.schedule import ExperimentSettings, Schedule, plans
from thriftserve_bench.load.pattern_clients import MODEL
from thriftserve_bench.records.calls import OURS
from thriftserve_bench.records.experiments import REAL_MODEL, ExperimentRun
from thriftserve_bench.workloads.pattern_inputs import IMAGES, make_inputs
from thriftserve_client import Client

_PACKAGES = ("thriftserve", "thrift", "numpy", "tensorflow", "tensorflow-cpu", "simpy")
_MODEL_KIND = "image_classifier"
_MODEL_PROBES = 30


class ModelNotMade(Exception):
    """The real model could not be built or served."""


class Experiments:
    """One run of them.

    Args:
        settings: what to measure.
        output: the file that holds the results, from the first cell on.
        telling: shows how far it is.

    Attributes:
        run: what was measured so far.
    """

    def __init__(self, settings: ExperimentSettings, output: Path, telling: Telling) -> None:
        self._settings = settings
        self._output = output
        self._telling = telling
        self.run = ExperimentRun(
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=asdict(settings),
            machine=machine.describe(),
            versions=machine.versions(_PACKAGES),
            commit=machine.commit(),
        )

    def measure(self) -> None:
        """Measures everything.

        Raises:
            ModelNotMade: the workload is a real model, and there is none.
        """
        with ExitStack() as stack:
            model_path = None
            if self._settings.workload == REAL_MODEL:
                model_path = self._make_model(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            schedule = Schedule(self._settings, plans(self._settings, model_path))
            self._telling.plan(schedule)
            self._measure_machine()
            hosts = [Host(plan, plan.process()) for plan in schedule.plans]
            stack.callback(self._stop, hosts)
            self._start(hosts)
            self._calibrate(hosts)
            self._measure_cells(schedule, {host.plan: host for host in hosts})

    def save(self) -> None:
        """Writes the results; a reader finds either the old file or the new one, whole."""
        beside = self._output.with_name(f".{self._output.name}.{os.getpid()}")
        self.run.save(beside)
        beside.replace(self._output)

    def _make_model(self, directory: Path) -> Path:
        """Builds the real model, and learns how long one of its calls takes."""
        self._telling.say("building the model")
        command = [sys.executable, "-m", "thriftserve_bench.workloads.builders", _MODEL_KIND, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
        if done.returncode:
            raise ModelNotMade(f"the model could not be built\n{done.stderr.strip()}")
        path = directory / _MODEL_KIND
        service_ms = _service_ms(HostPlan(OURS, "TThreadPoolServer", REAL_MODEL, 0.0, 1, 1, path))
        self._settings = replace(self._settings, service_ms=service_ms)
        self.run.settings["service_ms"] = service_ms
        return path

    def _measure_machine(self) -> None:
        settings = self._settings
        if settings.fork_mb or settings.fork_tensorflow:
            self._telling.say("timing forks")
        for cost in fork_costs(settings.fork_mb, settings.fork_repeats, settings.fork_tensorflow):
            self.run.fork_costs.append(cost)
        self.run.calibration |= calibrate.of_machine()

    def _start(self, hosts: list[Host]) -> None:
        self._telling.say(f"starting {len(hosts)} servers")
        start_all(hosts, self._telling.started)

    def _calibrate(self, hosts: list[Host]) -> None:
        self._telling.say("a lone client at each")
        for host in hosts:
            self.run.calibration |= calibrate.of_server(host, self._settings.probes)

    def _measure_cells(self, schedule: Schedule, hosts: dict[HostPlan, Host]) -> None:
        with self._telling.cells(schedule) as tick, ExitStack() as stack:
            for groups, number in ((schedule.groups, self._settings.side_by_side), ([schedule.alone], 1)):
                if not any(groups):
                    continue
                lanes = Lanes(min(number, len(groups)), hosts, schedule.begins, tick)
                stack.callback(lanes.close)
                for cell, outcome in lanes.run(groups):
                    schedule.ended(cell)
                    self.run.outcomes.append(outcome)
                    self.save()
                    self._telling.ended(cell, outcome)
                    tick()

    def _stop(self, hosts: list[Host]) -> None:
        self._telling.say("stopping the servers")
        stop_all(hosts)


def _service_ms(plan: HostPlan) -> float:
    """Milliseconds of a lone client's call."""
    host = Host(plan, plan.process())
    host.start()
    try:
        if host.failed:
            raise ModelNotMade(f"the model could not be served: {host.failed}")
        inputs, times = make_inputs(IMAGES), []
        with Client(host.process.host, host.process.port) as client:
            for _ in range(_MODEL_PROBES):
                began = time.perf_counter()
                client.predict(MODEL, inputs)
                times.append(time.perf_counter() - began)
        return median(times) * 1000
    finally:
        host.stop()

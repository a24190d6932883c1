"""`peers`: ours beside other servers of the same models, and beside no RPC.

    settings  -->  environments, models, samples  -->  each job: all servers up, rounds of windows  -->  PeersRun

All servers of a job are up at once and are measured in turns; the others are paused meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from thriftserve_bench import process_tree
from thriftserve_bench.benchmark import Bar, Benchmark, given_numbers, integers, words
from thriftserve_bench.benchmarks.peers.ceilings import Arrangement, CeilingWithClients, LocalWork
from thriftserve_bench.benchmarks.peers.probes import ProbeSettings, probe, raise_descriptor_limit
from thriftserve_bench.benchmarks.peers.running import LoadGenerators, RunningSystem, start
from thriftserve_bench.benchmarks.peers.systems import OUR_TYPES, PEER_SYSTEMS, System, our_systems, select
from thriftserve_bench.load.overload import MAX_CONNECTIONS
from thriftserve_bench.processes import (
    ChildEnded,
    ServerFailed,
    clean_environment,
    run_module,
    thriftserve_command,
)
from thriftserve_bench.records.peers import OUR_FAMILY, Ceiling, CeilingWindow, PeersRun
from thriftserve_bench.servers.environments import PEERS, PeerMissing, default_cache, environment, installed_version
from thriftserve_bench.workloads.jobs import JOBS, Job

_PACKAGES = ("thriftserve", "thrift", "tensorflow", "tensorflow-cpu", "numpy", "pillow")
#: How long all servers are watched before the first window: some are busy while nobody calls them.
_IDLE_S = 1.5
_NONE = "none"


@dataclass(frozen=True)
class PeersSettings:
    """What `peers` measures and for how long."""

    jobs: tuple[str, ...] = tuple(JOBS)
    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    #: In place of each job's own; empty: those.
    clients: tuple[int, ...] = ()
    rounds: int = 3
    seconds: float = 2.0
    server_types: tuple[str, ...] = ("TThreadPoolServer",)
    our_flags: str = ""
    limits: bool = True
    probes: ProbeSettings = field(default_factory=ProbeSettings)

    def clients_of(self, job: Job) -> tuple[int, ...]:
        """Return the numbers of clients in the cells of a job."""
        return self.clients or job.clients


_DEFAULTS = PeersSettings()
_QUICK: dict[str, Any] = {"rounds": 1, "seconds": 0.8}


class PeersBenchmark(Benchmark[PeersSettings, PeersRun]):
    """The command `peers`."""

    name = "peers"
    help = "ours beside other servers of the same models, and beside no RPC"
    description = """\
Measures thriftserve beside other ways to serve the same models: Apache Thrift's own classes, grpcio, mosec
and LitServe, and beside no RPC at all. Three jobs: tiny (half_plus_two, three floats), tensor (MobileNetV2,
602 KB of float32) and jpeg (MobileNetV2, a JPEG of 640x480 in, five classes out). The requests differ and
every answer is checked. All servers are up at once and measured in turns; the others are stopped meanwhile.

The peers are installed from PyPI into environments of their own, in the cache directory, over the packages
of this one (TensorFlow is not installed again); one that can't be installed is left out, with its reason.
Everything takes some 10 GB of memory and, with three rounds of 2 s, about ten minutes.
"""
    file = "peers.json"

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        families = ",".join(peer.name for peer in PEERS)
        add("--jobs", type=words, metavar="LIST", help=f"some of {','.join(JOBS)} (all)")
        add(
            "--peers",
            type=words,
            metavar="LIST",
            help=f"some of {families} (all), or of their servers by name, or {_NONE}",
        )
        add("--clients", type=integers, metavar="LIST", help="clients side by side (each job's own)")
        add("--rounds", type=int, help=f"windows of each server in a cell ({_DEFAULTS.rounds})")
        add("--seconds", type=float, help=f"length of a window ({_DEFAULTS.seconds:g})")
        add("--server-type", action="append", metavar="T", help="of ours; may be given several times")
        add("--ours", default="", metavar="FLAGS", help='more flags of ours: --ours="--workers 1"')
        add("--no-limit", dest="limits", action="store_false", help="leave out the work without RPC")
        add("--fairness", action="store_true", help="also: 64 clients on two workers of ours")
        add("--idle", type=int, default=0, metavar="N", help="also: ours with and without N idle connections")
        add("--overload", type=float, default=0.0, metavar="S", help="also: S seconds of twice ours's capacity")
        add("--quick", action="store_true", help="one round of 0.8 s: to see that it works")
        add("--cache", type=Path, default=default_cache(), metavar="DIR", help="the peers' environments (%(default)s)")

    def settings(self, flags: argparse.Namespace) -> PeersSettings:
        return settings_of(flags)

    def begin(self, settings: PeersSettings) -> PeersRun:
        return PeersRun.begin(asdict(settings), _PACKAGES)

    def measure(self, settings: PeersSettings, run: PeersRun, flags: argparse.Namespace, bar: Bar) -> None:
        probes = settings.probes
        raise_descriptor_limit(max(probes.idle, MAX_CONNECTIONS if probes.overload_s else 0))
        others = select(settings.peers)
        pythons = _environments({system.family for system in others}, flags.cache, run, bar)
        ours = our_systems(settings.server_types, settings.our_flags)
        with tempfile.TemporaryDirectory() as directory, closing(LoadGenerators(pythons)) as loads:
            for name in settings.jobs:
                model, samples = _make(JOBS[name], Path(directory), bar)
                systems = [system for system in others if name in system.jobs and system.family in pythons] + ours
                _JobRun(settings, JOBS[name], model, samples, loads, run, bar).measure(systems)
                for system in ours:
                    figures = probe(system, probes.of_job(settings.jobs, name), name, model, samples, loads, bar)
                    run.probes.setdefault(system.name, {}).update(figures)

    def measured(self, run: PeersRun) -> bool:
        return bool(run.cells)

    def skipped(self, run: PeersRun) -> Mapping[str, str]:
        return run.skipped

    def exit_code(self, run: PeersRun) -> int:
        """Return 1 if a server of ours ended or gave a wrong answer."""
        ours = {name for name, facts in run.systems.items() if facts["family"] == OUR_FAMILY}
        return int(any(window.failures for cell in run.cells if cell.system in ours for window in cell.windows))


def settings_of(flags: argparse.Namespace) -> PeersSettings:
    """Return the settings that the flags ask for.

    Raises:
        ValueError: a value is of no use; the message names the flag.
    """
    given: dict[str, Any] = dict(_QUICK) if flags.quick else {}
    given |= given_numbers(flags, ("rounds", "seconds"))
    given |= {name: value for name in ("jobs", "clients") if (value := getattr(flags, name)) is not None}
    if flags.peers is not None:
        given["peers"] = () if flags.peers == (_NONE,) else flags.peers
    given["server_types"] = tuple(flags.server_type or _default_server_types())
    settings = replace(_DEFAULTS, our_flags=flags.ours, limits=flags.limits, **given)
    _check_names("--jobs", settings.jobs, list(JOBS))
    _check_names("--peers", settings.peers, [known.name for known in (*PEERS, *PEER_SYSTEMS)])
    return replace(settings, probes=ProbeSettings(flags.fairness, flags.idle, flags.overload, settings.seconds))


def _check_names(flag: str, names: tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{flag}: there is no {name!r}; use some of {', '.join(known)}")


def _default_server_types() -> tuple[str, ...]:
    """Return TBatchingServer if the server has it, else the two that serve many connections side by side."""
    command = [*thriftserve_command(), "--help"]
    text = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False).stdout
    return OUR_TYPES[:1] if f"{OUR_TYPES[0]}," in text or f"{OUR_TYPES[0]}}}" in text else OUR_TYPES[1:]


def _environments(families: Collection[str], cache: Path, run: PeersRun, bar: Bar) -> dict[str, Path]:
    pythons = {}
    for peer in PEERS:
        if peer.name not in families:
            continue
        bar.say(f"environment of {peer.name}")
        try:
            pythons[peer.name] = environment(peer, cache)
        except PeerMissing as error:
            run.skipped[peer.name] = str(error)
            continue
        if peer.packages:
            run.versions[peer.name] = installed_version(pythons[peer.name], peer.name)
    return pythons


def _make(job: Job, directory: Path, bar: Bar) -> tuple[Path, Path]:
    """Make a job's model and samples; return the base path and the file."""
    model, samples = directory / job.model, directory / f"{job.name}.npz"
    if not model.exists():
        bar.say(f"building {job.model}")
        run_module("thriftserve_bench.workloads.builders", job.model, str(directory))
    bar.say(f"samples of {job.name}, and their answers")
    run_module("thriftserve_bench.workloads.make_samples", job.name, str(model / "1"), str(samples))
    return model, samples


@dataclass
class _JobRun:
    """The measuring of one job."""

    settings: PeersSettings
    job: Job
    #: Base path of the model, file of the samples.
    model: Path
    samples: Path
    loads: LoadGenerators
    run: PeersRun
    bar: Bar

    def measure(self, systems: Sequence[System]) -> None:
        """Measure every cell of the job."""
        settings, job = self.settings, self.job
        clients_of_cells = settings.clients_of(job)
        with ExitStack() as stack:
            work, ceilings = self._survey(stack)
            with_clients = self._ceiling_with_clients(stack, work, ceilings, clients_of_cells[0])
            running = self._start_all(systems, stack)
            self._measure_idle(running)
            in_round = len(clients_of_cells) * len(running) + len(ceilings) + (with_clients is not None)
            self.bar.expect(settings.rounds * in_round)
            for number in range(settings.rounds):
                for clients in clients_of_cells:
                    # Each round begins with another system, so that none always follows the same neighbour.
                    turn = number % max(1, len(running))
                    for system in [*running[turn:], *running[:turn]]:
                        system.resume()
                        if self._measure_system(system, clients):
                            system.pause()
                        else:
                            running.remove(system)
                for arrangement, ceiling in ceilings.items():
                    assert work is not None
                    ceiling.windows.append(work.measure(arrangement, settings.seconds))
                    self._step(str(arrangement), ceiling.windows[-1])
                if with_clients is not None and not self._measure_with_clients(with_clients):
                    with_clients = None

    def _survey(self, stack: ExitStack) -> tuple[LocalWork | None, dict[Arrangement, Ceiling]]:
        """Choose the arrangements without RPC that each round measures; none for a job that is all RPC."""
        job = self.job
        if not (job.net and self.settings.limits):
            return None, {}
        work = stack.enter_context(closing(LocalWork(job, self.model, self.samples)))
        try:
            best = work.survey(lambda text: self.bar.say(f"{job.name} without RPC: {text}"), self.settings.seconds)
        except ChildEnded as error:
            self.run.skipped[f"{job.name} without RPC"] = str(error)
            return None, {}
        ceilings = {arrangement: Ceiling(job.name, str(arrangement), arrangement.frozen) for arrangement in best}
        self.run.ceilings += ceilings.values()
        return work, ceilings

    def _ceiling_with_clients(
        self, stack: ExitStack, work: LocalWork | None, ceilings: dict[Arrangement, Ceiling], clients: int
    ) -> CeilingWithClients | None:
        """Return the best frozen arrangement once more, for measuring beside the clients of the job's first cell."""
        if work is None:
            return None
        best = next(arrangement for arrangement in ceilings if arrangement.frozen)
        load = self.loads.for_frames()
        beside = CeilingWithClients(work, best, ceilings[best], self.job, self.samples, load, clients)
        stack.callback(beside.close)
        self.run.ceilings.append(beside.ceiling)
        return beside

    def _measure_with_clients(self, beside: CeilingWithClients) -> bool:
        """Measure a window; return False if it can't be measured any more."""
        ceiling = beside.ceiling
        try:
            beside.measure(self.settings.seconds)
        except ChildEnded as error:
            self.run.skipped[f"{self.job.name}: {ceiling.arrangement}"] = str(error)
            return False
        self._step(ceiling.arrangement, ceiling.windows[-1])
        return True

    def _start_all(self, systems: Sequence[System], stack: ExitStack) -> list[RunningSystem]:
        running = []
        for system in systems:
            self.bar.say(f"{self.job.name}: starting {system.name}")
            try:
                started = start(system, self.job.name, self.model, self.samples, self.loads)
            except (ServerFailed, ChildEnded) as error:
                self.run.skipped[f"{system.name}, {self.job.name}"] = str(error)
                continue
            stack.callback(started.stop)
            running.append(started)
            facts = {"family": system.family, "workers": system.workers, "flags": list(system.flags), "idle_cores": 0.0}
            self.run.systems.setdefault(system.name, facts)
        return running

    def _measure_idle(self, running: Sequence[RunningSystem]) -> None:
        """Measure what each system does while nobody calls it, and pause them all."""
        began = time.monotonic()
        before = [process_tree.cpu_s(system.server.pid) for system in running]
        time.sleep(_IDLE_S)
        for system, cpu_s in zip(running, before, strict=True):
            idle_cores = (process_tree.cpu_s(system.server.pid) - cpu_s) / (time.monotonic() - began)
            facts = self.run.systems[system.system.name]
            facts["idle_cores"] = round(max(facts["idle_cores"], idle_cores), 3)
            system.pause()

    def _measure_system(self, system: RunningSystem, clients: int) -> bool:
        """Measure a window; return False if the server has ended."""
        name = system.system.name
        try:
            window = system.measure(clients, self.settings.seconds)
        except ServerFailed as error:
            self.run.skipped[f"{name}, {self.job.name}, {clients} clients"] = str(error)
            self.bar.step(f"{self.job.name} x{clients} {name} has ended")
            return False
        self.run.cell(self.job.name, clients, name).windows.append(window)
        self.bar.step(f"{self.job.name} x{clients} {name} {window.calls_per_s:,.0f}/s")
        return True

    def _step(self, title: str, window: CeilingWindow) -> None:
        self.bar.step(f"{self.job.name} {title} {window.calls_per_s:,.0f}/s")

"""A run of `peers`: everything is made, everybody started, and measured in turns.

PeersSettings  -->  environments, models, questions  -->  each job: servers up, rounds of windows  -->  PeersRun
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from thriftserve_bench import machine, process_tree
from thriftserve_bench.benchmarks.peers.beside import Beside
from thriftserve_bench.benchmarks.peers.ceilings import Arrangement, Limits
from thriftserve_bench.benchmarks.peers.probes import ProbeSettings, probe
from thriftserve_bench.benchmarks.peers.running import Loads, Running, start
from thriftserve_bench.benchmarks.peers.systems import OURS, Contestant, chosen, ours
from thriftserve_bench.processes import ChildEnded, ServerFailed, clean_environment
from thriftserve_bench.records.peers import Limit, LimitWindow, PeersRun, PeerWindow
from thriftserve_bench.servers.environments import PEERS, PeerMissing, environment, installed_version
from thriftserve_bench.workloads.jobs import JOBS, Job

_PACKAGES = ("thriftserve", "thrift", "tensorflow", "tensorflow-cpu", "numpy", "pillow")
_PROGRAM_TIMEOUT_S = 300.0
_REST_S = 1.5


@dataclass(frozen=True)
class PeersSettings:
    """What `peers` measures and for how long."""

    jobs: tuple[str, ...] = tuple(JOBS)
    peers: tuple[str, ...] = tuple(one.name for one in PEERS)
    #: Instead of each job's own; empty: those.
    clients: tuple[int, ...] = ()
    rounds: int = 3
    seconds: float = 2.0
    server_types: tuple[str, ...] = ("TThreadPoolServer",)
    our_flags: str = ""
    limits: bool = True
    probes: ProbeSettings = field(default_factory=ProbeSettings)

    def clients_of(self, job: Job) -> tuple[int, ...]:
        """Clients side by side in the cells of a job."""
        return self.clients or job.clients


class PeersFailed(Exception):
    """Models or questions could not be made."""


class Progress(Protocol):
    """Who is told how far it is."""

    def say(self, text: str) -> None:
        """Tells what is being done."""

    def expect(self, steps: int) -> None:
        """Tells that so many steps more will come."""

    def step(self, text: str) -> None:
        """Tells that a step is done."""


def measure_peers(settings: PeersSettings, cache: Path, run: PeersRun, progress: Progress) -> None:
    """Measures everything into `run`, which fills meanwhile.

    Raises:
        PeersFailed: models or questions could not be made.
    """
    others = chosen(settings.peers)
    pythons = _environments({one.family for one in others}, cache, run, progress)
    own = ours(settings.server_types, settings.our_flags)
    with tempfile.TemporaryDirectory() as place, _loads(pythons) as loads:
        for name in settings.jobs:
            job = JOBS[name]
            model, pool = _make(job, Path(place), progress)
            everyone = [one for one in others if name in one.jobs and one.family in pythons] + own
            _measure_job(JobRun(settings, job, model, pool, everyone, pythons), loads, run, progress)
            probes = settings.probes.on(settings.jobs, name)
            for one in own:
                run.probes.setdefault(one.name, {}).update(probe(one, probes, name, model, pool, loads, progress))


def new_run(settings: PeersSettings) -> PeersRun:
    """A run without windows."""
    return PeersRun(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(settings),
        machine=machine.machine(),
        versions=machine.versions(_PACKAGES),
        commit=machine.commit(),
    )


@contextmanager
def _loads(pythons: dict[str, Path]) -> Iterator[Loads]:
    loads = Loads(pythons)
    try:
        yield loads
    finally:
        loads.close()


def _environments(families: Collection[str], cache: Path, run: PeersRun, progress: Progress) -> dict[str, Path]:
    found = {}
    for peer in PEERS:
        if peer.name not in families:
            continue
        progress.say(f"environment of {peer.name}")
        try:
            found[peer.name] = environment(peer, cache)
        except PeerMissing as error:
            run.skipped[peer.name] = str(error)
            continue
        if peer.packages:
            run.versions[peer.name] = installed_version(found[peer.name], peer.name)
    return found


def _make(job: Job, place: Path, progress: Progress) -> tuple[Path, Path]:
    """The job's model (base path) and questions (file)."""
    model, pool = place / job.model, place / f"{job.name}.npz"
    if not model.exists():
        progress.say(f"building {job.model}")
        _program("thriftserve_bench.workloads.builders", job.model, str(place))
    progress.say(f"questions of {job.name}, and their answers")
    _program("thriftserve_bench.workloads.make_samples", job.name, str(model / "1"), str(pool))
    return model, pool


def _program(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=clean_environment() | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROGRAM_TIMEOUT_S,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-10:])
        raise PeersFailed(f"{module} ended with {done.returncode}:\n{tail}")


@dataclass(frozen=True)
class JobRun:
    """One job of a run."""

    settings: PeersSettings
    job: Job
    #: Base path of its model, file of its questions.
    model: Path
    pool: Path
    everyone: list[Contestant]
    pythons: dict[str, Path]

    def python_of(self, contestant: Contestant) -> Path:
        """Of its environment."""
        return self.pythons.get(contestant.family, Path(sys.executable))


def _measure_job(work: JobRun, loads: Loads, run: PeersRun, progress: Progress) -> None:
    settings, job = work.settings, work.job
    with ExitStack() as stack:
        limits, kept = _survey(work, stack, run, progress)
        beside = _beside(work, stack, limits, kept, loads, run)
        running = _start_all(work, stack, loads, run, progress)
        _rest(running, run)
        cells = len(settings.clients_of(job))
        progress.expect(settings.rounds * (cells * len(running) + len(kept) + (beside is not None)))
        for number in range(settings.rounds):
            for clients in settings.clients_of(job):
                # Another one begins each round: nobody always follows the same neighbour.
                turn = number % max(1, len(running))
                for one in [*running[turn:], *running[:turn]]:
                    one.resume()
                    if _measure(one, clients, work, run, progress):
                        one.pause()
                    else:
                        running.remove(one)
            for arrangement, limit in kept.items():
                assert limits is not None
                limit.windows.append(limits.measure(arrangement, settings.seconds))
                progress.step(f"{job.name} {arrangement} {_rate(limit.windows[-1])}")
            if beside is not None and not _measure_beside(beside, work, run, progress):
                beside = None


def _rest(running: Sequence[Running], run: PeersRun) -> None:
    """Looks at what everybody does while nobody asks; from here on all rest but the one that is measured."""
    began = time.monotonic()
    before = [process_tree.cpu_s(one.server.pid) for one in running]
    time.sleep(_REST_S)
    for one, cpu_s in zip(running, before, strict=True):
        idle_cores = (process_tree.cpu_s(one.server.pid) - cpu_s) / (time.monotonic() - began)
        told = run.contestants[one.contestant.name]
        told["idle_cores"] = round(max(told["idle_cores"], idle_cores), 3)
        one.pause()


def _survey(
    work: JobRun, stack: ExitStack, run: PeersRun, progress: Progress
) -> tuple[Limits | None, dict[Arrangement, Limit]]:
    """Which arrangements without RPC are measured in each round; none for a job that is all RPC."""
    if not (work.job.net and work.settings.limits):
        return None, {}
    limits = stack.enter_context(Limits(work.job, work.model, work.pool))

    def tick(one: Arrangement, window: LimitWindow) -> None:
        progress.say(f"{work.job.name} without RPC: {one} {_rate(window)}")

    try:
        best = limits.survey(tick, work.settings.seconds)
    except ChildEnded as error:
        run.skipped[f"{work.job.name} without RPC"] = str(error)
        return None, {}
    kept = {one: Limit(work.job.name, str(one), one.frozen) for one in best}
    run.limits += kept.values()
    return limits, kept


def _beside(
    work: JobRun,
    stack: ExitStack,
    limits: Limits | None,
    kept: dict[Arrangement, Limit],
    loads: Loads,
    run: PeersRun,
) -> Beside | None:
    """The best frozen arrangement once more, to be measured beside the clients of the job's first cell."""
    if limits is None:
        return None
    best = next(one for one in kept if one.frozen)
    clients = work.settings.clients_of(work.job)[0]
    made = Beside(limits, best, kept[best], work.job, work.pool, loads.for_thrift(), clients)
    stack.callback(made.close)
    run.limits.append(made.limit)
    return made


def _measure_beside(beside: Beside, work: JobRun, run: PeersRun, progress: Progress) -> bool:
    """Measures a window; false where it can't be measured any more."""
    limit = beside.limit
    try:
        beside.measure(work.settings.seconds)
    except ChildEnded as error:
        run.skipped[f"{work.job.name}: {limit.arrangement}"] = str(error)
        return False
    progress.step(f"{work.job.name} {limit.arrangement} {_rate(limit.windows[-1])}")
    return True


def _start_all(work: JobRun, stack: ExitStack, loads: Loads, run: PeersRun, progress: Progress) -> list[Running]:
    running = []
    for one in work.everyone:
        progress.say(f"{work.job.name}: starting {one.name}")
        try:
            made = start(one, work.job.name, work.model, work.pool, work.python_of(one), loads.of(one))
        except (ServerFailed, ChildEnded) as error:
            run.skipped[f"{one.name}, {work.job.name}"] = str(error)
            continue
        stack.callback(made.stop)
        running.append(made)
        told = {"family": one.family, "workers": one.workers, "flags": list(one.flags), "idle_cores": 0.0}
        run.contestants.setdefault(one.name, told)
    return running


def _measure(one: Running, clients: int, work: JobRun, run: PeersRun, progress: Progress) -> bool:
    """Measures a window; false where the server is gone."""
    name = one.contestant.name
    try:
        window = one.measure(clients, work.settings.seconds)
    except ServerFailed as error:
        run.skipped[f"{name}, {work.job.name}, {clients} clients"] = str(error)
        progress.step(f"{work.job.name} x{clients} {name} is gone")
        return False
    run.cell(work.job.name, clients, name).windows.append(window)
    progress.step(f"{work.job.name} x{clients} {name} {_rate(window)}")
    return True


def _rate(window: LimitWindow | PeerWindow) -> str:
    return f"{window.calls / window.elapsed_s:,.0f}/s" if window.elapsed_s else "0/s"


def ours_failed(run: PeersRun) -> bool:
    """Whether a server of ours did not start, ended, or gave a wrong answer."""
    own = {name for name, one in run.contestants.items() if one["family"] == OURS}
    return any(window.failures for cell in run.cells if cell.contestant in own for window in cell.windows)

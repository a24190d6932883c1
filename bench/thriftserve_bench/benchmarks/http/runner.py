"""A run of `http`: models are made, both stacks started, asked the same, and measured in turns.

HttpSettings  -->  environment, models, stacks  -->  rounds of ab; rounds of bodies  -->  HttpRun
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from thriftserve_bench import machine
from thriftserve_bench.benchmarks.http import bodies
from thriftserve_bench.benchmarks.http.stacks import (
    OURS,
    PEER,
    PUBLISHED,
    STACKS,
    Stack,
    StackSettings,
    start_ours,
    start_published,
    titles,
)
from thriftserve_bench.load.ab import NOT_HERE, AbFailed, ab_program, run_ab
from thriftserve_bench.processes import ServerFailed, clean_environment
from thriftserve_bench.records.http import AbWindow, HttpRun
from thriftserve_bench.servers.environments import PeerMissing, environment, installed_version
from thriftserve_bench.servers.nginx import nginx_program
from thriftserve_bench.workloads import text_request
from thriftserve_bench.workloads.jobs import WrongAnswer

_PACKAGES = (
    "thriftserve",
    "thrift",
    "uvicorn",
    "httptools",
    "uvloop",
    "orjson",
    "tensorflow",
    "tensorflow-cpu",
    "numpy",
)
_BUILD_TIMEOUT_S = 300.0


def usual_gunicorn_workers() -> int:
    """What gunicorn's documentation recommends."""
    return 2 * (os.cpu_count() or 1) + 1


def usual_gateways() -> int:
    """One for every two cores: nginx, the server and, here, ab need the others."""
    return max(1, (os.cpu_count() or 1) // 2)


@dataclass(frozen=True)
class HttpSettings:
    """What `http` measures and for how long."""

    #: Of STACKS; none: bodies alone.
    stacks: tuple[str, ...] = STACKS
    concurrency: tuple[int, ...] = (1, 10, 100)
    #: Whether connections are kept: each is a cell of its own.
    kept: tuple[bool, ...] = (False, True)
    rounds: int = 3
    #: Of one run of ab.
    requests: int = 5000
    gunicorn_workers: int = 5
    gateways: int = 1
    #: Before both stacks.
    nginx: bool = True
    #: Of our server: that for callers of one thing at a time.
    spin_us: int = 1000
    #: Requests of one window of a kind of body; 0: no bodies.
    body_requests: int = 300


class HttpFailed(Exception):
    """Models could not be made, or the stacks don't give the same answers."""


class Progress(Protocol):
    """Who is told how far it is."""

    def say(self, text: str) -> None:
        """Tells what is being done."""

    def expect(self, steps: int) -> None:
        """Tells that so many steps more will come."""

    def step(self, text: str) -> None:
        """Tells that a step is done."""


def new_run(settings: HttpSettings) -> HttpRun:
    """A run without windows."""
    return HttpRun(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(settings),
        machine=machine.describe(),
        versions=machine.versions(_PACKAGES),
        commit=machine.commit(),
    )


def measure_http(settings: HttpSettings, cache: Path, run: HttpRun, progress: Progress) -> None:
    """Measures everything into `run`, which fills meanwhile.

    Raises:
        HttpFailed: models could not be made, or the stacks don't give the same answers.
        ServerFailed: ours did not come up.
    """
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        if settings.stacks:
            _stacks(settings, cache, place, run, progress)
        if settings.body_requests:
            _bodies(settings, place, run, progress)


def _stacks(settings: HttpSettings, cache: Path, place: Path, run: HttpRun, progress: Progress) -> None:
    program = ab_program()
    if program is None:
        run.skipped["requests/s of the stacks"] = NOT_HERE
        return
    with ExitStack() as stop:
        running = _start_all(settings, cache, place, stop, run, progress)
        if not running:
            return
        cells = [(many, kept) for kept in settings.kept for many in settings.concurrency]
        progress.expect(settings.rounds * len(cells) * len(running))
        for number in range(settings.rounds):
            for at, (many, kept) in enumerate(cells):
                # Another one begins each time: nobody always follows the same neighbour.
                turn = (number + at) % len(running)
                for one in [*running[turn:], *running[:turn]]:
                    _window(one, many, kept, program, settings.requests, place, run, progress)


def _start_all(
    settings: HttpSettings, cache: Path, place: Path, stop: ExitStack, run: HttpRun, progress: Progress
) -> list[Stack]:
    """The stacks that can be had, their answers the same."""
    progress.say(f"building {text_request.KIND}")
    model = _build(text_request.KIND, place)
    nginx = nginx_program() if settings.nginx else None
    if settings.nginx and nginx is None:
        run.skipped["nginx"] = "nginx is not here (Debian: nginx-light): both stacks are asked without it"
    layout = StackSettings(settings.gunicorn_workers, settings.gateways if nginx else 1, nginx, settings.spin_us)
    running = []
    for name in settings.stacks:
        progress.say(f"starting {name}: {titles(layout)[name]}")
        stack = stop.enter_context(Stack(name, titles(layout)[name]))
        try:
            if name == OURS:
                start_ours(stack, layout, model)
            else:
                start_published(stack, layout, model, _python(cache, run, progress))
        except (PeerMissing, ServerFailed) as error:
            if name == OURS:
                raise
            run.skipped[name] = str(error)
            continue
        run.stacks[name] = stack.title
        running.append(stack)
    _check_same(running)
    return running


def _python(cache: Path, run: HttpRun, progress: Progress) -> Path:
    progress.say(f"environment of {PUBLISHED}: {', '.join(PEER.packages)}")
    python = environment(PEER, cache)
    for name in ("flask", "gunicorn", "grpcio"):
        run.versions[name] = installed_version(python, name)
    return python


def _check_same(running: list[Stack]) -> None:
    answers = [text_request.post(one.port) for one in running]
    for one, answer in zip(running[1:], answers[1:], strict=True):
        try:
            text_request.check_same(answers[0], answer)
        except WrongAnswer as error:
            raise HttpFailed(f"{running[0].name} and {one.name} answer differently: {error}") from error


def _window(
    one: Stack, many: int, kept: bool, program: str, requests: int, place: Path, run: HttpRun, progress: Progress
) -> None:
    load_1m = os.getloadavg()[0]
    before = one.cpu_s()
    try:
        found = run_ab(program, one.port, max(requests, many), many, kept, place)
    except AbFailed as error:
        run.skipped[f"a window of {one.name} at concurrency {many}"] = str(error)
        progress.step(f"{one.name} x{many}: {error}")
        return
    window = AbWindow(
        requests=found.requests,
        failed=found.failed,
        elapsed_s=found.elapsed_s,
        percentiles_ms=found.percentiles_ms,
        server_cpu_s=one.cpu_s() - before,
        client_cpu_s=found.cpu_s,
        pss_bytes=one.pss_bytes(),
        alone_bytes=one.alone_bytes(),
        load_1m=load_1m,
    )
    run.cell(one.name, many, kept).windows.append(window)
    progress.step(f"{one.name} x{many}{' kept' if kept else ''}: {found.requests / found.elapsed_s:,.0f}/s")


def _bodies(settings: HttpSettings, place: Path, run: HttpRun, progress: Progress) -> None:
    progress.say(f"building {bodies.KIND}")
    model = _build(bodies.KIND, place)
    every = bodies.forms()
    progress.say("starting a server and a gateway for images")
    with bodies.door(model) as through:
        try:
            bodies.check_answers(through, every)
            progress.expect(settings.rounds * (len(every) + 1))
            for _ in range(settings.rounds):
                bodies.measure_round(through, every, settings.body_requests, run, progress.step)
        except bodies.BodyFailed as error:
            raise HttpFailed(str(error)) from error


def _build(kind: str, place: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "thriftserve_bench.workloads.builders", kind, str(place)],
        env=clean_environment(TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES="-1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_TIMEOUT_S,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-10:])
        raise HttpFailed(f"the model {kind} could not be made:\n{tail}")
    return place / kind

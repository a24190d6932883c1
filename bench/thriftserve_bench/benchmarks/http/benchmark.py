"""`http`: our gateway beside the published stack of the same shape, by ab; and what an image costs the gateway.

settings  -->  environment, models, both stacks up, the same answers  -->  rounds of ab  -->  HttpRun
a gateway and a server with MobileNetV2                -->  rounds of images
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thriftserve_bench.benchmark import Bar, Benchmark, flag_of, integers, words
from thriftserve_bench.benchmarks.http import bodies
from thriftserve_bench.benchmarks.http.stacks import PEER, Stack, StackSettings, start_ours, start_published, titles
from thriftserve_bench.load.ab import INSTALL_AB, AbFailed, ab_program, run_ab
from thriftserve_bench.processes import ChildEnded, ProgramFailed, ServerFailed, run_module
from thriftserve_bench.records.http import OURS, PUBLISHED, STACKS, AbWindow, HttpRun
from thriftserve_bench.servers.environments import PeerMissing, default_cache, environment, installed_version
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
_NONE = "none"
_KEEP_ALIVE = {"new": (False,), "kept": (True,), "both": (False, True)}


@dataclass(frozen=True)
class HttpSettings:
    """What `http` measures and for how long."""

    #: Some of STACKS; none: bodies alone.
    stacks: tuple[str, ...] = STACKS
    concurrency: tuple[int, ...] = (1, 10, 100)
    #: Whether connections stay open between requests: each is a cell of its own.
    keep_alive: tuple[bool, ...] = (False, True)
    rounds: int = 3
    #: Requests of one run of ab.
    requests: int = 5000
    gunicorn_workers: int = 5
    gateways: int = 1
    #: Whether nginx is before both stacks.
    nginx: bool = True
    #: Of our server: that for callers of one thing at a time.
    spin_us: int = 1000
    #: Requests of one window of a form of body; 0: no bodies.
    body_requests: int = 300


_DEFAULTS = HttpSettings()
_QUICK: dict[str, Any] = {"rounds": 1, "requests": 500, "body_requests": 50}


class HttpBenchmark(Benchmark[HttpSettings, HttpRun]):
    """The command `http`."""

    name = "http"
    help = "our gateway beside nginx, gunicorn, Flask and gRPC, by ab; what an image costs it"
    description = """\
Measures two ways to serve a text model over HTTP, side by side on this machine:

  published   nginx --> gunicorn, Flask --gRPC--> a gRPC server that runs the SavedModel with TensorFlow
  ours        nginx --> thriftserve gateway --Thrift--> thriftserve serve

Both are up at once and get the same requests by ab, in turns, over new connections and over kept ones; before that,
their answers are compared. TensorFlow Serving's own binary is in no Python package, so the published stack's model
server is one in Python: its users' usual one, and slower than that binary.

Then, alone, the CPU that an image costs the gateway's process: as application/octet-stream, .npy, image/jpeg and JSON
lists, beside the standard library's json.

ab and nginx are Debian's packages apache2-utils and nginx-light. Flask, gunicorn and grpcio are installed
from PyPI into an environment of their own, in the cache directory. What is missing is left out, with its reason.
"""
    epilog = """\
to see that it works:          thriftserve-bench http --quick
the comparison alone:          thriftserve-bench http --body-requests 0
images alone:                  thriftserve-bench http --stacks none
more gateways behind nginx:    thriftserve-bench http --gateways 2
the table of an earlier run:   thriftserve-bench report http.json

A row says: so many requests at a time; whether ab kept its connections; then each figure of both. CPU is that of all
the stack's processes, a request; if a stack uses all cores, it decides the rate.
"""
    file = "http.json"
    failures = (ServerFailed, ChildEnded, ProgramFailed, WrongAnswer)

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--stacks", type=words, metavar="LIST", help=f"some of {','.join(STACKS)} (all), or {_NONE}")
        add("--concurrency", type=words, metavar="LIST", help="requests at a time (1,10,100)")
        add("--connections", choices=sorted(_KEEP_ALIVE), default="both", help="ab's: new ones, or kept ones (both)")
        add("--rounds", type=int, help=f"windows of each stack in a cell ({_DEFAULTS.rounds})")
        add("--requests", type=int, help=f"of one window ({_DEFAULTS.requests})")
        add("--gunicorn-workers", type=int, metavar="N", help="Flask's processes (2 x cores + 1, as gunicorn advises)")
        add("--gateways", type=int, metavar="N", help="processes of ours behind nginx (cores / 2, at least 1)")
        add("--spin-us", type=int, metavar="N", help=f"our server's --spin-us ({_DEFAULTS.spin_us})")
        add("--no-nginx", dest="nginx", action="store_false", help="call gunicorn, and one gateway, directly")
        add(
            "--body-requests", type=int, metavar="N", help=f"of a window of images; 0: none ({_DEFAULTS.body_requests})"
        )
        add("--quick", action="store_true", help="one short round: to see that it works")
        add("--cache", type=Path, default=default_cache(), metavar="DIR", help="Flask's environment (%(default)s)")

    def settings(self, flags: argparse.Namespace) -> HttpSettings:
        return settings_of(flags)

    def begin(self, settings: HttpSettings) -> HttpRun:
        return HttpRun.begin(asdict(settings), _PACKAGES)

    def measure(self, settings: HttpSettings, run: HttpRun, flags: argparse.Namespace, bar: Bar) -> None:
        with tempfile.TemporaryDirectory() as directory:
            if settings.stacks:
                _Stacks(settings, flags.cache, Path(directory), run, bar).measure()
            if settings.body_requests:
                _measure_bodies(settings, Path(directory), run, bar)

    def measured(self, run: HttpRun) -> bool:
        return bool(run.cells or run.bodies)

    def skipped(self, run: HttpRun) -> Mapping[str, str]:
        return run.skipped

    def exit_code(self, run: HttpRun) -> int:
        """Return 1 if a request of ours failed."""
        ours = (cell for cell in run.cells if cell.stack == OURS)
        return int(any(window.failed for cell in ours for window in cell.windows))


def settings_of(flags: argparse.Namespace) -> HttpSettings:
    """Return the settings that the flags ask for.

    Raises:
        ValueError: a value is of no use; the message names the flag.
    """
    cores = os.cpu_count() or 1
    # gunicorn's documentation recommends so many workers; nginx, the server and ab need the other cores.
    given: dict[str, Any] = {"gunicorn_workers": 2 * cores + 1, "gateways": max(1, cores // 2)}
    given |= _QUICK if flags.quick else {}
    for name in ("stacks", "rounds", "requests", "gunicorn_workers", "gateways", "body_requests", "spin_us"):
        if (value := getattr(flags, name)) is not None:
            given[name] = value
    if flags.concurrency is not None:
        given["concurrency"] = _concurrency(",".join(flags.concurrency))
    if given.get("stacks") == (_NONE,):
        given["stacks"] = ()
    for name in given.get("stacks", ()):
        if name not in STACKS:
            raise ValueError(f"--stacks: there is no {name!r}; use some of {', '.join(STACKS)}, or {_NONE}")
    settings = replace(_DEFAULTS, nginx=flags.nginx, keep_alive=_KEEP_ALIVE[flags.connections], **given)
    for name in ("rounds", "requests", "gunicorn_workers", "gateways"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{flag_of(name)} must be above 0")
    if settings.gateways > 1 and not settings.nginx:
        if flags.gateways is not None:
            raise ValueError("--gateways: several need nginx before them: leave out --no-nginx")
        settings = replace(settings, gateways=1)
    return settings


def _concurrency(text: str) -> tuple[int, ...]:
    try:
        return integers(text)
    except (argparse.ArgumentTypeError, ValueError):
        raise ValueError(f"--concurrency {text}: expected numbers above 0") from None


def _build(kind: str, directory: Path, bar: Bar) -> Path:
    bar.say(f"building {kind}")
    run_module("thriftserve_bench.workloads.builders", kind, str(directory))
    return directory / kind


@dataclass
class _Stacks:
    """The measuring of the stacks."""

    settings: HttpSettings
    cache: Path
    directory: Path
    run: HttpRun
    bar: Bar

    def measure(self) -> None:
        """Measure every cell of the stacks that could be started."""
        settings, program = self.settings, ab_program()
        if program is None:
            self.run.skipped["requests/s of the stacks"] = INSTALL_AB
            return
        with ExitStack() as resources:
            stacks = self._start_all(resources)
            if not stacks:
                return
            cells = [
                (concurrency, keep_alive)
                for keep_alive in self.settings.keep_alive
                for concurrency in self.settings.concurrency
            ]
            self.bar.expect(settings.rounds * len(cells) * len(stacks))
            for number in range(settings.rounds):
                for place, (concurrency, keep_alive) in enumerate(cells):
                    # Each cell begins with another stack, so that none always follows the same neighbour.
                    turn = (number + place) % len(stacks)
                    for stack in [*stacks[turn:], *stacks[:turn]]:
                        self._measure_window(stack, concurrency, keep_alive, program)

    def _start_all(self, resources: ExitStack) -> list[Stack]:
        """Start the stacks; one that can't be installed is left out."""
        settings, run = self.settings, self.run
        model = _build(text_request.KIND, self.directory, self.bar)
        nginx = nginx_program() if settings.nginx else None
        if settings.nginx and nginx is None:
            run.skipped["nginx"] = "nginx is not installed (Debian: nginx-light): both stacks are called without it"
        layout = StackSettings(settings.gunicorn_workers, settings.gateways if nginx else 1, nginx, settings.spin_us)
        stacks = []
        for name in settings.stacks:
            title = titles(layout)[name]
            self.bar.say(f"starting {name}: {title}")
            stack = resources.enter_context(Stack(name, title))
            try:
                if name == OURS:
                    start_ours(stack, layout, model)
                else:
                    start_published(stack, layout, model, self._python())
            except (PeerMissing, ServerFailed) as error:
                if name == OURS:
                    raise
                run.skipped[name] = str(error)
                continue
            run.stacks[name] = title
            stacks.append(stack)
        _check_same(stacks)
        return stacks

    def _python(self) -> Path:
        self.bar.say(f"environment of {PUBLISHED}: {', '.join(PEER.packages)}")
        python = environment(PEER, self.cache)
        for name in ("flask", "gunicorn", "grpcio"):
            self.run.versions[name] = installed_version(python, name)
        return python

    def _measure_window(self, stack: Stack, concurrency: int, keep_alive: bool, program: str) -> None:
        load_1m, before = os.getloadavg()[0], stack.cpu_s()
        requests = max(self.settings.requests, concurrency)
        try:
            report = run_ab(program, stack.port, requests, concurrency, keep_alive, self.directory)
        except AbFailed as error:
            self.run.skipped[f"a window of {stack.name} at concurrency {concurrency}"] = str(error)
            self.bar.step(f"{stack.name} x{concurrency}: {error}")
            return
        window = AbWindow(
            requests=report.requests,
            failed=report.failed,
            elapsed_s=report.elapsed_s,
            percentiles_ms=report.percentiles_ms,
            server_cpu_s=stack.cpu_s() - before,
            client_cpu_s=report.cpu_s,
            pss_bytes=stack.pss_bytes(),
            alone_bytes=stack.standalone_bytes(),
            load_1m=load_1m,
        )
        self.run.cell(stack.name, concurrency, keep_alive).windows.append(window)
        rate = report.requests / report.elapsed_s
        self.bar.step(f"{stack.name} x{concurrency}{' kept' if keep_alive else ''}: {rate:,.0f}/s")


def _check_same(stacks: list[Stack]) -> None:
    answers = [text_request.post(stack.port) for stack in stacks]
    for stack, answer in zip(stacks[1:], answers[1:], strict=True):
        try:
            text_request.check_same(answers[0], answer)
        except WrongAnswer as error:
            raise WrongAnswer(f"{stacks[0].name} and {stack.name} answer differently: {error}") from error


def _measure_bodies(settings: HttpSettings, directory: Path, run: HttpRun, bar: Bar) -> None:
    model = _build(bodies.KIND, directory, bar)
    forms = bodies.make_forms()
    bar.say("starting a server and a gateway for images")
    with bodies.gateway_client(model) as client:
        bodies.check_answers(client, forms)
        bar.expect(settings.rounds * (len(forms) + 1))
        for _ in range(settings.rounds):
            bodies.measure_round(client, forms, settings.body_requests, run, bar.step)

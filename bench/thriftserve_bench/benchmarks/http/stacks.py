"""The two stacks: every process of them, from start to stop.

    published:  nginx --> gunicorn, Flask --gRPC--> TensorFlow
    ours:       nginx --> thriftserve gateway(s) --Thrift--> thriftserve serve

Each is started once, answers before it is measured, and is measured as all its processes together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from thriftserve_bench import process_tree
from thriftserve_bench.processes import TENSORFLOW_ON_CPU, ServerFailed, ServerProcess, clean_environment
from thriftserve_bench.records.http import OURS, PUBLISHED
from thriftserve_bench.servers import flask_app
from thriftserve_bench.servers.environments import Peer
from thriftserve_bench.servers.nginx import Nginx
from thriftserve_bench.workloads.jobs import WrongAnswer
from thriftserve_bench.workloads.text_request import MODEL, post_until_answered

#: Packages of the published stack.
PEER = Peer("flask-grpc", ("flask>=3,<4", "gunicorn>=23,<28", "grpcio>=1.70,<2"))
_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class StackSettings:
    """How the two stacks are laid out.

    Attributes:
        gunicorn_workers: Flask's processes.
        gateways: processes of ours.
        nginx: its program, before both; None: before neither.
        spin_us: of our server: how long it stays awake for what comes at once.
    """

    gunicorn_workers: int
    gateways: int
    nginx: str | None
    spin_us: int

    @property
    def server_flags(self) -> list[str]:
        """The flags of our server besides model and ports."""
        return ["--spin-us", str(self.spin_us)]


class Stack:
    """A stack while it runs; `with` stops what it started, also if it did not start completely.

    Attributes:
        name: one of STACKS.
        title: what it consists of.
        port: where requests go.
    """

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self.port = 0
        self._roots: list[int] = []
        self._logs: list[Callable[[], str]] = []
        self._stop = ExitStack()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()

    def run(self, arguments: Sequence[str], command: Sequence[str] | None = None, **variables: str) -> ServerProcess:
        """Start one of its servers; without a command: `thriftserve serve`.

        Raises:
            ServerFailed: it did not start.
        """
        env = clean_environment(**TENSORFLOW_ON_CPU, **variables)
        server = ServerProcess(arguments, env=env, command=command, ready_timeout_s=_START_TIMEOUT_S).start()
        self._stop.callback(_end, server)
        self._roots.append(server.pid)
        self._logs.append(server.log_tail)
        return server

    def open_at(self, ports: Sequence[int], nginx: str | None) -> None:
        """Put nginx before its applications, or use the first of them directly; wait for an answer.

        Raises:
            ServerFailed: there was no answer.
        """
        self.port = ports[0]
        if nginx is not None:
            proxy = Nginx(nginx, ports, self.directory())
            self._stop.callback(proxy.stop)
            self._roots.append(proxy.pid)
            self._logs.append(proxy.log_tail)
            self.port = proxy.port
        try:
            post_until_answered(self.port, _ANSWER_TIMEOUT_S)
        except WrongAnswer as error:
            logs = "\n".join(filter(None, (log() for log in self._logs)))
            raise ServerFailed(f"{self.name}: {error}\n{logs}") from error

    def directory(self) -> Path:
        """Return a directory that is deleted with it."""
        return Path(self._stop.enter_context(TemporaryDirectory()))

    def cpu_s(self) -> float:
        """Return user and system CPU of all its processes so far."""
        return sum(process_tree.cpu_s(pid) for pid in self._roots)

    def pss_bytes(self) -> int:
        """Return proportional memory of all its processes."""
        return sum(process_tree.memory(pid).pss for pid in self._roots)

    def standalone_bytes(self) -> int:
        """Return their memory as if nothing else mapped the same files."""
        return process_tree.standalone_bytes(*self._roots)


def _end(server: ServerProcess) -> None:
    process_tree.stop(server.pid, _STOP_TIMEOUT_S)
    server.stop()
    server.close()


def start_ours(stack: Stack, settings: StackSettings, model: Path) -> None:
    """Start ours: one server with its gateway, and more gateways before it.

    Args:
        stack: what it becomes.
        settings: the layout.
        model: base path.

    Raises:
        ServerFailed: it did not start.
    """
    server = stack.run(["--model", f"{MODEL}={model}", "--port", "0", "--rest-port", "0", *settings.server_flags])
    ports = [int(server.ready["rest_port"])]
    gateway = [sys.executable, "-m", "thriftserve", "gateway"]
    more = ["--backend", f"127.0.0.1:{server.port}", "--port", "0"]
    ports += [stack.run(more, gateway).port for _ in range(settings.gateways - 1)]
    stack.open_at(ports, settings.nginx)


def start_published(stack: Stack, settings: StackSettings, model: Path, python: Path) -> None:
    """Start the published one.

    Args:
        stack: what it becomes.
        settings: the layout.
        model: base path.
        python: of its environment.

    Raises:
        ServerFailed: it did not start.
    """
    grpc = stack.run(["text", str(model / "1")], [os.fspath(python), "-m", "thriftserve_bench.servers.grpc_host"])
    variables = {"PUBLISHED_STACK_GRPC": f"127.0.0.1:{grpc.port}", "PUBLISHED_STACK_READY": str(stack.directory())}
    arguments = ["--bind", "127.0.0.1:0", "--workers", str(settings.gunicorn_workers), "--worker-class", "sync"]
    arguments += ["--config", f"python:{flask_app.__name__}", f"{flask_app.__name__}:make_app()"]
    gunicorn = stack.run(arguments, [os.fspath(python), "-m", "gunicorn"], **variables)
    stack.open_at([gunicorn.port], settings.nginx)


def titles(settings: StackSettings) -> dict[str, str]:
    """Return what each stack consists of, in words."""
    front = "nginx, " if settings.nginx else ""
    gateways = "1 gateway" if settings.gateways == 1 else f"{settings.gateways} gateways"
    return {
        OURS: f"{front}{gateways}, thriftserve serve ({' '.join(['TBatchingServer', *settings.server_flags])})",
        PUBLISHED: f"{front}gunicorn with {settings.gunicorn_workers} sync workers, Flask, "
        "a gRPC server in Python with TensorFlow's loaded signature",
    }

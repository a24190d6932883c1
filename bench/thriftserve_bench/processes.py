"""Processes that the benchmarks start: servers, children that answer JSON lines, programs that run to their end.

    arguments  --ServerProcess.start-->  ready line  -->  host, port, pid  --stop-->  exit code
    order      --JsonLinesChild.ask-->  one line on its stdin, one on its stdout  -->  answer
    module     --run_module-->  its stdout

Example::

    with ServerProcess(["--model", "digits=/models/digits", "--port", "0"]) as server:
        with Client(server.host, server.port) as client:
            client.ping()
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from thriftserve_bench.process_tree import signal_group

#: Lines of a log that a failure shows.
_TAIL_LINES = 15
#: A server that has not ended this long after SIGTERM is killed. Its own drain time-out is shorter.
STOP_TIMEOUT_S = 40.0
#: Variable with the pid of the process that started a child.
_PARENT = "BENCH_PARENT_PID"
#: How often a child looks whether its parent is still there.
_PARENT_CHECK_S = 1.0
#: Programs that import TensorFlow need some seconds; building a hundred models takes a minute.
_PROGRAM_TIMEOUT_S = 600.0
#: What a process that imports TensorFlow needs to be quiet and to stay on the CPU.
TENSORFLOW_ON_CPU = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}

_READY = re.compile(rb"^\S+ ready((?: [a-z_]+=\S+)*)$")
_CHUNK_BYTES = 65536


class ServerFailed(Exception):
    """A server ended, or was not ready in time; the message ends with the last lines of its log.

    Attributes:
        exit_code: how it ended; negative: the signal that ended it; None: it did not end.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ProgramFailed(Exception):
    """A program did not do its work; the message ends with the last lines of its stderr."""


class ChildEnded(Exception):
    """A child process ended instead of answering."""


def thriftserve_command() -> list[str]:
    """Return the command `thriftserve serve` of the environment that this runs in."""
    return [sys.executable, "-m", "thriftserve", "serve"]


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without the server's settings (THRIFTSERVE_…), and with `variables`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THRIFTSERVE_")} | variables


class ServerProcess:
    """A server that runs from `start` to `stop`, or for a `with` block.

    It leads a session of its own: Ctrl-C in the terminal reaches its starter, which then stops it. Any program that
    prints a line `… ready name=value name=value …` on stdout will do; see `command`.

    Args:
        arguments: what follows the command; `--port 0` has the kernel pick a port.
        env: its whole environment; None: `clean_environment()`.
        command: what to run; None: `thriftserve serve`.
        log: file for its stderr, written anew; None: a temporary file that is deleted with it.
        show_log: leave its stderr on this process's own instead; failures then show no log.
        ready_timeout_s: how long to wait for the ready line.

    Attributes:
        host: address to call it at, from its ready line; empty if it listens on a Unix socket.
        port: TCP port, from its ready line; 0 on a Unix socket.
        pid: process to signal and to measure, from its ready line.
        ready: every name=value of its ready line.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        log: Path | None = None,
        show_log: bool = False,
        ready_timeout_s: float = 120.0,
    ) -> None:
        self._command = [*(thriftserve_command() if command is None else command), *arguments]
        self._env = clean_environment() if env is None else dict(env)
        self._log_path = log
        self._show_log = show_log
        self._ready_timeout_s = ready_timeout_s
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, str] = {}
        self.host, self.port, self.pid = "", 0, 0

    def __enter__(self) -> ServerProcess:
        return self.start() if self._process is None else self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.close()

    def start(self) -> ServerProcess:
        """Start it and return once it is ready; a `with` block that follows stops it.

        Raises:
            ServerFailed: it ended first, or was not ready in time; no process is left then.
        """
        assert self._process is None, "a ServerProcess is started once"
        try:
            self._start()
        except BaseException:
            self.kill()
            self.close()
            raise
        return self

    def _start(self) -> None:
        if not self._show_log:
            self._log = self._log_path.open("w+b") if self._log_path else tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready = _wait_for_ready(self._process.stdout, time.monotonic() + self._ready_timeout_s)
        if ready is None:
            raise self._failure()
        self.ready = ready
        self.host, self.port = ready.get("host", ""), int(ready.get("port", 0))
        self.pid = int(ready.get("pid", self._process.pid))

    def _failure(self) -> ServerFailed:
        assert self._process is not None
        try:
            # Its stdout may end a moment before the process does.
            code: int | None = self._process.wait(1.0)
            reason = f"the server ended with exit code {code} before it was ready"
        except subprocess.TimeoutExpired:
            code, reason = None, f"the server was not ready within {self._ready_timeout_s:g} s"
        return ServerFailed(f"{reason}: {' '.join(self._command)}\n{self.log_tail()}".rstrip(), code)

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it ends by itself.

        Returns:
            Its exit code; negative: the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        assert self._process is not None, "start it first"
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """Send SIGTERM and wait until it has drained and ended; kill it if it does not end, or on an exception.

        Returns:
            Its exit code, or None if it was never started.
        """
        if self._process is None:
            return None
        try:
            if self.running:
                self._process.send_signal(signal.SIGTERM)
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, with its worker processes."""
        if self._process is not None and self.running:
            # It leads its own session, so this group is its own; workers of ours end with it in any case.
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log_text(self) -> str:
        """Return what it wrote to stderr so far, or an empty text if that goes elsewhere."""
        if self._log is None or self._log.closed:
            return ""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines of its log, each indented by two."""
        return "\n".join(f"  {line}" for line in deque(self.log_text().splitlines(), lines))

    def close(self) -> None:
        """Close its stdout and its log; a temporary log is deleted."""
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        if self._log is not None:
            self._log.close()


def _wait_for_ready(stdout: IO[bytes], until: float) -> dict[str, str] | None:
    """Read a server's stdout up to its ready line.

    Args:
        stdout: the pipe; lines before the ready line are skipped.
        until: when to give up, monotonic seconds.

    Returns:
        Every name=value of the line, or None if the pipe ended or time was over first.
    """
    poll = select.poll()
    poll.register(stdout, select.POLLIN)
    pending = b""
    while (left_s := until - time.monotonic()) > 0:
        if not poll.poll(left_s * 1000):
            continue
        chunk = os.read(stdout.fileno(), _CHUNK_BYTES)
        if not chunk:
            return None
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if match := _READY.match(line.rstrip()):
                return dict(pair.split("=", 1) for pair in match[1].decode().split())
    return None


class JsonLinesChild:
    """A Python module in a process of its own that answers orders, one line of JSON each; from here until `close`.

    It leads a session of its own: Ctrl-C in the terminal reaches its starter, which then closes it.

    Args:
        module: what to run; it calls `answer_json_lines`.
        arguments: its command line.
        python: the interpreter: that of another environment, if the module needs packages from there.
    """

    def __init__(self, module: str, arguments: Sequence[str] = (), python: str = sys.executable) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            env=os.environ | {_PARENT: str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process's pid."""
        return self._process.pid

    def ask(self, order: Any) -> Any:
        """Send an order and wait for its answer.

        Raises:
            ChildEnded: the process has ended.
        """
        self.send(order)
        return self.receive()

    def send(self, order: Any) -> None:
        """Send an order.

        Raises:
            ChildEnded: the process has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> Any:
        """Wait for the next line of an answer.

        Raises:
            ChildEnded: the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> ChildEnded:
        return ChildEnded(f"{self._module} ended with {self._process.wait()}")

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()


def answer_json_lines(answer: Callable[[Any], Any]) -> None:
    """Answer every order on stdin until there are no more: the child's side of `JsonLinesChild`.

    The process ends with its parent, also in the middle of an order: after `kill -9` of a benchmark nobody else would
    stop its load.
    """
    parent = int(os.environ.pop(_PARENT, os.getppid()))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while line := sys.stdin.readline():
        print_json_line(answer(json.loads(line)))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def print_json_line(value: Any) -> None:
    """Print one value as a line of JSON."""
    print(json.dumps(value, separators=(",", ":")), flush=True)


def run_module(module: str, *arguments: str, timeout_s: float = _PROGRAM_TIMEOUT_S) -> str:
    """Run a module in a process of its own, on the CPU, and return its stdout.

    Raises:
        ProgramFailed: it ended with another exit code than 0, or took longer than `timeout_s`.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        completed = subprocess.run(
            command,
            env=clean_environment(**TENSORFLOW_ON_CPU),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(f"{module}: not finished within {timeout_s:g} s") from error
    if completed.returncode:
        tail = "\n".join(completed.stderr.splitlines()[-_TAIL_LINES:])
        raise ProgramFailed(f"{' '.join(command[2:])} ended with exit code {completed.returncode}:\n{tail}")
    return completed.stdout

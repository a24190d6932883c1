"""A server as a process of its own: started, waited for, stopped.

    arguments  --ServerProcess.start-->  ready line  -->  host, port, pid  --stop-->  exit code

::

    with ServerProcess(["--model", "digits=/models/digits", "--port", "0"]) as server:
        with Client(server.host, server.port) as client:
            client.ping()

Any program that prints a line `… ready name=value name=value …` on stdout will do; see `command`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from thriftserve_bench.process_tree import signal_group
from thriftserve_bench.ready_line import wait_for_ready

#: Lines of the log that a failure shows.
_TAIL_LINES = 15
#: A server that was told to stop and is still there after this long is killed. Its own drain time-out is shorter.
STOP_TIMEOUT_S = 40.0


class ServerFailed(Exception):
    """The server ended, or was not ready in time; the message ends in the last lines of its log.

    Attributes:
        exit_code: how it ended; negative: the signal that ended it.
    """

    def __init__(self, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def thriftserve_command() -> list[str]:
    """`thriftserve serve` of the environment that this runs in."""
    return [sys.executable, "-m", "thriftserve", "serve"]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of the server (THRIFTSERVE_…), and `variables`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THRIFTSERVE_")} | variables


class ServerProcess:
    """A server that runs from `start` to `stop`, or as long as a `with` block.

    It leads a session of its own: Ctrl-C in the terminal reaches whoever started it, who then stops it.

    Args:
        arguments: follow the command; `--port 0` has the kernel pick a port.
        env: its whole environment; None: `clean_environment()`.
        command: what to run; None: `thriftserve serve`.
        log: its stderr: a path that is written anew, or None: a temporary file that is gone with it.
        show_log: leaves its stderr on this process's own instead; failures then show no log.
        ready_timeout_s: for the ready line.

    Attributes:
        host: address to call it at, from its ready line; empty where it listens on a Unix socket.
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self.close()

    def start(self) -> ServerProcess:
        """Starts it and returns once it is ready; a `with` block that follows stops it.

        Raises:
            ServerFailed: it ended before that, or was not ready in time; it is gone then.
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
        found = wait_for_ready(self._process.stdout, time.monotonic() + self._ready_timeout_s)
        if found is None:
            raise self._failure()
        self.ready = found
        self.host, self.port = found.get("host", ""), int(found.get("port", 0))
        self.pid = int(found.get("pid", self._process.pid))

    def _failure(self) -> ServerFailed:
        assert self._process is not None
        try:
            # Its stdout may end a moment before the process does.
            code: int | None = self._process.wait(1.0)
            how = f"the server ended with exit code {code} before it was ready"
        except subprocess.TimeoutExpired:
            code, how = None, f"the server was not ready within {self._ready_timeout_s:g} s"
        return ServerFailed(f"{how}: {' '.join(self._command)}\n{self.log_tail()}".rstrip(), code)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits until it ends by itself.

        Returns:
            Its exit code; negative: the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        assert self._process is not None, "start it first"
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """Has it finish what is in flight and end; kills it where it does not, or where the wait is interrupted.

        Returns:
            Its exit code; None where it was never started.
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
        """Ends it at once, its worker processes included."""
        if self._process is not None and self.running:
            # It leads its own session, so this group is its own; workers of ours end with it in any case.
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log_text(self) -> str:
        """What it wrote to stderr so far; empty where that is not kept."""
        if self._log is None or self._log.closed:
            return ""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of its log, each indented by two."""
        return "\n".join(f"  {line}" for line in deque(self.log_text().splitlines(), lines))

    def close(self) -> None:
        """Closes its stdout and its log; a temporary log is gone."""
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        if self._log is not None:
            self._log.close()

"""A real `thriftserve serve` in a process of its own, for tests of the whole.

::

    with Served("--model", "…") as server:  -->  waits for the ready line  -->  server.client()  -->  SIGTERM
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from thriftserve_client import Client

READY = re.compile(
    r"thriftserve ready host=(\S+) port=(\d+) server_type=(\w+) workers=(\d+) pid=(\d+)( control_port=(\d+))?\n"
)


def command(*arguments: str) -> list[str]:
    """`thriftserve` of this environment."""
    return [str(Path(sys.executable).with_name("thriftserve")), *arguments]


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of ours, and with output buffered as usual, and `variables`."""
    ours = ("THRIFTSERVE_", "PYTHONUNBUFFERED")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | variables


class Served:
    """A server on a port that the kernel picked; ready when the `with` block begins."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self.process = subprocess.Popen(
            command("serve", "--port", "0", "--devices", "cpu", *arguments),
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Served:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = READY.fullmatch(line)
        if found is None:
            self._end()
            log = self.log()
            self._log.close()
            raise AssertionError(f"not ready: {line!r}, exit code {self.process.returncode}\n{log}")
        self.server_type, self.port, self.pid = found[3], int(found[2]), int(found[5])
        self.control_port = int(found[7] or 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        self._log.close()

    def client(self) -> Client:
        """A client of it."""
        return Client("127.0.0.1", self.port, timeout_s=30)

    def log(self) -> str:
        """What it wrote to stderr so far."""
        self._log.seek(0)
        return self._log.read().decode()

    def stop(self) -> tuple[int, str]:
        """Has it drain.

        Returns:
            Its exit code, and what it wrote to stdout after the ready line.
        """
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, rest

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

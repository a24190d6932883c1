"""The parent's side of an agent: starts the program, sends it commands, reads its events.

AgentProcess("thriftserve.remote.fetch_agent")  --send-->  stdin     stdout  -->  events(), and the log
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

#: A program whose stdin is closed ends at once, unless it hangs in a system call.
_END_S = 5.0


class AgentProcess:
    """A running agent. One thread reads its events, one at a time sends commands; any may kill or close it.

    Args:
        module: the program, as `python -m` takes it.
    """

    def __init__(self, module: str) -> None:
        # A session of its own: a terminal's Ctrl-C is meant for the server. Modules come from where ours come from.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended; negative: by that signal. None while it runs."""
        return self._process.poll()

    def send(self, command: Mapping[str, Any]) -> None:
        """Send a command; nothing happens if the process has ended, for the end of its events tells that."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events until the process ends. Its log records are logged here, and not yielded."""
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                event = json.loads(line)
                if "log" in event:
                    logging.getLogger(event["logger"]).log(event["log"], "%s", event["message"])
                else:
                    yield event

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self) -> int:
        """Have the process end, wait for it, and return its exit code."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended before us
            self._process.stdin.close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

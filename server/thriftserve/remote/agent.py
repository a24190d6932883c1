"""An agent: a program that does slow work for the controller, in a process of its own. Both of its sides.

    stdin   a command a line, in JSON
    stdout  an event a line, in JSON: what the program reports, and {"log": 20, "logger": …, "message": …}

The program ends with its stdin, so it never outlives its parent, and may be killed at any moment. `AgentProcess`
is the parent's side; `fetch_agent` and `mirror_agent` are the programs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TextIO

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


#: Slow work leaves the processor to those who answer requests.
_NICE = 5


class Parent:
    """The process that started this one. Threads may share it.

    Args:
        events: where events are written to.
    """

    def __init__(self, events: TextIO) -> None:
        self._events = events
        self._writing = threading.Lock()
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def next_command(self) -> dict[str, Any]:
        """Wait for the next command and return it."""
        return self._commands.get()

    def report(self, **event: Any) -> None:
        """Write an event; dropped if the parent has ended, for then this process is about to end as well."""
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()

    def read_commands(self, commands: TextIO) -> NoReturn:
        """Read commands until there are no more, and end the process."""
        try:
            for line in commands:
                self._commands.put(json.loads(line))
        finally:
            os._exit(0)


class LogForwarder(logging.Handler):
    """Passes log records to the parent, which knows how the server logs."""

    def __init__(self, parent: Parent) -> None:
        super().__init__(logging.INFO)
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record."""
        self._parent.report(log=record.levelno, logger=record.name, message=record.getMessage())


def run_agent(work: Callable[[Parent], None]) -> NoReturn:
    """Run `work` as this process, which ends when it returns or raises, or when stdin ends."""
    os.nice(_NICE)
    parent = Parent(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # what a library prints must not look like an event
    logging.basicConfig(level=logging.WARNING, handlers=[LogForwarder(parent)])
    logging.getLogger("thriftserve").setLevel(logging.INFO)
    threading.Thread(target=parent.read_commands, args=(sys.stdin,), name="commands", daemon=True).start()
    exit_code = 1
    try:
        work(parent)
        exit_code = 0
    except Exception:
        traceback.print_exc()
    finally:
        # Not by the interpreter's own end: it would wait for downloads, and for the thread that reads stdin.
        os._exit(exit_code)

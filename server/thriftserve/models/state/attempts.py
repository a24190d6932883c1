"""What a worker tells of its loading, before it begins with a version and when one has failed.

worker: Attempt --attempts/PID.json--> keeper: failures, those of workers that a load has killed included
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from thriftserve.errors import Code, StartError
from thriftserve.models.state.directory import StateDir


class Failed(NamedTuple):
    """A version that a worker could not load."""

    name: str
    version: int
    code: Code
    message: str


class Attempt:
    """One worker's loading of one plan."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._failed: list[Failed] = []

    @contextmanager
    def loading(self, name: str, version: int) -> Iterator[None]:
        """Around the loading of a version; what it raises of `StartError` is written down and goes on."""
        self._write((name, version))
        try:
            yield
        except StartError as error:
            self._failed.append(Failed(name, version, Code.INTERNAL, error.message))
            self._write(None)
            raise

    def done(self) -> None:
        """Everything else is loaded: the worker will serve."""
        self._write(None, done=True)

    def _write(self, loading: tuple[str, int] | None, *, done: bool = False) -> None:
        content = {"loading": loading, "failed": self._failed, "done": done}
        self._state.write(f"attempts/{os.getpid()}", content, durable=False)


def failures(state: StateDir) -> Iterator[tuple[bool, Failed]]:
    """What has failed and was not told yet, and whether the worker serves without it.

    Of a worker that has ended while it loaded: the version that it was at.
    """
    for pid, content in state.attempts():
        alive = _alive(pid)
        if alive and not content["done"]:
            continue  # it loads, or is about to end
        yield from ((content["done"], _failed(one)) for one in content["failed"])
        if content["loading"] is not None:
            name, version = content["loading"]
            yield False, Failed(name, version, Code.INTERNAL, "the worker process ended while it loaded this version")
        state.forget_attempt(pid)


def _failed(content: list[Any]) -> Failed:
    name, version, code, message = content
    return Failed(name, version, Code(code), message)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

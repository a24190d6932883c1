"""What a worker tells of its loading: before it begins with a version, when one has failed, and when all is done.

worker: Attempt --attempts/PID.json--> keeper: outcomes, those of workers that a load has killed included
"""

from __future__ import annotations

import os
import time
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


class Outcome(NamedTuple):
    """What a worker has told of its loading, or left."""

    #: Whether it serves, without what has failed.
    done: bool
    failed: tuple[Failed, ...]
    #: Seconds that loading and warming up took, by model and version; of what has not failed.
    took_s: dict[tuple[str, int], float]


class Attempt:
    """One worker's loading of one plan."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._failed: list[Failed] = []
        self._took_s: dict[tuple[str, int], float] = {}

    @contextmanager
    def loading(self, name: str, version: int) -> Iterator[None]:
        """Around the loading of a version, or its warm-up; what it raises of `StartError` is noted and goes on."""
        self._write((name, version))
        began = time.monotonic()
        try:
            yield
        except StartError as error:
            self._failed.append(Failed(name, version, Code.INTERNAL, error.message))
            self._write(None)
            raise
        self._took_s[name, version] = self._took_s.get((name, version), 0.0) + time.monotonic() - began

    def done(self) -> None:
        """Everything else is loaded: the worker will serve."""
        self._write(None, done=True)

    def _write(self, loading: tuple[str, int] | None, *, done: bool = False) -> None:
        took_s = [[*key, value] for key, value in self._took_s.items()] if done else []
        content = {"loading": loading, "failed": self._failed, "done": done, "took_s": took_s}
        self._state.write(f"attempts/{os.getpid()}", content, durable=False)


def outcomes(state: StateDir) -> Iterator[Outcome]:
    """What workers have told and nobody has heard yet.

    Of a worker that has ended while it loaded, the version that it was at has failed.
    """
    for pid, content in state.attempts():
        alive = _alive(pid)
        if alive and not content["done"]:
            continue  # it loads, or is about to end
        failed = tuple(map(_failed, content["failed"]))
        if content["loading"] is not None:
            name, version = content["loading"]
            why = "the worker process ended while it loaded this version"
            failed = (*failed, Failed(name, version, Code.INTERNAL, why))
        yield Outcome(content["done"], failed, {(name, version): took for name, version, took in content["took_s"]})
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

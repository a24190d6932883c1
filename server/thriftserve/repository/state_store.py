"""The directory in which a server keeps what its processes tell each other of models.

    StateDir/plan.json  state.json  labels.json  wishes.json  keeper.json  attempts/PID.json  unmerged/PID-N.json

A file is written beside its place and renamed: whoever reads one finds it whole, and so does a restart after kill -9.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from thriftserve.errors import Code, ConfigError, StartError
from thriftserve.files import write_whole
from thriftserve.repository.version_states import VersionStatus
from thriftserve_idl.ttypes import ModelState

# What a worker tells of its loading: before it begins with a version, when one has failed, and when all is done.


class LoadFailure(NamedTuple):
    """A version that a worker could not load."""

    name: str
    version: int
    code: Code
    message: str


class LoadResult(NamedTuple):
    """What a worker has told of its loading, or left."""

    #: Whether it serves, without what has failed.
    done: bool
    failed: tuple[LoadFailure, ...]
    #: Seconds that loading and warming up took, by model and version; of what has not failed.
    took_s: dict[tuple[str, int], float]


class LoadReport:
    """One worker's loading of one plan."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._failed: list[LoadFailure] = []
        self._took_s: dict[tuple[str, int], float] = {}

    @contextmanager
    def loading(self, name: str, version: int) -> Iterator[None]:
        """Around the loading of a version, or its warm-up; what it raises of `StartError` is noted and goes on."""
        self._write((name, version))
        began = time.monotonic()
        try:
            yield
        except StartError as error:
            self._failed.append(LoadFailure(name, version, Code.INTERNAL, error.message))
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


def load_results(state: StateDir) -> Iterator[LoadResult]:
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
            failed = (*failed, LoadFailure(name, version, Code.INTERNAL, why))
        yield LoadResult(content["done"], failed, {(name, version): took for name, version, took in content["took_s"]})
        state.forget_attempt(pid)


def _failed(content: list[Any]) -> LoadFailure:
    name, version, code, message = content
    return LoadFailure(name, version, Code(code), message)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# The state of every version and the labels, as the keeper tells them and every process reads them.

FILE = "state"


def written(
    statuses: Mapping[str, Iterable[VersionStatus]],
    labels: Mapping[str, Mapping[str, int]],
    counts: Mapping[tuple[str, ModelState], int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The states by model, the versions by model and label, and the number of steps, as what JSON can hold."""
    return {
        "models": {
            name: [
                [one.version, int(one.state), one.error_code, one.error_message, one.load_time_s, one.note]
                for one in versions
            ]
            for name, versions in statuses.items()
        },
        "labels": {name: dict(each) for name, each in labels.items()},
        "counts": [[name, int(state), number] for (name, state), number in counts.items()],
    }


class StateReader:
    """The file, as a process other than the keeper sees it. Threads may share one.

    Args:
        state: where the file is.
        number: tells how often the file has changed; asking costs nothing.
    """

    def __init__(self, state: StateDir, number: Callable[[], int]) -> None:
        self.number = number
        self._state = state
        self._read: tuple[int, Mapping[str, Any]] = (-1, {"models": {}, "labels": {}, "counts": []})

    def _now(self) -> Mapping[str, Any]:
        number = self.number()
        if number != self._read[0]:  # taken before the file: one that is changed meanwhile is read once more
            self._read = (number, self._state.read(FILE) or self._read[1])
        return self._read[1]

    def labels(self, name: str) -> Mapping[str, int]:
        """The versions of a model by their labels."""
        found: Mapping[str, int] = self._now()["labels"].get(name, {})
        return found

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """How often a version of a model came into a state."""
        return {(name, ModelState(state)): number for name, state, number in self._now()["counts"]}

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """The state of every version, newest first, by model."""
        models = self._now()["models"]
        return {name: _statuses(models[name], self.labels(name)) for name in sorted(models)}


def _statuses(versions: list[list[Any]], labels: Mapping[str, int]) -> list[VersionStatus]:
    newest_first = sorted(versions, key=lambda one: -int(one[0]))
    return [
        VersionStatus(
            version,
            ModelState(state),
            None if code is None else Code(code),
            message,
            tuple(sorted(each for each in labels if labels[each] == version)),
            note,
            load_time_s,
        )
        for version, state, code, message, load_time_s, note in newest_first
    ]


class StateDir:
    """Such a directory.

    Args:
        path: of the directory; what is missing of it is made by `prepare`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels_file = path / "labels.json"
        self._attempts = path / "attempts"
        #: What workers tell of models whose requests must not share runs.
        self.unmerged = path / "unmerged"

    def prepare(self) -> None:
        """Makes it, without what a server before this one left of its processes; labels and operators' wishes stay.

        Raises:
            ConfigError: it can't be written.
        """
        try:
            for directory in (self._attempts, self.unmerged):
                directory.mkdir(parents=True, exist_ok=True)
            old = (self.path / f"{name}.json" for name in ("plan", "keeper"))
            for stale in (*self._attempts.iterdir(), *self.unmerged.iterdir(), *old):
                stale.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"state_dir is {str(self.path)!r}: it can't be used: {error.strerror}") from error

    def write(self, name: str, content: Any, *, durable: bool = True, mode: int | None = None) -> None:
        """Puts `content` into NAME.json, whole or not at all; `durable`: also where the machine fails.

        Args:
            mode: the file's permissions; None: those of any new file.
        """
        write_whole(self.path / f"{name}.json", json.dumps(content, indent=1), durable=durable, mode=mode)

    def read(self, name: str) -> Any:
        """What is in NAME.json; None where there is no such file, or none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        return None

    def attempts(self) -> Iterator[tuple[int, Any]]:
        """(pid, content) of what each worker wrote of its loading."""
        for path in sorted(self._attempts.glob("*.json")):
            if path.stem.isdigit() and (content := self.read(f"attempts/{path.stem}")) is not None:
                yield int(path.stem), content

    def forget_attempt(self, pid: int) -> None:
        """A worker's loading has been dealt with."""
        (self._attempts / f"{pid}.json").unlink(missing_ok=True)

"""The state directory: files by which the processes of one server tell each other about models.

    controller  --plan.json-->       workers          which versions to load
    worker      --attempts/PID-->    controller       which versions failed to load, and how long loading took
    controller  --state.json-->      every process    the state of each version, and where the labels point
    worker      --unmerged/PID-N-->  other workers    models whose requests must not share runs

The controller keeps its own notes beside them (keeper.json, configured.json, wishes.json) and labels.json. Each file is
replaced by a rename: a reader finds the old content or the new one, also after kill -9.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from thriftserve.errors import Code, ConfigError, StartError
from thriftserve.files import write_atomically
from thriftserve.repository.version_states import VersionStatus
from thriftserve_idl.ttypes import ModelState

#: Directories with files of one process each: what does not outlive the server.
ATTEMPTS, UNMERGED = "attempts", "unmerged"
_STATE = "state"
#: A directory that changed so recently may change again without a new time stamp: file systems' clocks are coarse.
_CLOCK_STEP_NS = 100_000_000

log = logging.getLogger(__name__)


class StateDir:
    """A state directory: JSON files by name. Any process and thread may use one.

    Attributes:
        path: the directory; `prepare` creates it.
        labels_file: where the labels that operators set are kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels_file = path / "labels.json"

    def prepare(self) -> None:
        """Create the directory, and remove what the processes of an earlier server left in it.

        Labels and operators' overrides stay.

        Raises:
            ConfigError: the directory can't be written.
        """
        try:
            for folder in (ATTEMPTS, UNMERGED):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
                for stale in (self.path / folder).iterdir():
                    stale.unlink(missing_ok=True)
            for name in ("plan", "keeper"):
                self.remove(name)
        except OSError as error:
            raise ConfigError(f"state_dir is {str(self.path)!r}: it can't be used: {error.strerror}") from error

    def write(self, name: str, content: Any, *, durable: bool = True, mode: int | None = None) -> None:
        """Replace NAME.json in one step.

        Args:
            name: of the file, such as "plan" or "attempts/4711".
            content: anything that JSON can hold.
            durable: also survive a failure of the machine, at the cost of a write to the disk.
            mode: the file's permissions; None: those of any new file.

        Raises:
            OSError: the file can't be written; the old one is still there.
        """
        write_atomically(self._file(name), json.dumps(content, indent=1), durable=durable, mode=mode)

    def read(self, name: str) -> Any:
        """Return the content of NAME.json; None if there is no such file, or it can't be read."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._file(name).read_text(encoding="utf-8"))
        return None

    def remove(self, name: str) -> None:
        """Remove NAME.json if it is there."""
        self._file(name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Return the names of the JSON files in a folder, sorted, as `read` takes them."""
        return sorted(f"{folder}/{path.stem}" for path in (self.path / folder).glob("*.json"))

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"


class LoadFailure(NamedTuple):
    """A version that a worker could not load, or that could not be fetched."""

    name: str
    version: int
    code: Code
    message: str


class LoadReport:
    """What one worker reports of loading one plan, as it goes. Used by the worker, from one thread.

    It is on disk before a version is loaded, so that a load that kills the worker is known for what it was. If it can't
    be written, that is logged, the old report is removed, and loading goes on: an old one would blame a version that
    was loaded long ago when the worker ends.
    """

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._failures: list[LoadFailure] = []
        self._load_times_s: dict[tuple[str, int], float] = {}

    @contextmanager
    def loading(self, name: str, version: int) -> Iterator[None]:
        """Enclose loading a version, or warming it up; a `StartError` is reported and raised again."""
        self._write((name, version))
        began = time.monotonic()
        try:
            yield
        except StartError as error:
            self._failures.append(LoadFailure(name, version, Code.INTERNAL, error.message))
            self._write(None)
            raise
        key = name, version
        self._load_times_s[key] = self._load_times_s.get(key, 0.0) + time.monotonic() - began

    def done(self) -> None:
        """Report that everything else is loaded: the worker is about to serve."""
        self._write(None, done=True)

    def _write(self, loading: tuple[str, int] | None, *, done: bool = False) -> None:
        load_times = [[*key, seconds] for key, seconds in self._load_times_s.items()] if done else []
        content = {"loading": loading, "failed": self._failures, "done": done, "took_s": load_times}
        file = f"{ATTEMPTS}/{os.getpid()}"
        try:
            self._state.write(file, content, durable=False)
        except OSError as error:
            log.error("state_dir %s: can't write how loading goes, loading goes on: %s", self._state.path, error)
            with contextlib.suppress(OSError):
                self._state.remove(file)


class LoadResult(NamedTuple):
    """How one worker's loading ended."""

    #: Whether the worker serves, without the versions that failed.
    done: bool
    failures: tuple[LoadFailure, ...]
    #: Seconds for loading and warming up, by model and version, of the versions that did not fail.
    load_times_s: dict[tuple[str, int], float]


def collect_load_results(state: StateDir) -> Iterator[LoadResult]:
    """Yield the result of each worker that has finished loading, or ended while it loaded, once.

    If a worker ended while it loaded a version, that version has failed.
    """
    for name in state.names(ATTEMPTS):
        pid, content = name.removeprefix(f"{ATTEMPTS}/"), state.read(name)
        if not pid.isdigit() or content is None:
            continue
        if not content["done"] and _is_alive(int(pid)):
            continue  # it still loads, or is about to end
        yield _load_result(content)
        state.remove(name)


def _load_result(content: Mapping[str, Any]) -> LoadResult:
    failures = [LoadFailure(name, version, Code(code), message) for name, version, code, message in content["failed"]]
    if content["loading"] is not None:
        name, version = content["loading"]
        message = "the worker process ended while it loaded this version"
        failures.append(LoadFailure(name, version, Code.INTERNAL, message))
    load_times_s = {(name, version): seconds for name, version, seconds in content["took_s"]}
    return LoadResult(content["done"], tuple(failures), load_times_s)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class StateWriter:
    """Writes state.json for the other processes. Used by the controller, from one thread at a time."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._content: Any = None

    def write(
        self,
        statuses: Mapping[str, Iterable[VersionStatus]],
        labels: Mapping[str, Mapping[str, int]],
        counts: Mapping[tuple[str, ModelState], int] = MappingProxyType({}),
    ) -> bool:
        """Write the states by model, the labels by model, and the transitions by model and state.

        Returns:
            Whether anything has changed since the last call; otherwise nothing is written.
        """
        content = {
            "models": {name: [_status_to_json(status) for status in versions] for name, versions in statuses.items()},
            "labels": {name: dict(versions) for name, versions in labels.items()},
            "counts": [[name, int(state), count] for (name, state), count in counts.items()],
        }
        if content == self._content:
            return False
        self._state.write(_STATE, content)
        self._content = content
        return True


class StateReader:
    """Reads state.json, as `StateWriter` left it. Threads may share one.

    Args:
        state: the directory.
        number: returns a number that grows with each change of the file: it is read again only then.
    """

    def __init__(self, state: StateDir, number: Callable[[], int]) -> None:
        self.number = number
        self._state = state
        self._cached: tuple[int, Mapping[str, Any]] = (-1, {"models": {}, "labels": {}, "counts": []})

    def labels(self, name: str) -> Mapping[str, int]:
        """Return the versions of a model by label."""
        labels: Mapping[str, int] = self._content()["labels"].get(name, {})
        return labels

    def counts(self) -> dict[tuple[str, ModelState], int]:
        """Return how often a version of a model has come into a state, by model and state."""
        return {(name, ModelState(state)): count for name, state, count in self._content()["counts"]}

    def statuses(self) -> dict[str, list[VersionStatus]]:
        """Return the state of every version, newest first, by model."""
        content = self._content()
        return {
            name: [
                _status_from_json(status, content["labels"].get(name, {}))
                for status in sorted(versions, key=lambda status: -int(status[0]))
            ]
            for name, versions in sorted(content["models"].items())
        }

    def _content(self) -> Mapping[str, Any]:
        number = self.number()
        if number != self._cached[0]:  # asked before the file is read: a change in between is read the next time
            self._cached = (number, self._state.read(_STATE) or self._cached[1])
        return self._cached[1]


def _status_to_json(status: VersionStatus) -> list[Any]:
    return [
        status.version,
        int(status.state),
        status.error_code,
        status.error_message,
        status.load_time_s,
        status.note,
    ]


def _status_from_json(content: list[Any], labels: Mapping[str, int]) -> VersionStatus:
    version, state, code, message, load_time_s, note = content
    return VersionStatus(
        version,
        ModelState(state),
        None if code is None else Code(code),
        message,
        tuple(sorted(label for label in labels if labels[label] == version)),
        note,
        load_time_s,
    )


class UnmergedModels:
    """Models whose requests must not share runs: one worker finds out, all workers hear of it. Threads may share one.

    It holds as long as the server runs: a restart tries the models again.
    """

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._number = 0
        self._seen: set[str] = set()
        self._changed_ns = 0

    def add(self, name: str, version: int, why: str) -> None:
        """Tell every worker about a model. If that fails it is logged, and this worker goes on."""
        self._number += 1
        try:
            self._state.write(f"{UNMERGED}/{os.getpid()}-{self._number}", [name, version, why], durable=False)
        except OSError as error:
            log.error("model %s: can't tell the other workers to stop merging its requests: %s", name, error)

    def new(self) -> Iterator[tuple[tuple[str, int], str]]:
        """Yield (model, version) and the reason of those that no earlier call yielded.

        If nothing is new, a call costs one `stat`.
        """
        try:
            changed_ns = (self._state.path / UNMERGED).stat().st_mtime_ns
        except OSError:
            return
        if changed_ns == self._changed_ns:
            return
        if time.time_ns() - changed_ns > _CLOCK_STEP_NS:
            self._changed_ns = changed_ns
        for file in self._state.names(UNMERGED):
            content = None if file in self._seen else self._state.read(file)
            if content is not None:
                self._seen.add(file)
                name, version, why = content
                yield (name, version), why

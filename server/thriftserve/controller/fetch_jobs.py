"""Models that are being fetched by URL: one of each name at a time, in a process of its own.

    begin(Wanted) --thriftserve.remote.fetch_agent--> notes: how far   -->  FETCH_DIR/NAME/VERSION, landed(Wanted)
                                                  another try, later and later   -->  failed: why
    cancel, a later begin  -->  that process killed

What is wanted is among the wishes: a keeper or a server that takes over goes on with it.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thriftserve.controller.configuration import RetryPolicy
from thriftserve.controller.fetched_models import FetchedModelStore
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.errors import Code
from thriftserve.remote.agent_client import AgentProcess
from thriftserve.remote.staging import discard
from thriftserve.repository.state_store import LoadFailure, StateDir
from thriftserve.repository.version_states import KEPT_ENDED, VersionStatus
from thriftserve.settings import ServeSettings
from thriftserve_idl.ttypes import ModelState

# One model that is being fetched: the process that does it, watched by a thread, and begun again where that may help.

log = logging.getLogger(__name__)

_AGENT = "thriftserve.remote.fetch_agent"
#: So many models are downloaded and unpacked at once; others wait.
_AT_ONCE = 4
_places = threading.BoundedSemaphore(_AT_ONCE)


@dataclass(frozen=True)
class FetchLimits:
    """What a fetch may take.

    Attributes:
        max_bytes: of the download.
        timeout_s: the whole of it, pauses between tries included.
        timing: when it is tried again, and how often.
    """

    max_bytes: int
    timeout_s: float
    timing: RetryPolicy

    @classmethod
    def of(cls, settings: ServeSettings) -> FetchLimits:
        """As the settings say."""
        return cls(settings.fetch_max_bytes, settings.fetch_timeout_s, RetryPolicy.of(settings))


@dataclass(frozen=True)
class FetchOutcome:
    """How a fetch, or a try, ended: well, or with code and words; and whether another try may do better."""

    error: tuple[Code, str] | None = None
    passing: bool = False


class FetchJob(threading.Thread):
    """Such a fetch.

    Args:
        before: an earlier one into the same base path that was cancelled: it must have let go first.
        ended: called in this thread.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        sha256: str | None,
        limits: FetchLimits,
        before: FetchJob | None,
        ended: Callable[[FetchOutcome], None],
    ) -> None:
        super().__init__(name=f"fetch {target.parent.name} {target.name}", daemon=True)
        self._request = {"url": url, "target": str(target), "sha256": sha256, "max_bytes": limits.max_bytes}
        self._target = target
        self._limits = limits
        self._before = before
        self._ended = ended
        self._process: AgentProcess | None = None
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._cancelled = False
        #: How far it is, for people.
        self.note = "about to be fetched"

    def cancel(self) -> None:
        """Ends it soon, and removes what came."""
        self._cancelled = True
        self.kill()

    def kill(self) -> None:
        """Ends it soon; what came stays for a later one."""
        with self._starting:
            self._stopped.set()
            if self._process is not None:
                self._process.kill()

    def run(self) -> None:
        """Fetches, until that has worked, or can't, or was given up."""
        if self._before is not None:
            self._before.join()
            self._before = None
        outcome = self._tried()
        if self._cancelled:
            discard(self._target)
        elif not self._stopped.is_set():
            self._ended(outcome)

    def _tried(self) -> FetchOutcome:
        """The outcome of as many tries as there may be."""
        end, tries = time.monotonic() + self._limits.timeout_s, 0
        while True:
            self.note = "waits for other fetches"
            with _places:
                outcome = self._try(end - time.monotonic())
            tries += 1
            if outcome.error is None or not outcome.passing or self._stopped.is_set():
                return outcome
            pause_s = self._limits.timing.pause_s(tries)
            if time.monotonic() + pause_s >= end:
                return outcome
            self.note = f"fetched again in {pause_s:g} s: {outcome.error[1]}"
            log.warning("%s: %s", self.name, self.note)
            self._stopped.wait(pause_s)

    def _try(self, timeout_s: float) -> FetchOutcome:
        with self._starting:
            if self._stopped.is_set():
                return FetchOutcome((Code.CANCELLED, "given up"))
            self.note = "begins"
            self._process = AgentProcess(_AGENT)
        process = self._process
        process.send({**self._request, "timeout_s": max(timeout_s, 1.0)})
        outcome = None
        for event in process.events():
            outcome = self._heard(event) or outcome
        exit_code = process.close()
        return outcome or _died(exit_code)

    def _heard(self, content: dict[str, Any]) -> FetchOutcome | None:
        if "progress" in content:
            self.note = content["progress"]
            return None
        if "error" in content:
            code, message, passing = content["error"]
            return FetchOutcome((Code(code), message), passing)
        return FetchOutcome()


def _died(code: int) -> FetchOutcome:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return FetchOutcome((Code.UNAVAILABLE, f"the process that fetched it ended {how}"), passing=True)


# Versions that operators have asked for and that are in no plan yet.

Version = tuple[str, int]


class PendingVersions:
    """Those of a server. Call it with the keeper's lock held.

    Args:
        settings: asked when a fetch begins.
        landed: told of a model, its base path and version when it has been fetched; says which version directories
            are in use.
        changed: told when there is something new to tell.

    Attributes:
        shelf: where fetched models lie.
        fetches: those that are being fetched.
    """

    def __init__(
        self,
        settings: Callable[[], ServeSettings],
        state: StateDir,
        wishes: OperatorOverrides,
        lock: threading.RLock,
        landed: Callable[[str, Path, int], set[Path]],
        changed: Callable[[], None],
    ) -> None:
        self._landed = landed
        self._asked: set[Version] = set()
        self.shelf = FetchedModelStore.of(settings(), state)
        self.fetches = FetchJobs(
            wishes, self.shelf, lambda: FetchLimits.of(settings()), lock, self._has_landed, changed
        )

    def ask(self, name: str, version: int) -> None:
        """That version lies in its base path, and is to be served."""
        self._asked.add((name, version))

    def decided(self) -> None:
        """What was asked for is in the plan now, or can't be."""
        self._asked.clear()

    @property
    def versions(self) -> frozenset[Version]:
        """Models and versions on their way."""
        return frozenset(self._asked | self.fetches.notes().keys())

    @property
    def names(self) -> frozenset[str]:
        """Models of which there is something to tell."""
        return frozenset((*(name for name, _ in self._asked), *self.fetches.names))

    def failures(self) -> dict[Version, LoadFailure]:
        """Those that could not be fetched."""
        return self.fetches.failed()

    def noted(self, statuses: Mapping[str, list[VersionStatus]]) -> dict[str, list[VersionStatus]]:
        """These states, with how far the fetch of each is."""
        notes = self.fetches.notes()
        return {
            name: [
                replace(one, note=notes.get((name, one.version)) or self._waits(name, one) or one.note)
                for one in versions
            ]
            for name, versions in statuses.items()
        }

    def _waits(self, name: str, one: VersionStatus) -> str:
        asked = (name, one.version) in self._asked and one.state == ModelState.START
        return "about to be loaded" if asked else ""

    def _has_landed(self, wanted: FetchRequest) -> set[Path]:
        self.ask(wanted.name, wanted.version)
        return self._landed(wanted.name, self.shelf.base_path(wanted.name), wanted.version)


@dataclass(frozen=True)
class FetchRequest:
    """A model to fetch."""

    name: str
    version: int
    url: str
    sha256: str | None = None


class FetchJobs:
    """Those of a server. Call it with `lock` held.

    Args:
        wishes: where it is written what is wanted.
        shelf: where they land.
        limits: asked when one begins.
        lock: held when `landed` is called, from a thread of its own.
        landed: told of each that has become a version directory; says which of those are in use.
        changed: told when there is something new to say of one; called without the lock.
    """

    def __init__(
        self,
        wishes: OperatorOverrides,
        shelf: FetchedModelStore,
        limits: Callable[[], FetchLimits],
        lock: threading.RLock,
        landed: Callable[[FetchRequest], set[Path]],
        changed: Callable[[], None],
    ) -> None:
        self._wishes = wishes
        self._shelf = shelf
        self._limits = limits
        self._lock = lock
        self._landed = landed
        self._changed = changed
        self._running: dict[str, tuple[FetchRequest, FetchJob]] = {}
        self._ending: dict[str, FetchJob] = {}
        self._failed: dict[tuple[str, int], LoadFailure] = {}

    def resume(self) -> None:
        """Goes on with what was wanted when a keeper before this one ended."""
        for content in self._wishes.fetching:
            wanted = FetchRequest(**content)
            log.info("the fetch of model %s version %d goes on", wanted.name, wanted.version)
            try:
                self._go_on(wanted)
            except OSError as error:  # its place can't be looked into now: what is served is not touched by that
                self._fail(wanted, Code.FAILED_PRECONDITION, f"{error.filename}: {error.strerror}")
        self._keep()

    def begin(self, wanted: FetchRequest) -> None:
        """Fetches a model, where it is not there yet; one of its name that is being fetched is given up for it.

        Raises:
            FailedPrecondition: that version is there, and came from another place.
        """
        found = self._running.get(wanted.name)
        if found is not None and found[0] == wanted:
            return
        self._shelf.expect(wanted.name, wanted.version, wanted.url, wanted.sha256)
        self.cancel(wanted.name, why="another load of the model took its place")
        self._failed.pop((wanted.name, wanted.version), None)
        self._go_on(wanted)
        self._keep()

    def same(self, name: str, url: str, sha256: str | None) -> FetchRequest | None:
        """What is being fetched of a model, where it is that URL."""
        found = self._running.get(name)
        return found[0] if found is not None and (found[0].url, found[0].sha256) == (url, sha256) else None

    def cancel(self, name: str, version: int | None = None, *, why: str | None = None) -> None:
        """Ends the fetch of a model, or of that version of it; what came is removed.

        Args:
            why: what is told of that version from then on; None: nothing, nor of one that failed.
        """
        if why is None:
            self._failed = {
                key: one for key, one in self._failed.items() if key[0] != name or version not in (None, key[1])
            }
        found = self._running.get(name)
        if found is None or version not in (None, found[0].version):
            return
        wanted, fetching = self._running.pop(name)
        log.info("the fetch of model %s version %d is given up%s", name, wanted.version, f": {why}" if why else "")
        fetching.cancel()
        self._ending[name] = fetching
        if why is not None:
            self._fail(wanted, Code.ABORTED, f"not fetched: {why}")
        self._keep()

    def cancel_all(self, why: str) -> None:
        """Ends every fetch, and forgets those that failed."""
        self._failed.clear()
        for name in list(self._running):
            self.cancel(name, why=why)

    def stop(self) -> None:
        """Ends every process; another keeper, or server, goes on with what is wanted."""
        for _, fetching in self._running.values():
            fetching.kill()

    def notes(self) -> dict[tuple[str, int], str]:
        """How far each is."""
        return {(name, wanted.version): fetching.note for name, (wanted, fetching) in self._running.items()}

    def failed(self) -> dict[tuple[str, int], LoadFailure]:
        """Those that have failed, until they are wanted again, or their model is unloaded, or the next reload."""
        return dict(self._failed)

    @property
    def names(self) -> frozenset[str]:
        """Models of which there is something to tell."""
        return frozenset((*self._running, *(name for name, _ in self._failed)))

    def _go_on(self, wanted: FetchRequest) -> None:
        target = self._shelf.version(wanted.name, wanted.version)
        if target.exists():  # it lands by one rename
            discard(target)
            self._landed(wanted)
        else:
            self._start(wanted)

    def _start(self, wanted: FetchRequest) -> None:
        def ended(outcome: FetchOutcome) -> None:
            with self._lock:
                used = self._end(wanted, fetching, outcome)
            self._changed()
            if used is not None:
                self._shelf.tidy(wanted.name, used)

        fetching = FetchJob(
            wanted.url,
            self._shelf.version(wanted.name, wanted.version),
            wanted.sha256,
            self._limits(),
            self._ending.pop(wanted.name, None),
            ended,
        )
        self._running[wanted.name] = wanted, fetching
        fetching.start()

    def _end(self, wanted: FetchRequest, fetching: FetchJob, outcome: FetchOutcome) -> set[Path] | None:
        """Takes note of how one has ended; the version directories in use where it landed."""
        used = None
        found = self._running.get(wanted.name)
        if found is None or found[1] is not fetching:  # given up meanwhile
            return None
        if outcome.error is None:
            # First it is to be served, then it is fetched no more: a keeper that is killed in between does it again.
            used = {*self._landed(wanted), self._shelf.version(wanted.name, wanted.version)}
        else:
            code, message = outcome.error
            log.error("model %s version %d can't be fetched: %s", wanted.name, wanted.version, message)
            self._fail(wanted, code, message)
        del self._running[wanted.name]
        self._keep()
        return used

    def _fail(self, wanted: FetchRequest, code: Code, message: str) -> None:
        key = wanted.name, wanted.version
        self._failed.pop(key, None)
        self._failed[key] = LoadFailure(*key, code, message)
        for old in [each for each in self._failed if each[0] == wanted.name][:-KEPT_ENDED]:
            del self._failed[old]

    def _keep(self) -> None:
        self._wishes.fetch([asdict(wanted) for wanted, _ in self._running.values()])

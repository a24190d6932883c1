"""Versions that operators asked for and that are in no plan yet: those that are fetched from URLs, one job a model.

    FetchJobs.begin(FetchRequest)  --FetchJob, thriftserve.remote.fetch_agent-->  FETCH_DIR/NAME/VERSION  -->  loaded
                                       tried again, after longer and longer pauses  -->  failed, with the reason
    cancel, another begin  -->  the agent is killed

The requests are among the operator's overrides: a controller or a server that takes over resumes them.
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

from thriftserve.controller.fetched_models import FetchedModelStore
from thriftserve.controller.lifecycle import RetryPolicy, VersionKey
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.errors import Code
from thriftserve.remote.agent import AgentProcess
from thriftserve.remote.staging import discard
from thriftserve.repository.state_store import LoadFailure, StateDir
from thriftserve.repository.version_states import KEPT_ENDED, VersionStatus
from thriftserve.settings import ServeSettings
from thriftserve_idl.ttypes import ModelState

_AGENT = "thriftserve.remote.fetch_agent"
#: Downloads at once share the network and the disk; other jobs wait.
_MAX_RUNNING = 4
_slots = threading.BoundedSemaphore(_MAX_RUNNING)

log = logging.getLogger(__name__)


class PendingVersions:
    """The pending versions of a server. Hold the controller's lock to call it.

    Args:
        settings: returns the settings that hold; called when a fetch begins.
        state: the state directory.
        overrides: where requests are written down.
        lock: the controller's.
        load: called with a model, its base path and a version that was fetched; returns the directories in use.
        on_change: called, without the lock, when a fetch has ended.

    Attributes:
        store: where fetched models are.
        fetches: the fetches that are under way.
    """

    def __init__(
        self,
        settings: Callable[[], ServeSettings],
        state: StateDir,
        overrides: OperatorOverrides,
        lock: threading.RLock,
        load: Callable[[str, Path, int], set[Path]],
        on_change: Callable[[], None],
    ) -> None:
        self._load = load
        self._requested: set[VersionKey] = set()
        self.store = FetchedModelStore.from_settings(settings(), state)
        self.fetches = FetchJobs(
            overrides, self.store, lambda: FetchLimits.from_settings(settings()), lock, self._load_fetched, on_change
        )

    def request(self, name: str, version: int) -> None:
        """Note that an operator asked for a version that is in its base path."""
        self._requested.add((name, version))

    def forget_requested(self) -> None:
        """Forget what was requested: it is in the plan now, or can't be."""
        self._requested.clear()

    @property
    def versions(self) -> frozenset[VersionKey]:
        """Models and versions on their way."""
        return frozenset(self._requested | self.fetches.progress().keys())

    @property
    def model_names(self) -> frozenset[str]:
        """Models with a version on its way, or one that could not be fetched."""
        return frozenset((*(name for name, _ in self._requested), *self.fetches.model_names))

    def failures(self) -> dict[VersionKey, LoadFailure]:
        """Return the versions that could not be fetched."""
        return self.fetches.failures()

    def annotate(self, statuses: Mapping[str, list[VersionStatus]]) -> dict[str, list[VersionStatus]]:
        """Return these statuses with a note of how far each fetch is."""
        progress = self.fetches.progress()
        return {
            name: [
                replace(
                    status,
                    note=progress.get((name, status.version)) or self._request_note(name, status) or status.note,
                )
                for status in versions
            ]
            for name, versions in statuses.items()
        }

    def _request_note(self, name: str, status: VersionStatus) -> str:
        waiting = (name, status.version) in self._requested and status.state == ModelState.START
        return "about to be loaded" if waiting else ""

    def _load_fetched(self, request: FetchRequest) -> set[Path]:
        self.request(request.name, request.version)
        return self._load(request.name, self.store.base_path(request.name), request.version)


@dataclass(frozen=True)
class FetchRequest:
    """A version to fetch; written down as JSON by these names."""

    name: str
    version: int
    url: str
    sha256: str | None = None


class FetchJobs:
    """The fetches of a server, one of each model at a time. Hold `lock` to call it.

    Args:
        overrides: where requests are written down.
        store: where versions land.
        limits: returns the limits of a fetch that begins.
        lock: held when `load` is called, from a job's thread.
        load: called with each request whose version has landed; returns the version directories in use.
        on_change: called, without the lock, when a fetch has ended.
    """

    def __init__(
        self,
        overrides: OperatorOverrides,
        store: FetchedModelStore,
        limits: Callable[[], FetchLimits],
        lock: threading.RLock,
        load: Callable[[FetchRequest], set[Path]],
        on_change: Callable[[], None],
    ) -> None:
        self._overrides = overrides
        self._store = store
        self._limits = limits
        self._lock = lock
        self._load = load
        self._on_change = on_change
        self._running: dict[str, tuple[FetchRequest, FetchJob]] = {}
        #: Cancelled jobs that may still hold their model's base path.
        self._ending: dict[str, FetchJob] = {}
        self._failed: dict[VersionKey, LoadFailure] = {}

    def resume(self) -> None:
        """Go on with the fetches that were under way when the controller before this one ended."""
        for content in self._overrides.fetches:
            request = FetchRequest(**content)
            log.info("resuming the fetch of model %s version %d", request.name, request.version)
            try:
                self._load_or_start(request)
            except OSError as error:  # the store can't be read now: what is served is not affected
                self._fail(request, Code.FAILED_PRECONDITION, f"{error.filename}: {error.strerror}")
        self._save()

    def begin(self, request: FetchRequest) -> None:
        """Fetch a version unless it is there, or is being fetched. Another fetch of the same model is cancelled.

        Raises:
            FailedPrecondition: that version is there, and came from elsewhere.
        """
        if request.name in self._running and self._running[request.name][0] == request:
            return
        self._store.expect(request.name, request.version, request.url, request.sha256)
        self.cancel(request.name, reason="another load of the model took its place")
        self._failed.pop((request.name, request.version), None)
        self._load_or_start(request)
        self._save()

    def running(self, name: str, url: str, sha256: str | None) -> FetchRequest | None:
        """Return the request of a model that is being fetched from that URL; None: there is none."""
        if name in self._running:
            request, _ = self._running[name]
            if (request.url, request.sha256) == (url, sha256):
                return request
        return None

    def cancel(self, name: str, version: int | None = None, *, reason: str | None = None) -> None:
        """End the fetch of a model, or of that version of it, and remove what it downloaded.

        Args:
            name: of the model.
            version: None: any.
            reason: why that version has ended, for its status; None: it has no status then, nor has one that failed.
        """
        if reason is None:
            self._failed = {
                key: failure for key, failure in self._failed.items() if key[0] != name or version not in (None, key[1])
            }
        if name not in self._running or version not in (None, self._running[name][0].version):
            return
        request, job = self._running.pop(name)
        log.info("cancelled the fetch of model %s version %d%s", name, request.version, f": {reason}" if reason else "")
        job.cancel()
        self._ending[name] = job
        if reason is not None:
            self._fail(request, Code.ABORTED, f"not fetched: {reason}")
        self._save()

    def cancel_all(self, reason: str) -> None:
        """End every fetch, and forget those that failed."""
        self._failed.clear()
        for name in list(self._running):
            self.cancel(name, reason=reason)

    def stop(self) -> None:
        """End every agent; the next controller, or server, resumes the fetches."""
        for _, job in self._running.values():
            job.kill()

    def progress(self) -> dict[VersionKey, str]:
        """Return how far each fetch is, for people."""
        return {(name, request.version): job.progress for name, (request, job) in self._running.items()}

    def failures(self) -> dict[VersionKey, LoadFailure]:
        """Return the versions that could not be fetched, until they are requested again, unloaded, or at a reload."""
        return dict(self._failed)

    @property
    def model_names(self) -> frozenset[str]:
        """Models that are being fetched, or could not be."""
        return frozenset((*self._running, *(name for name, _ in self._failed)))

    def _load_or_start(self, request: FetchRequest) -> None:
        target = self._store.version(request.name, request.version)
        if target.exists():  # all of it: a version lands by one rename
            discard(target)
            self._load(request)
        else:
            self._start(request, target)

    def _start(self, request: FetchRequest, target: Path) -> None:
        def on_end(outcome: FetchOutcome) -> None:
            with self._lock:
                used = self._end(request, job, outcome)
            self._on_change()
            if used is not None:
                self._store.remove_unused(request.name, used)

        predecessor = self._ending.pop(request.name, None)
        job = FetchJob(request, target, self._limits(), predecessor, on_end)
        self._running[request.name] = request, job
        job.start()

    def _end(self, request: FetchRequest, job: FetchJob, outcome: FetchOutcome) -> set[Path] | None:
        """Note how a fetch has ended; return the version directories in use if the version has landed."""
        used = None
        if self._running.get(request.name) != (request, job):  # cancelled meanwhile
            return None
        if outcome.error is None:
            # Loaded first, and then fetched no more: a controller that is killed in between repeats both.
            used = {*self._load(request), self._store.version(request.name, request.version)}
        else:
            code, message = outcome.error
            log.error("model %s version %d can't be fetched: %s", request.name, request.version, message)
            self._fail(request, code, message)
        del self._running[request.name]
        self._save()
        return used

    def _fail(self, request: FetchRequest, code: Code, message: str) -> None:
        key = request.name, request.version
        self._failed.pop(key, None)
        self._failed[key] = LoadFailure(*key, code, message)
        for old in [failed for failed in self._failed if failed[0] == request.name][:-KEPT_ENDED]:
            del self._failed[old]

    def _save(self) -> None:
        self._overrides.set_fetches([asdict(request) for request, _ in self._running.values()])


@dataclass(frozen=True)
class FetchLimits:
    """The bounds of a fetch."""

    #: Of the download.
    max_bytes: int
    #: Of all tries together, with the pauses between them.
    timeout_s: float
    retry: RetryPolicy

    @classmethod
    def from_settings(cls, settings: ServeSettings) -> FetchLimits:
        """Return what the settings say."""
        return cls(settings.fetch_max_bytes, settings.fetch_timeout_s, RetryPolicy.from_settings(settings))


@dataclass(frozen=True)
class FetchOutcome:
    """How a fetch, or one try, ended."""

    #: None: well.
    error: tuple[Code, str] | None = None
    #: Whether another try may succeed.
    retryable: bool = False


class FetchJob(threading.Thread):
    """One fetch: the thread that watches its agent, and starts another one if that may help.

    Args:
        request: what to fetch.
        target: the version directory to be.
        limits: of the fetch.
        predecessor: a cancelled job with the same base path, which must end first.
        on_end: called in this thread, unless the job is cancelled or killed.

    Attributes:
        progress: how far it is, for people.
    """

    def __init__(
        self,
        request: FetchRequest,
        target: Path,
        limits: FetchLimits,
        predecessor: FetchJob | None,
        on_end: Callable[[FetchOutcome], None],
    ) -> None:
        super().__init__(name=f"fetch {request.name} {request.version}", daemon=True)
        self._command = {
            "url": request.url,
            "target": str(target),
            "sha256": request.sha256,
            "max_bytes": limits.max_bytes,
        }
        self._target = target
        self._limits = limits
        self._predecessor = predecessor
        self._on_end = on_end
        self._agent: AgentProcess | None = None
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._cancelled = False
        self.progress = "about to be fetched"

    def cancel(self) -> None:
        """Have it end soon, and what it downloaded removed."""
        self._cancelled = True
        self.kill()

    def kill(self) -> None:
        """Have it end soon; what it downloaded stays for a later job."""
        with self._starting:
            self._stopped.set()
            if self._agent is not None:
                self._agent.kill()

    def run(self) -> None:
        """Fetch until it has succeeded, failed for good, or was stopped."""
        if self._predecessor is not None:
            self._predecessor.join()
            self._predecessor = None
        outcome = self._fetch()
        if self._cancelled:
            discard(self._target)
        elif not self._stopped.is_set():
            self._on_end(outcome)

    def _fetch(self) -> FetchOutcome:
        end, tries = time.monotonic() + self._limits.timeout_s, 0
        while True:
            self.progress = "waits for other fetches"
            with _slots:
                outcome = self._try(end - time.monotonic())
            tries += 1
            if outcome.error is None or not outcome.retryable or self._stopped.is_set():
                return outcome
            pause_s = self._limits.retry.pause_s(tries)
            if time.monotonic() + pause_s >= end:
                return outcome
            self.progress = f"fetched again in {pause_s:g} s: {outcome.error[1]}"
            log.warning("%s: %s", self.name, self.progress)
            self._stopped.wait(pause_s)

    def _try(self, timeout_s: float) -> FetchOutcome:
        with self._starting:
            if self._stopped.is_set():
                return FetchOutcome((Code.CANCELLED, "cancelled"))
            self.progress = "begins"
            self._agent = agent = AgentProcess(_AGENT)
        agent.send({**self._command, "timeout_s": max(timeout_s, 1.0)})
        outcome = None
        for event in agent.events():
            outcome = self._handle(event) or outcome
        exit_code = agent.close()
        return outcome or _agent_died(exit_code)

    def _handle(self, event: Mapping[str, Any]) -> FetchOutcome | None:
        if "progress" in event:
            self.progress = event["progress"]
            return None
        if "error" in event:
            code, message, retryable = event["error"]
            return FetchOutcome((Code(code), message), retryable)
        return FetchOutcome()


def _agent_died(exit_code: int) -> FetchOutcome:
    how = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
    return FetchOutcome((Code.UNAVAILABLE, f"the process that fetched it ended {how}"), retryable=True)

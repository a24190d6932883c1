"""Which versions there are to serve: base paths on this machine, and mirrors of base paths behind URLs.

ModelConfigs  --Watcher, MirrorClient-->  SourceWatcher.wanted: versions by model, once two polls agree
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve.remote.agent import AgentProcess
from thriftserve.remote.mirror import mirror_directory
from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig, VersionDir, policy_to_json
from thriftserve.repository.watcher import Watcher
from thriftserve.settings import ServeSettings

_AGENT = "thriftserve.remote.mirror_agent"
#: An agent that died is started again after so long; twice as long each time, up to the second, until one reports.
_RESTART_S, _LONGEST_RESTART_S = 1.0, 60.0
#: The longest time between two polls that are to show what has stayed the same.
_SECOND_POLL_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PollIntervals:
    """Seconds between two polls; 0: poll only when asked to."""

    #: Of base paths on this machine.
    repository_s: float
    #: Of base paths behind URLs.
    mirror_s: float

    @classmethod
    def from_settings(cls, settings: ServeSettings) -> PollIntervals:
        """Return what the settings say."""
        return cls(settings.file_system_poll_s, settings.mirror_poll_s)


def mirror_cache(settings: ServeSettings, state: StateDir) -> Path:
    """Return the directory that holds the mirrors."""
    if settings.mirror_dir is None:
        return state.path / "remote"
    return Path(settings.mirror_dir).expanduser().absolute()


def local_base_path(cache: Path, config: ModelConfig) -> Path:
    """Return where the versions of a model are on this machine."""
    return mirror_directory(cache, config.source) if config.remote else Path(config.source)


@dataclass(frozen=True)
class MirrorReport:
    """What is known of a base path behind a URL."""

    #: How often it was synced.
    syncs: int = 0
    #: Whether nothing is about to land.
    settled: bool = False
    #: What is wrong.
    problems: tuple[str, ...] = ()


class MirrorClient:
    """The agent that mirrors every base path behind a URL; it runs while there is one. Used by one thread at a time.

    Args:
        cache: the directory that holds the mirrors.
        on_change: called, in a thread of its own, when a version has landed or is gone.
    """

    def __init__(self, cache: Path, on_change: Callable[[], None] = lambda: None) -> None:
        self._cache = cache
        self._on_change = on_change
        self._command: dict[str, Any] = {"urls": {}}
        self._process: AgentProcess | None = None
        self._reader: threading.Thread | None = None
        self._start_at, self._restart_s = 0.0, _RESTART_S
        self._reported = threading.Condition()
        self._reports: dict[str, MirrorReport] = {}

    def configure(self, configs: Iterable[ModelConfig], poll_s: float, plans: Collection[Plan], now: float) -> None:
        """Mirror the URLs of these models and sync each at once; do nothing if that is what the agent does already.

        Args:
            configs: the models; those without a URL are left out.
            poll_s: seconds between two syncs; 0: only when asked to.
            plans: what is served or about to be; the versions in it are not removed.
            now: monotonic seconds.
        """
        urls: dict[str, dict[str, list[Any]]] = {}
        for config in configs:
            if config.remote:
                task = urls.setdefault(config.source, {"policies": [], "protected": []})
                task["policies"].append(policy_to_json(config.policy))
        planned = [version for plan in plans for _, version in plan.versions()]
        for url, task in urls.items():
            directory = mirror_directory(self._cache, url)
            task["protected"] = sorted({version.version for version in planned if version.path.parent == directory})
        command = {"cache": str(self._cache), "poll_s": poll_s, "urls": urls}
        if command != self._command:
            self._command = command
            self.sync(now)

    def sync(self, now: float) -> None:
        """Have every URL synced now."""
        if self._process is None:
            self.ensure_running(now)
        else:
            self._process.send(self._command)

    def ensure_running(self, now: float) -> None:
        """Start the agent if there is something to mirror and it does not run, with a pause if it has died."""
        if self._process is not None and not self.alive:
            log.error("the process that mirrors URLs has ended with code %d", self._process.exit_code)
            self.close()
            self._start_at = now + self._restart_s
            self._restart_s = min(2 * self._restart_s, _LONGEST_RESTART_S)
        if self._process is None and self._command["urls"] and now >= self._start_at:
            self._process = AgentProcess(_AGENT)
            self._reader = threading.Thread(target=self._read, args=(self._process,), name="mirrors", daemon=True)
            self._reader.start()
            self._process.send(self._command)

    @property
    def alive(self) -> bool:
        """Whether the agent runs."""
        return self._process is not None and self._process.exit_code is None

    def report(self, url: str) -> MirrorReport:
        """Return what is known of a URL."""
        with self._reported:
            return self._reports.get(url, MirrorReport())

    def wait_for_report(self, timeout_s: float) -> None:
        """Wait for the next report, or for the agent's end."""
        with self._reported:
            self._reported.wait(timeout_s)

    def close(self) -> None:
        """End the agent and the thread that reads its reports."""
        process, reader = self._process, self._reader
        self._process = self._reader = None
        if process is not None and reader is not None:
            process.close()
            reader.join()

    def _read(self, process: AgentProcess) -> None:
        for event in process.events():
            self._note(event)
        with self._reported:
            self._reported.notify_all()

    def _note(self, event: Mapping[str, Any]) -> None:
        url, problems = event["url"], tuple(event["problems"])
        with self._reported:
            before = self._reports.get(url, MirrorReport())
            self._reports[url] = MirrorReport(before.syncs + 1, event["settled"], problems)
            self._reported.notify_all()
        for problem in problems:
            if problem not in before.problems:
                log.warning("%s", problem)
        if before.problems and not problems:
            log.info("%s: recovered", url)
        self._restart_s = _RESTART_S
        if event["changed"]:
            self._on_change()


class SourceWatcher:
    """The base paths of the configured models, polled when it is time. Used by one thread at a time.

    Args:
        watcher: has polled the base paths once.
        make_mirrors: called with what to call when a mirror changes; returns the client of the mirrors.
        wake: called, in another thread, when there is something to poll.

    Attributes:
        wanted: the versions to serve by model, newest first.
        due_at: when to poll next, monotonic seconds.
    """

    def __init__(
        self, watcher: Watcher, make_mirrors: Callable[[Callable[[], None]], MirrorClient], wake: Callable[[], None]
    ) -> None:
        self._watcher = watcher
        self._mirrors = make_mirrors(self._mirror_changed)
        self._wake = wake
        self._configs: Sequence[ModelConfig] = ()
        self._polls_left = 2
        self._has_mirror_changed = False
        self.wanted: dict[str, tuple[VersionDir, ...]] = {}
        self.due_at = 0.0

    @property
    def settled(self) -> bool:
        """Whether there were enough polls to decide by `wanted`: two since the last change that was announced."""
        return self._polls_left == 0

    def configure(
        self, configs: Sequence[ModelConfig], intervals: PollIntervals, plans: Collection[Plan], now: float
    ) -> None:
        """Watch these models and no others, and poll them at once."""
        self._configs = configs
        self._watcher.configure(configs)
        self.protect(intervals, plans, now)
        self.due_at = 0.0

    def protect(self, intervals: PollIntervals, plans: Collection[Plan], now: float) -> None:
        """Keep the mirrored versions of these plans: they are served or will be."""
        self._mirrors.configure(self._configs, intervals.mirror_s, plans, now)

    def restart(self, now: float) -> None:
        """Poll anew until two polls agree, and sync the mirrors."""
        self._polls_left, self.due_at = 2, 0.0
        self._mirrors.sync(now)

    def poll(self, intervals: PollIntervals, now: float) -> list[tuple[str, int]]:
        """Poll the base paths if it is time.

        Returns:
            Models and versions that have disappeared.
        """
        self._mirrors.ensure_running(now)
        if self._has_mirror_changed:
            self._has_mirror_changed = False
            self._polls_left, self.due_at = 2, 0.0
        if now < self.due_at:
            return []
        self._polls_left = max(0, self._polls_left - 1)
        pause_s = intervals.repository_s
        self.due_at = now + (
            min(pause_s or _SECOND_POLL_S, _SECOND_POLL_S) if self._polls_left else pause_s or math.inf
        )
        remote = {config.name for config in self._configs if config.remote}
        gone: list[tuple[str, int]] = []
        for name, model in self._watcher.poll().models.items():
            self.wanted[name] = model.wanted
            gone += [(name, version.version) for version in model.disappeared]
            # The mirror reports what is wrong behind its URL; its copy needs no remedy of its own.
            for problem in model.problems if name not in remote else ():
                log.warning("model %s: %s", name, problem)
        return gone

    def close(self) -> None:
        """End the agent of the mirrors."""
        self._mirrors.close()

    def _mirror_changed(self) -> None:
        self._has_mirror_changed = True
        self._wake()

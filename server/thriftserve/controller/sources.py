"""What there is to serve, looked at when it is time: base paths on this machine, and behind URLs.

ModelConfigs  --Watcher, Mirrors-->  wanted: versions by model, once two looks agree
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve.controller.configuration import RetryPolicy
from thriftserve.remote.agent_client import AgentProcess
from thriftserve.remote.mirror import mirror_directory
from thriftserve.repository.plan import Plan
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig, VersionDir, policy_to_json
from thriftserve.repository.watcher import Watcher
from thriftserve.settings import ServeSettings

# Base paths behind URLs: the process that mirrors them, and what it tells.

#: A process that died is followed by another after so long, and twice as long each time up to the second.
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_AGENT = "thriftserve.remote.mirror_agent"

log = logging.getLogger(__name__)


def cache_of(settings: ServeSettings, state: StateDir) -> Path:
    """Where versions that come from URLs lie."""
    told = settings.mirror_dir
    return state.path / "remote" if told is None else Path(told).expanduser().absolute()


def base_path_of(cache: Path, config: ModelConfig) -> Path:
    """Where the versions of a model lie on this machine."""
    return mirror_directory(cache, config.source) if config.remote else Path(config.source)


@dataclass(frozen=True)
class MirrorReport:
    """What was told of a URL last."""

    #: Looks at it so far.
    looks: int = 0
    #: Whether nothing is about to land.
    settled: bool = False
    #: What is wrong.
    problems: tuple[str, ...] = ()


class MirrorClient:
    """Every base path behind a URL. A process is there while there is one.

    Args:
        cache: where versions lie.
        changed: called, in a thread of its own, when a version has landed or gone.
    """

    def __init__(self, cache: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._cache = cache
        self._changed = changed
        self._wanted: dict[str, Any] = {"urls": {}}
        self._process: AgentProcess | None = None
        self._listener: threading.Thread | None = None
        self._start_at, self._pause_s = 0.0, _PAUSE_S
        self._hearing = threading.Condition()
        self._told: dict[str, MirrorReport] = {}

    def want(self, configs: Iterable[ModelConfig], poll_s: float, plans: Collection[Plan], now: float) -> None:
        """Mirrors these models' URLs, and looks at each at once; nothing where that is what it does already.

        Args:
            configs: the models; those without a URL are none of ours.
            poll_s: seconds between two looks; 0: this one only.
            plans: what is served or about to be, so not to be removed.
            now: monotonic seconds.
        """
        urls: dict[str, dict[str, list[Any]]] = {}
        for config in configs:
            if config.remote:
                wish = urls.setdefault(config.source, {"policies": [], "protected": []})
                wish["policies"].append(policy_to_json(config.policy))
        for url, wish in urls.items():
            directory = mirror_directory(self._cache, url)
            wish["protected"] = sorted(
                {one.version for plan in plans for _, one in plan.versions() if one.path.parent == directory}
            )
        wanted = {"cache": str(self._cache), "poll_s": poll_s, "urls": urls}
        if wanted != self._wanted:
            self._wanted = wanted
            self.look(now)

    def look(self, now: float) -> None:
        """Has every URL looked at now."""
        if self._process is None:
            self.tend(now)
        else:
            self._process.send(self._wanted)

    def tend(self, now: float) -> None:
        """Has a process there, where one is wanted."""
        if self._process is not None and not self.alive:
            log.error("the process that mirrors URLs has ended with code %d", self._process.exit_code)
            self.close()
            self._start_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if self._process is None and self._wanted["urls"] and now >= self._start_at:
            self._process = AgentProcess(_AGENT)
            self._listener = threading.Thread(target=self._listen, args=(self._process,), name="mirrors", daemon=True)
            self._listener.start()
            self._process.send(self._wanted)

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.exit_code is None

    def told(self, url: str) -> MirrorReport:
        """What was told of a URL last."""
        with self._hearing:
            return self._told.get(url, MirrorReport())

    def wait(self, timeout_s: float) -> None:
        """Waits until something is told."""
        with self._hearing:
            self._hearing.wait(timeout_s)

    def close(self) -> None:
        """Ends the process; no thread of this one is left of it."""
        process, listener = self._process, self._listener
        self._process = self._listener = None
        if process is None or listener is None:
            return
        process.close()
        listener.join()

    def _listen(self, process: AgentProcess) -> None:
        for event in process.events():
            self._hear(event)
        with self._hearing:
            self._hearing.notify_all()

    def _hear(self, content: Mapping[str, Any]) -> None:
        url, problems = content["url"], tuple(content["problems"])
        with self._hearing:
            before = self._told.get(url, MirrorReport())
            self._told[url] = MirrorReport(before.looks + 1, content["settled"], problems)
            self._hearing.notify_all()
        for problem in problems:
            if problem not in before.problems:
                log.warning("%s", problem)
        if before.problems and not problems:
            log.info("%s: recovered", url)
        self._pause_s = _PAUSE_S
        if content["changed"]:
            self._changed()


class SourceWatcher:
    """Those of the models that are configured now. Of one thread, but for `wake`.

    Args:
        watcher: has looked at the base paths once.
        mirrors: of those that are URLs.
        wake: called, in another thread, when there is something to look at.

    Attributes:
        wanted: the versions to serve by model, newest first.
        due_at: when to look next, monotonic seconds.
    """

    def __init__(
        self, watcher: Watcher, mirrors: Callable[[Callable[[], None]], MirrorClient], wake: Callable[[], None]
    ) -> None:
        self._watcher = watcher
        self._mirrors = mirrors(self._landed)
        self._wake = wake
        self._configs: Sequence[ModelConfig] = ()
        self._looks_due = 2
        self._something_landed = False
        self.wanted: dict[str, tuple[VersionDir, ...]] = {}
        self.due_at = 0.0

    @property
    def seen(self) -> bool:
        """Whether enough looks were taken to decide by them."""
        return self._looks_due == 0

    def configure(
        self, configs: Sequence[ModelConfig], timing: RetryPolicy, plans: Collection[Plan], now: float
    ) -> None:
        """Looks at these models from now on, at once."""
        self._configs = configs
        self._watcher.configure(configs)
        self.hold(timing, plans, now)
        self.due_at = 0.0

    def hold(self, timing: RetryPolicy, plans: Collection[Plan], now: float) -> None:
        """These plans are served or will be: no copy of what they need is to be removed."""
        self._mirrors.want(self._configs, timing.mirror_s, plans, now)

    def look_anew(self, now: float) -> None:
        """Looks until two looks agree, and at URLs too."""
        self._looks_due, self.due_at = 2, 0.0
        self._mirrors.look(now)

    def look(self, timing: RetryPolicy, now: float) -> list[tuple[str, int]]:
        """Looks, where it is time.

        Returns:
            Models and versions that have disappeared.
        """
        self._mirrors.tend(now)
        if self._something_landed:
            self._something_landed = False
            self._looks_due, self.due_at = 2, 0.0
        if now < self.due_at:
            return []
        self._looks_due = max(0, self._looks_due - 1)
        self.due_at = now + (timing.second_look_s if self._looks_due else timing.repository_s or float("inf"))
        remote = {config.name for config in self._configs if config.remote}
        gone: list[tuple[str, int]] = []
        for name, found in self._watcher.poll().models.items():
            self.wanted[name] = found.wanted
            gone += [(name, one.version) for one in found.disappeared]
            # What is wrong behind a URL, its mirror tells; of its copy there is nothing to mend.
            for problem in found.problems if name not in remote else ():
                log.warning("model %s: %s", name, problem)
        return gone

    def close(self) -> None:
        """Ends what runs beside."""
        self._mirrors.close()

    def _landed(self) -> None:
        self._something_landed = True
        self._wake()

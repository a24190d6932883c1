"""Which versions are wanted now: base paths, polled again and again.

    ModelConfigs + base paths  --poll-->  Changes: for each model wanted, appeared, disappeared, problems

It has no thread and no clock: its owner calls `poll` every second or so, from one thread.

    >>> watcher = Watcher([ModelConfig("digits", "tensorflow", "/models/digits")])
    >>> watcher.poll().models["digits"].problems
    ('/models/digits: there is no such directory',)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from thriftserve.errors import ModelLoadError
from thriftserve.files import CorruptFile
from thriftserve.repository import integrity, versions
from thriftserve.repository.integrity import FileStat, Snapshot
from thriftserve.repository.versions import (
    PYTHON_VERSION,
    SAVED_MODEL_FILES,
    Latest,
    ModelConfig,
    Specific,
    VersionDir,
    VersionPolicy,
)

#: The versions to serve, newest first, and everything that is wrong.
Findings = tuple[tuple[VersionDir, ...], tuple[str, ...]]
#: Instead of a fault: not examined yet.
_UNEXAMINED = ""


@dataclass(frozen=True)
class ModelVersions:
    """The result of one poll for a model."""

    #: What is to be served, newest first; what it was before if the base path can't be read.
    wanted: tuple[VersionDir, ...]
    #: Wanted now, and not by the poll before.
    appeared: tuple[VersionDir, ...] = ()
    #: Wanted by the poll before, and not now.
    disappeared: tuple[VersionDir, ...] = ()
    #: What is wrong since this poll. A problem that stays is reported once.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changes:
    """The result of one poll, by model. A model that the configuration dropped is there once, with nothing wanted."""

    models: Mapping[str, ModelVersions]

    @property
    def any(self) -> bool:
        """Whether anything is to be loaded or unloaded."""
        return any(model.appeared or model.disappeared for model in self.models.values())


class Watcher:
    """Polls the base paths of a configuration. Used by one thread, in the process that decides what is served."""

    def __init__(self, configs: Iterable[ModelConfig] = (), local: Callable[[ModelConfig], Path] | None = None) -> None:
        """Watch these models.

        Args:
            configs: the models.
            local: returns the directory with a model's versions on this machine; None: the one that its configuration
                names, which is none for a model with a URL.
        """
        self._local = local or (lambda config: Path(config.source))
        self._configs: dict[str, ModelConfig] = {}
        self._paths: dict[str, BasePath] = {}
        self._wanted: dict[str, tuple[VersionDir, ...]] = {}
        self._reported: dict[str, frozenset[str]] = {}
        self._moved: set[str] = set()
        self.configure(configs)

    def configure(self, configs: Iterable[ModelConfig]) -> None:
        """Watch these models and no others from the next poll on. What is known of those that stay is not lost."""
        self._configs = {config.name: config for config in configs}
        paths = {name: self._local(config) for name, config in self._configs.items() if config.platform != "python"}
        same = {name: path for name, path in self._paths.items() if paths.get(name) == path.base_path}
        self._moved = {name for name in paths if name in self._wanted and name not in same}
        self._paths = {name: same.get(name) or BasePath(path) for name, path in paths.items()}

    def poll(self, *, settled: bool = False) -> Changes:
        """Look at every base path once.

        Args:
            settled: want a version that is complete at first sight: at the start, where a second poll would only cost
                time. Otherwise a version must look the same in two polls.
        """
        names = dict.fromkeys((*self._wanted, *self._configs))
        return Changes({name: self._poll_model(name, settled=settled) for name in names})

    def _poll_model(self, name: str, *, settled: bool) -> ModelVersions:
        before = self._wanted.get(name, ())
        if name not in self._configs:
            self._wanted.pop(name)
            self._reported.pop(name, None)
            return ModelVersions((), disappeared=before)
        wanted, problems = self._find_wanted(self._configs[name], before, settled=settled)
        reported = self._reported.get(name, frozenset())
        self._reported[name], self._wanted[name] = frozenset(problems), wanted
        return ModelVersions(
            wanted,
            tuple(version for version in wanted if version not in before),
            tuple(version for version in before if version not in wanted),
            tuple(problem for problem in problems if problem not in reported),
        )

    def _find_wanted(self, config: ModelConfig, before: tuple[VersionDir, ...], *, settled: bool) -> Findings:
        if config.platform == "python":
            return (VersionDir(PYTHON_VERSION, Path(config.source)),), ()
        # A model that moves to another base path must not be without a version until the second poll.
        moved = config.name in self._moved
        self._moved.discard(config.name)
        return self._paths[config.name].poll(config.policy, before, settled=settled or moved)


@dataclass
class _VersionCheck:
    """What is known of a version's directory."""

    snapshot: Snapshot | None = None
    #: What it lacks, for `snapshot`; None if it is complete.
    fault: str | None = _UNEXAMINED
    #: The graph's file when the version was found complete.
    graph: FileStat | None = None


class BasePath:
    """A base path and what is known of its versions: which are complete, and which of these a policy wants."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self._examined: dict[Path, _VersionCheck] = {}

    def poll(self, policy: VersionPolicy, before: tuple[VersionDir, ...], *, settled: bool = False) -> Findings:
        """Return the versions to serve, newest first, and everything that is wrong now.

        Args:
            policy: which of the complete versions are to be served.
            before: what was wanted so far; it stays so if the base path can't be read.
            settled: whether one poll is enough.
        """
        try:
            present = versions.list_versions(self.base_path)
        except ModelLoadError as error:
            return before, (error.message,)
        twins = versions.find_twins(self.base_path, present)
        served = {version.version: version for version in before if version in present}
        # Of twins, the one that is served goes on; without one, there is no telling which is meant.
        candidates = {
            version.version: version
            for version in present
            if version.version not in twins or served.get(version.version) == version
        }
        paths = {version.path for version in candidates.values()}
        self._examined = {path: examined for path, examined in self._examined.items() if path in paths}
        problems = list(twins.values())
        wanted = self._choose(policy, candidates, problems, settled=settled)
        problems.extend(self._missing(policy, {version.version for version in present}))
        return wanted, tuple(problems)

    def _choose(
        self, policy: VersionPolicy, candidates: dict[int, VersionDir], problems: list[str], *, settled: bool
    ) -> tuple[VersionDir, ...]:
        """Return the complete versions that the policy asks for; Latest gets older ones in place of others."""
        most = policy.num_versions if isinstance(policy, Latest) else len(candidates)
        asked = sorted(candidates, reverse=True) if isinstance(policy, Latest) else policy.among(candidates)
        wanted: list[VersionDir] = []
        for version in asked:
            if len(wanted) == most:
                break
            path = candidates[version].path
            fault = self._examine(path, settled=settled)
            if fault is None:
                wanted.append(candidates[version])
                problems.extend(self._rewritten(path))
            elif fault != _UNEXAMINED:
                problems.append(f"{path}: is incomplete: {fault}")
        return tuple(wanted)

    def _examine(self, path: Path, *, settled: bool) -> str | None:
        """Return what a version lacks; None if it is complete, _UNEXAMINED if it changed since the last poll."""
        examined = self._examined.setdefault(path, _VersionCheck())
        if examined.graph is not None:
            return None
        try:
            snapshot = integrity.scan(path)
        except (OSError, CorruptFile) as error:
            examined.snapshot = None
            return f"it can't be looked into: {error}"
        if snapshot != examined.snapshot:
            examined.snapshot, examined.fault = snapshot, _UNEXAMINED
            if not settled:
                return _UNEXAMINED
        if examined.fault == _UNEXAMINED:
            examined.fault = self._find_fault(path, snapshot)
        if examined.fault is None and not settled and (name := integrity.new_empty_asset(snapshot)) is not None:
            return f"{name} is empty: it is waited for"
        if examined.fault is None:
            examined.graph = next(snapshot[name] for name in SAVED_MODEL_FILES if name in snapshot)
        return examined.fault

    def _find_fault(self, path: Path, snapshot: Snapshot) -> str | None:
        fault = integrity.find_fault(path, snapshot)
        try:
            # The files that were read must be those of the snapshot.
            return fault if integrity.scan(path) == snapshot else _UNEXAMINED
        except (OSError, CorruptFile):
            return _UNEXAMINED

    def _rewritten(self, path: Path) -> Iterable[str]:
        graph = integrity.graph_stat(path)
        # No graph: the version is being removed, and will be gone from the base path next.
        if graph is not None and graph != self._examined[path].graph:
            yield f"{path}: was written again after it was found complete, which has no effect: give it a new number"

    def _missing(self, policy: VersionPolicy, present: set[int]) -> Iterable[str]:
        if isinstance(policy, Specific):
            return [
                f"{self.base_path}: has no version {version}, which the policy names"
                for version in policy.versions
                if version not in present
            ]
        return [] if present else [versions.explain_no_version(self.base_path)]

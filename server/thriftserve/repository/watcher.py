"""Which versions are wanted now: configuration and directories, looked at again and again.

    ModelConfigs + base paths  --poll-->  Changes: for each model wanted, appeared, disappeared, problems

It has no thread and no clock: whoever owns it calls `poll` every second or so, from one thread.

    >>> watcher = Watcher([ModelConfig("digits", "tensorflow", "/models/digits")])
    >>> watcher.poll().models["digits"].problems
    ('/models/digits: there is no such directory',)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from thriftserve.errors import ModelLoadError
from thriftserve.repository import integrity, versions
from thriftserve.repository.integrity import FileStat, Snapshot
from thriftserve.repository.protobuf import CorruptFile
from thriftserve.repository.versions import PYTHON_VERSION, Latest, ModelConfig, Specific, VersionDir, VersionPolicy

# One base path, looked at again and again: which of its versions are whole, and which are to be served.

Found = tuple[tuple[VersionDir, ...], tuple[str, ...]]


@dataclass
class _Seen:
    """What is known of a version's directory."""

    snapshot: Snapshot | None = None
    #: What it lacks, for `snapshot`; "" where nothing was looked for yet, None where it is whole.
    fault: str | None = ""
    #: The graph's file when the version was found whole.
    whole: FileStat | None = None


class BasePath:
    """A base path and what is known of its versions."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self._seen: dict[Path, _Seen] = {}

    def poll(self, policy: VersionPolicy, before: tuple[VersionDir, ...], *, settled: bool = False) -> Found:
        """The versions to serve, newest first, and everything that is wrong now.

        Args:
            policy: which of the whole versions are to be served.
            before: what was wanted so far; it stays so where the base path can't be read.
            settled: whether one look is enough.
        """
        try:
            found = versions.versions(self.base_path)
        except ModelLoadError as error:
            return before, (error.message,)
        twins = versions.twins(self.base_path, found)
        held = {one.version: one for one in before if one in found}
        # Of twins, the one that serves goes on; where none does, there is no telling which is meant.
        candidates = {one.version: one for one in found if one.version not in twins or held.get(one.version) == one}
        self._forget(candidates.values())
        problems = list(twins.values())
        wanted = self._whole(policy, candidates, problems, settled=settled)
        problems.extend(self._missing(policy, {one.version for one in found}))
        return wanted, tuple(problems)

    def _whole(
        self, policy: VersionPolicy, candidates: dict[int, VersionDir], problems: list[str], *, settled: bool
    ) -> tuple[VersionDir, ...]:
        """The whole versions among those that the policy asks for: for Latest, older ones in place of others."""
        most = policy.num_versions if isinstance(policy, Latest) else len(candidates)
        asked = sorted(candidates, reverse=True) if isinstance(policy, Latest) else policy.among(candidates)
        wanted: list[VersionDir] = []
        for version in asked:
            if len(wanted) == most:
                break
            told = self._look(candidates[version].path, settled=settled)
            if told is None:
                wanted.append(candidates[version])
                problems.extend(self._rewritten(candidates[version].path))
            elif told:
                problems.append(f"{candidates[version].path}: is not whole: {told}")
        return tuple(wanted)

    def _look(self, path: Path, *, settled: bool) -> str | None:
        """What a version lacks; "" where it changed since the last look, None where it is whole."""
        seen = self._seen.setdefault(path, _Seen())
        if seen.whole is not None:
            return None
        try:
            snapshot = integrity.look(path)
        except (OSError, CorruptFile) as error:
            seen.snapshot = None
            return f"it can't be looked into: {error}"
        if snapshot != seen.snapshot:
            seen.snapshot, seen.fault = snapshot, ""
            if not settled:
                return ""
        if seen.fault == "":
            seen.fault = self._fault(path, snapshot)
        if seen.fault is None:
            seen.whole = next(snapshot[name] for name in (integrity.PB, integrity.PBTXT) if name in snapshot)
        return seen.fault

    def _rewritten(self, path: Path) -> Iterable[str]:
        found, seen = integrity.look_at_graph(path), self._seen[path]
        # Nothing to be seen: it is being removed, and will be gone from the base path next.
        if found is not None and found != seen.whole:
            yield f"{path}: was written again after it was found whole, which has no effect: give it a new number"

    def _fault(self, path: Path, snapshot: Snapshot) -> str | None:
        told = integrity.fault(path, snapshot)
        try:
            # What was read must be what the snapshot has seen.
            return told if integrity.look(path) == snapshot else ""
        except (OSError, CorruptFile):
            return ""

    def _missing(self, policy: VersionPolicy, found: set[int]) -> Iterable[str]:
        if isinstance(policy, Specific):
            return [
                f"{self.base_path}: has no version {version}, which the policy names"
                for version in policy.versions
                if version not in found
            ]
        return [] if found else [versions.why_none(self.base_path)]

    def _forget(self, there: Iterable[VersionDir]) -> None:
        kept = {one.path for one in there}
        self._seen = {path: seen for path, seen in self._seen.items() if path in kept}


@dataclass(frozen=True)
class ModelVersions:
    """What one poll found of a model."""

    #: What is to be served, newest first; where the base path can't be read, what it was before.
    wanted: tuple[VersionDir, ...]
    #: Wanted now and not by the poll before.
    appeared: tuple[VersionDir, ...] = ()
    #: Wanted by the poll before and not now.
    disappeared: tuple[VersionDir, ...] = ()
    #: What is wrong since this poll; what was said before and still is so is not said again.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changes:
    """What one poll found, by model. A model that the configuration has dropped is there once, with nothing wanted."""

    models: Mapping[str, ModelVersions]

    @property
    def any(self) -> bool:
        """Whether anything is to be loaded or unloaded."""
        return any(one.appeared or one.disappeared for one in self.models.values())


class Watcher:
    """Looks at the base paths of a configuration."""

    def __init__(self, configs: Iterable[ModelConfig] = (), local: Callable[[ModelConfig], Path] | None = None) -> None:
        """Watches these models.

        Args:
            configs: the models.
            local: where the versions of a model lie on this machine; None: where its configuration says, which
                for a model with a URL is nowhere.
        """
        self._local = local or (lambda config: Path(config.source))
        self._configs: dict[str, ModelConfig] = {}
        self._paths: dict[str, BasePath] = {}
        self._wanted: dict[str, tuple[VersionDir, ...]] = {}
        self._told: dict[str, frozenset[str]] = {}
        self._moved: set[str] = set()
        self.configure(configs)

    def configure(self, configs: Iterable[ModelConfig]) -> None:
        """Watches these models and no others from the next poll on; what is known of those that stay is kept."""
        self._configs = {one.name: one for one in configs}
        paths = {name: self._local(one) for name, one in self._configs.items() if one.platform != "python"}
        kept = {name: one for name, one in self._paths.items() if paths.get(name) == one.base_path}
        self._moved = {name for name in paths if name in self._wanted and name not in kept}
        self._paths = {name: kept.get(name) or BasePath(path) for name, path in paths.items()}

    def poll(self, *, settled: bool = False) -> Changes:
        """Looks at every base path once.

        Args:
            settled: take a version that is whole at first sight: for the start, where waiting for a second look
                would only cost time. Otherwise a version must look the same in two polls.
        """
        names = list(dict.fromkeys((*self._wanted, *self._configs)))
        return Changes({name: self._poll(name, settled=settled) for name in names})

    def _poll(self, name: str, *, settled: bool) -> ModelVersions:
        before = self._wanted.get(name, ())
        if name not in self._configs:
            self._wanted.pop(name)
            self._told.pop(name, None)
            return ModelVersions((), disappeared=before)
        wanted, problems = self._found(self._configs[name], before, settled=settled)
        told = self._told.get(name, frozenset())
        self._told[name], self._wanted[name] = frozenset(problems), wanted
        return ModelVersions(
            wanted,
            tuple(one for one in wanted if one not in before),
            tuple(one for one in before if one not in wanted),
            tuple(one for one in problems if one not in told),
        )

    def _found(self, config: ModelConfig, before: tuple[VersionDir, ...], *, settled: bool) -> Found:
        if config.platform == "python":
            return (VersionDir(PYTHON_VERSION, Path(config.source)),), ()
        # A model that moves to another base path must not be without a version until the second look.
        moved = config.name in self._moved
        self._moved.discard(config.name)
        return self._paths[config.name].poll(config.policy, before, settled=settled or moved)

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

from thriftserve.models.repository import PYTHON_VERSION, ModelConfig, VersionDir
from thriftserve.models.watched import Found, WatchedPath


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
        self._paths: dict[str, WatchedPath] = {}
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
        self._paths = {name: kept.get(name) or WatchedPath(path) for name, path in paths.items()}

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

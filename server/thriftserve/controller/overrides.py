"""What operators asked for; it goes before the configuration.

load, unload, fetch  -->  OperatorOverrides (wishes.json)  -->  configs, versions to serve

Overrides outlive a restart. They are dropped when the configuration is read again, or is another one at the next start.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig, Specific, VersionDir, list_versions, parse_model_flag

_FILE = "wishes"

log = logging.getLogger(__name__)


class OperatorOverrides:
    """The overrides of a server, written down with each change. Used by one thread at a time.

    Args:
        configured: the models of the configuration; overrides of another configuration are dropped.

    Attributes:
        fetches: the fetches that are under way, as JSON can hold them.
    """

    def __init__(self, state: StateDir, configured: Iterable[ModelConfig]) -> None:
        self._state = state
        self._configuration = _digest(configured)
        saved = state.read(_FILE)
        if saved is not None and saved.get("configuration") != self._configuration:
            log.info("the configuration has changed: models loaded and unloaded by operators before are dropped")
            saved = None
        #: Base path and version (None: the newest) by model.
        self._loaded: dict[str, list[Any]] = saved["loaded"] if saved else {}
        #: Model and version (None: all of them).
        self._unloaded: list[list[Any]] = saved["unloaded"] if saved else []
        self.fetches: list[dict[str, Any]] = saved["fetching"] if saved else []

    def load(self, name: str, source: str, version: int | None) -> None:
        """Have a model served from a base path: one version of it, or the newest if None."""
        self._loaded[name] = [source, version]
        self._unloaded = [unloaded for unloaded in self._unloaded if unloaded[0] != name]
        self._save()

    def unload(self, name: str, version: int | None) -> None:
        """Have a model, or one version of it, served no more."""
        self._unloaded.append([name, version])
        if version is None:
            self._loaded.pop(name, None)
        self._save()

    def set_fetches(self, fetches: list[dict[str, Any]]) -> None:
        """Note which fetches are under way."""
        self.fetches = fetches
        self._save()

    def reset(self, configured: Iterable[ModelConfig]) -> None:
        """Drop all overrides, for this configuration was read."""
        self._configuration = _digest(configured)
        self._loaded, self._unloaded, self.fetches = {}, [], []
        self._save()

    def drop_missing(self) -> None:
        """Drop loaded models whose versions are gone from disk; called at a start."""
        for name, (source, version) in list(self._loaded.items()):
            try:
                present = {directory.version for directory in list_versions(Path(source))}
            except ModelLoadError:
                present = set()
            if not present or version not in (None, *present):
                missing = f"version {version} is" if version is not None else "all versions are"
                log.warning("model %s, loaded by an operator: %s no longer in %s; dropped", name, missing, source)
                del self._loaded[name]
                self._save()

    def configs(self, configured: Iterable[ModelConfig]) -> tuple[ModelConfig, ...]:
        """Return the models to serve: those configured with the overrides applied."""
        configs = {config.name: config for config in configured}
        for name, (source, version) in self._loaded.items():
            old = configs.get(name)
            new = parse_model_flag(f"{name}={source}")
            if old is not None and old.source == new.source:
                new = old
            configs[name] = new if version is None else replace(new, policy=Specific((version,)))
        return tuple(config for config in configs.values() if [config.name, None] not in self._unloaded)

    def versions(self, name: str, wanted: Sequence[VersionDir]) -> tuple[VersionDir, ...]:
        """Return those of a model's wanted versions that are not unloaded."""
        return tuple(version for version in wanted if [name, version.version] not in self._unloaded)

    def _save(self) -> None:
        content = {
            "configuration": self._configuration,
            "loaded": self._loaded,
            "unloaded": self._unloaded,
            "fetching": self.fetches,
        }
        self._state.write(_FILE, content, mode=0o600)  # URLs may hold passwords and signatures


def _digest(configured: Iterable[ModelConfig]) -> str:
    return hashlib.sha256(repr(tuple(configured)).encode()).hexdigest()

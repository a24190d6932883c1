"""What operators asked for on top of the configuration.

    load, unload  -->  Wishes  --apply-->  ModelConfigs, versions

What was loaded and unloaded by command stays so until the configuration is read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from thriftserve.models.repository import ModelConfig, VersionDir, parse_model_flag
from thriftserve.models.state import StateDir
from thriftserve.models.version_policy import Specific

_FILE = "wishes"


class Wishes:
    """They are written down as they come; a keeper that takes over from one that died finds them."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        models = state.read(_FILE) or {"loaded": {}, "unloaded": []}
        self._loaded: dict[str, list[Any]] = models["loaded"]
        self._unloaded: list[list[Any]] = models["unloaded"]

    def load(self, name: str, source: str, version: int | None) -> None:
        """A model is to be served from a base path, that one version of it or the newest."""
        self._loaded[name] = [source, version]
        self._unloaded = [each for each in self._unloaded if each[0] != name]
        self._keep_models()

    def unload(self, name: str, version: int | None) -> None:
        """A model, or one version of it, is not to be served."""
        self._unloaded.append([name, version])
        if version is None:
            self._loaded.pop(name, None)
        self._keep_models()

    def forget_models(self) -> None:
        """The configuration alone holds."""
        self._loaded, self._unloaded = {}, []
        self._keep_models()

    def _keep_models(self) -> None:
        self._state.write(_FILE, {"loaded": self._loaded, "unloaded": self._unloaded})

    def configs(self, configured: Iterable[ModelConfig]) -> tuple[ModelConfig, ...]:
        """The models to serve."""
        found = {one.name: one for one in configured}
        for name, (source, version) in self._loaded.items():
            old = found.get(name)
            new = parse_model_flag(f"{name}={source}")
            if old is not None and old.source == new.source:
                new = old
            found[name] = new if version is None else replace(new, policy=Specific((version,)))
        return tuple(one for one in found.values() if [one.name, None] not in self._unloaded)

    def versions(self, name: str, found: Iterable[VersionDir]) -> tuple[VersionDir, ...]:
        """Those of a model's versions that nobody has unloaded."""
        return tuple(one for one in found if [name, one.version] not in self._unloaded)

"""What operators asked for on top of the configuration.

    load, unload  -->  Wishes  --apply-->  ModelConfigs, versions

What was loaded and unloaded by command stays so, over restarts too, until the configuration is read again or says
something else than it did.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thriftserve.errors import ModelLoadError
from thriftserve.repository import versions as repository
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import ModelConfig, Specific, VersionDir, parse_model_flag

log = logging.getLogger(__name__)

_FILE = "wishes"


class OperatorOverrides:
    """They are written down as they come; a keeper or a server that takes over finds them.

    Args:
        configured: what the configuration asks for: wishes for another one hold no more.
    """

    def __init__(self, state: StateDir, configured: Iterable[ModelConfig]) -> None:
        self._state = state
        self._of = _digest(configured)
        kept = state.read(_FILE)
        if kept is not None and kept.get("configuration") != self._of:
            log.info("the configuration has changed: what was loaded and unloaded by command before holds no more")
            kept = None
        self._loaded: dict[str, list[Any]] = kept["loaded"] if kept else {}
        self._unloaded: list[list[Any]] = kept["unloaded"] if kept else []
        #: Models that are to be fetched, as JSON can hold them.
        self.fetching: list[dict[str, Any]] = kept["fetching"] if kept else []

    def load(self, name: str, source: str, version: int | None) -> None:
        """A model is to be served from a base path, that one version of it or the newest."""
        self._loaded[name] = [source, version]
        self._unloaded = [each for each in self._unloaded if each[0] != name]
        self._keep()

    def unload(self, name: str, version: int | None) -> None:
        """A model, or one version of it, is not to be served."""
        self._unloaded.append([name, version])
        if version is None:
            self._loaded.pop(name, None)
        self._keep()

    def fetch(self, fetching: list[dict[str, Any]]) -> None:
        """These are to be fetched, and no others."""
        self.fetching = fetching
        self._keep()

    def forget_models(self, configured: Iterable[ModelConfig]) -> None:
        """This configuration alone holds."""
        self._of = _digest(configured)
        self._loaded, self._unloaded, self.fetching = {}, [], []
        self._keep()

    def forget_missing(self) -> None:
        """Models that are not where they were, after a restart: the configuration holds for them."""
        for name, (source, version) in list(self._loaded.items()):
            try:
                there = {one.version for one in repository.list_versions(Path(source))}
            except ModelLoadError:
                there = set()
            if not there or version not in (None, *there):
                what = f"version {version}" if version is not None else "any version"
                log.warning("model %s was loaded by command from %s, which has not %s now", name, source, what)
                del self._loaded[name]
                self._keep()

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

    def versions(self, name: str, found: Sequence[VersionDir]) -> tuple[VersionDir, ...]:
        """Those of a model's versions that nobody has unloaded."""
        return tuple(one for one in found if [name, one.version] not in self._unloaded)

    def _keep(self) -> None:
        content = {
            "configuration": self._of,
            "loaded": self._loaded,
            "unloaded": self._unloaded,
            "fetching": self.fetching,
        }
        self._state.write(_FILE, content, mode=0o600)  # URLs may hold passwords and signatures


def _digest(configured: Iterable[ModelConfig]) -> str:
    return hashlib.sha256(repr(tuple(configured)).encode()).hexdigest()

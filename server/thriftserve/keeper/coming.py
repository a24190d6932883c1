"""Versions that operators have asked for and that are in no plan yet.

ask, fetch  -->  coming: START, with a note of how far  -->  planned | failed, with the reason
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from thriftserve.keeper.fetches import Fetches, Wanted
from thriftserve.keeper.fetching import Limits
from thriftserve.keeper.shelf import Shelf
from thriftserve.keeper.wishes import Wishes
from thriftserve.models.state import Failed, StateDir
from thriftserve.models.states import VersionStatus
from thriftserve.settings import ServeSettings
from thriftserve_idl.ttypes import ModelState

Version = tuple[str, int]


class Coming:
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
        wishes: Wishes,
        lock: threading.RLock,
        landed: Callable[[str, Path, int], set[Path]],
        changed: Callable[[], None],
    ) -> None:
        self._landed = landed
        self._asked: set[Version] = set()
        self.shelf = Shelf.of(settings(), state)
        self.fetches = Fetches(wishes, self.shelf, lambda: Limits.of(settings()), lock, self._has_landed, changed)

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

    def failures(self) -> dict[Version, Failed]:
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

    def _has_landed(self, wanted: Wanted) -> set[Path]:
        self.ask(wanted.name, wanted.version)
        return self._landed(wanted.name, self.shelf.base_path(wanted.name), wanted.version)

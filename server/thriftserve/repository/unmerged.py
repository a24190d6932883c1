"""Models whose requests must not share runs, as a worker found while it served: told to the other workers.

worker: add --unmerged/PID-N.json--> every worker: new, when the directory has changed

It holds as long as the server runs: a restart tries the models anew.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

from thriftserve.repository.state_store import StateDir

#: A directory that changed so lately may change again without showing it: file systems' clocks are coarse.
_COARSE_NS = 100_000_000

log = logging.getLogger(__name__)


class UnmergedModels:
    """One worker's view of them. Threads may share it."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._number = 0
        self._seen: set[str] = set()
        self._changed_ns = 0

    def add(self, name: str, version: int, why: str) -> None:
        """Tells every worker of a model; one that can't be told hears nothing, and this one goes on."""
        self._number += 1
        try:
            self._state.write(f"unmerged/{os.getpid()}-{self._number}", [name, version, why], durable=False)
        except OSError as error:
            log.error("the other workers can't be told that requests for %s share no more runs: %s", name, error)

    def new(self) -> Iterator[tuple[tuple[str, int], str]]:
        """(model, version) and why, of those that no earlier call gave. Where nothing is new it costs a `stat`."""
        try:
            changed_ns = self._state.unmerged.stat().st_mtime_ns
        except OSError:
            return
        if changed_ns == self._changed_ns:
            return
        if time.time_ns() - changed_ns > _COARSE_NS:
            self._changed_ns = changed_ns
        for path in sorted(self._state.unmerged.glob("*.json")):
            content = None if path.stem in self._seen else self._state.read(f"unmerged/{path.stem}")
            if content is not None:
                self._seen.add(path.stem)
                name, version, why = content
                yield (name, version), why

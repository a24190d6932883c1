"""Models whose requests must not share runs: one worker finds out, all workers hear of it.

worker: add  --unmerged/PID-N.json-->  every worker: new, when the directory has changed

It holds as long as the server runs: a restart tries the models again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

from thriftserve.repository.state_store import UNMERGED, StateDir

#: A directory that changed so recently may change again without a new time stamp: file systems' clocks are coarse.
_CLOCK_STEP_NS = 100_000_000

log = logging.getLogger(__name__)


class UnmergedModels:
    """One worker's view of them. Threads may share it."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._number = 0
        self._seen: set[str] = set()
        self._changed_ns = 0

    def add(self, name: str, version: int, why: str) -> None:
        """Tell every worker of a model. If that fails it is logged, and this worker goes on."""
        self._number += 1
        try:
            self._state.write(f"{UNMERGED}/{os.getpid()}-{self._number}", [name, version, why], durable=False)
        except OSError as error:
            log.error("model %s: can't tell the other workers to stop merging its requests: %s", name, error)

    def new(self) -> Iterator[tuple[tuple[str, int], str]]:
        """Yield (model, version) and the reason of those that no earlier call yielded.

        If nothing is new, a call costs one `stat`.
        """
        try:
            changed_ns = (self._state.path / UNMERGED).stat().st_mtime_ns
        except OSError:
            return
        if changed_ns == self._changed_ns:
            return
        if time.time_ns() - changed_ns > _CLOCK_STEP_NS:
            self._changed_ns = changed_ns
        for file in self._state.names(UNMERGED):
            content = None if file in self._seen else self._state.read(file)
            if content is not None:
                self._seen.add(file)
                name, version, why = content
                yield (name, version), why

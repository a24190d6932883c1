"""Models that are being fetched by URL: one of each name at a time, in a process of its own.

    begin(Wanted) --thriftserve.keeper.fetcher--> notes: how far   -->  FETCH_DIR/NAME/VERSION, landed(Wanted)
                                                  another try, later and later   -->  failed: why
    cancel, a later begin  -->  that process killed

What is wanted is among the wishes: a keeper or a server that takes over goes on with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from thriftserve.errors import Code
from thriftserve.fetch.staging import discard
from thriftserve.keeper.fetching import Fetching, Limits, Outcome
from thriftserve.keeper.shelf import Shelf
from thriftserve.keeper.wishes import Wishes
from thriftserve.models.state import Failed
from thriftserve.models.states import KEPT_ENDED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A model to fetch."""

    name: str
    version: int
    url: str
    sha256: str | None = None


class Fetches:
    """Those of a server. Call it with `lock` held.

    Args:
        wishes: where it is written what is wanted.
        shelf: where they land.
        limits: asked when one begins.
        lock: held when `landed` is called, from a thread of its own.
        landed: told of each that has become a version directory; says which of those are in use.
        changed: told when there is something new to say of one; called without the lock.
    """

    def __init__(
        self,
        wishes: Wishes,
        shelf: Shelf,
        limits: Callable[[], Limits],
        lock: threading.RLock,
        landed: Callable[[Wanted], set[Path]],
        changed: Callable[[], None],
    ) -> None:
        self._wishes = wishes
        self._shelf = shelf
        self._limits = limits
        self._lock = lock
        self._landed = landed
        self._changed = changed
        self._running: dict[str, tuple[Wanted, Fetching]] = {}
        self._ending: dict[str, Fetching] = {}
        self._failed: dict[tuple[str, int], Failed] = {}

    def resume(self) -> None:
        """Goes on with what was wanted when a keeper before this one ended."""
        for content in self._wishes.fetching:
            wanted = Wanted(**content)
            log.info("the fetch of model %s version %d goes on", wanted.name, wanted.version)
            try:
                self._go_on(wanted)
            except OSError as error:  # its place can't be looked into now: what is served is not touched by that
                self._fail(wanted, Code.FAILED_PRECONDITION, f"{error.filename}: {error.strerror}")
        self._keep()

    def begin(self, wanted: Wanted) -> None:
        """Fetches a model, where it is not there yet; one of its name that is being fetched is given up for it.

        Raises:
            FailedPrecondition: that version is there, and came from another place.
        """
        found = self._running.get(wanted.name)
        if found is not None and found[0] == wanted:
            return
        self._shelf.expect(wanted.name, wanted.version, wanted.url, wanted.sha256)
        self.cancel(wanted.name, why="another load of the model took its place")
        self._failed.pop((wanted.name, wanted.version), None)
        self._go_on(wanted)
        self._keep()

    def same(self, name: str, url: str, sha256: str | None) -> Wanted | None:
        """What is being fetched of a model, where it is that URL."""
        found = self._running.get(name)
        return found[0] if found is not None and (found[0].url, found[0].sha256) == (url, sha256) else None

    def cancel(self, name: str, version: int | None = None, *, why: str | None = None) -> None:
        """Ends the fetch of a model, or of that version of it; what came is removed.

        Args:
            why: what is told of that version from then on; None: nothing, nor of one that failed.
        """
        if why is None:
            self._failed = {
                key: one for key, one in self._failed.items() if key[0] != name or version not in (None, key[1])
            }
        found = self._running.get(name)
        if found is None or version not in (None, found[0].version):
            return
        wanted, fetching = self._running.pop(name)
        log.info("the fetch of model %s version %d is given up%s", name, wanted.version, f": {why}" if why else "")
        fetching.cancel()
        self._ending[name] = fetching
        if why is not None:
            self._fail(wanted, Code.ABORTED, f"not fetched: {why}")
        self._keep()

    def cancel_all(self, why: str) -> None:
        """Ends every fetch, and forgets those that failed."""
        self._failed.clear()
        for name in list(self._running):
            self.cancel(name, why=why)

    def stop(self) -> None:
        """Ends every process; another keeper, or server, goes on with what is wanted."""
        for _, fetching in self._running.values():
            fetching.kill()

    def notes(self) -> dict[tuple[str, int], str]:
        """How far each is."""
        return {(name, wanted.version): fetching.note for name, (wanted, fetching) in self._running.items()}

    def failed(self) -> dict[tuple[str, int], Failed]:
        """Those that have failed, until they are wanted again, or their model is unloaded, or the next reload."""
        return dict(self._failed)

    @property
    def names(self) -> frozenset[str]:
        """Models of which there is something to tell."""
        return frozenset((*self._running, *(name for name, _ in self._failed)))

    def _go_on(self, wanted: Wanted) -> None:
        target = self._shelf.version(wanted.name, wanted.version)
        if target.exists():  # it lands by one rename
            discard(target)
            self._landed(wanted)
        else:
            self._start(wanted)

    def _start(self, wanted: Wanted) -> None:
        def ended(outcome: Outcome) -> None:
            with self._lock:
                used = self._end(wanted, fetching, outcome)
            self._changed()
            if used is not None:
                self._shelf.tidy(wanted.name, used)

        fetching = Fetching(
            wanted.url,
            self._shelf.version(wanted.name, wanted.version),
            wanted.sha256,
            self._limits(),
            self._ending.pop(wanted.name, None),
            ended,
        )
        self._running[wanted.name] = wanted, fetching
        fetching.start()

    def _end(self, wanted: Wanted, fetching: Fetching, outcome: Outcome) -> set[Path] | None:
        """Takes note of how one has ended; the version directories in use where it landed."""
        used = None
        found = self._running.get(wanted.name)
        if found is None or found[1] is not fetching:  # given up meanwhile
            return None
        if outcome.error is None:
            # First it is to be served, then it is fetched no more: a keeper that is killed in between does it again.
            used = {*self._landed(wanted), self._shelf.version(wanted.name, wanted.version)}
        else:
            code, message = outcome.error
            log.error("model %s version %d can't be fetched: %s", wanted.name, wanted.version, message)
            self._fail(wanted, code, message)
        del self._running[wanted.name]
        self._keep()
        return used

    def _fail(self, wanted: Wanted, code: Code, message: str) -> None:
        key = wanted.name, wanted.version
        self._failed.pop(key, None)
        self._failed[key] = Failed(*key, code, message)
        for old in [each for each in self._failed if each[0] == wanted.name][:-KEPT_ENDED]:
            del self._failed[old]

    def _keep(self) -> None:
        self._wishes.fetch([asdict(wanted) for wanted, _ in self._running.values()])

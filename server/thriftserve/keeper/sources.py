"""What there is to serve, looked at when it is time: base paths on this machine, and behind URLs.

ModelConfigs  --Watcher, Mirrors-->  wanted: versions by model, once two looks agree
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from thriftserve.keeper.mirrors import Mirrors
from thriftserve.keeper.timing import Timing
from thriftserve.models.repository import ModelConfig, VersionDir
from thriftserve.models.state import Plan
from thriftserve.models.watcher import Watcher

log = logging.getLogger(__name__)


class Sources:
    """Those of the models that are configured now. Of one thread, but for `wake`.

    Args:
        watcher: has looked at the base paths once.
        mirrors: of those that are URLs.
        wake: called, in another thread, when there is something to look at.

    Attributes:
        wanted: the versions to serve by model, newest first.
        due_at: when to look next, monotonic seconds.
    """

    def __init__(
        self, watcher: Watcher, mirrors: Callable[[Callable[[], None]], Mirrors], wake: Callable[[], None]
    ) -> None:
        self._watcher = watcher
        self._mirrors = mirrors(self._landed)
        self._wake = wake
        self._configs: Sequence[ModelConfig] = ()
        self._looks_due = 2
        self._something_landed = False
        self.wanted: dict[str, tuple[VersionDir, ...]] = {}
        self.due_at = 0.0

    @property
    def seen(self) -> bool:
        """Whether enough looks were taken to decide by them."""
        return self._looks_due == 0

    def configure(self, configs: Sequence[ModelConfig], timing: Timing, plans: Collection[Plan], now: float) -> None:
        """Looks at these models from now on, at once."""
        self._configs = configs
        self._watcher.configure(configs)
        self.hold(timing, plans, now)
        self.due_at = 0.0

    def hold(self, timing: Timing, plans: Collection[Plan], now: float) -> None:
        """These plans are served or will be: no copy of what they need is to be removed."""
        self._mirrors.want(self._configs, timing.mirror_s, plans, now)

    def look_anew(self, now: float) -> None:
        """Looks until two looks agree, and at URLs too."""
        self._looks_due, self.due_at = 2, 0.0
        self._mirrors.look(now)

    def look(self, timing: Timing, now: float) -> list[tuple[str, int]]:
        """Looks, where it is time.

        Returns:
            Models and versions that have disappeared.
        """
        self._mirrors.tend(now)
        if self._something_landed:
            self._something_landed = False
            self._looks_due, self.due_at = 2, 0.0
        if now < self.due_at:
            return []
        self._looks_due = max(0, self._looks_due - 1)
        self.due_at = now + (timing.second_look_s if self._looks_due else timing.repository_s or float("inf"))
        remote = {config.name for config in self._configs if config.remote}
        gone: list[tuple[str, int]] = []
        for name, found in self._watcher.poll().models.items():
            self.wanted[name] = found.wanted
            gone += [(name, one.version) for one in found.disappeared]
            # What is wrong behind a URL, its mirror tells; of its copy there is nothing to mend.
            for problem in found.problems if name not in remote else ():
                log.warning("model %s: %s", name, problem)
        return gone

    def close(self) -> None:
        """Ends what runs beside."""
        self._mirrors.close()

    def _landed(self) -> None:
        self._something_landed = True
        self._wake()

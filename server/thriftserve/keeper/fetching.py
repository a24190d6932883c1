"""One model that is being fetched: the process that does it, watched by a thread, and begun again where that may help.

Fetching(url, target)  --start-->  note, note, …  -->  ended(Outcome)     not where it was cancelled or killed
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve.errors import Code
from thriftserve.fetch.staging import discard
from thriftserve.keeper.timing import Timing
from thriftserve.settings import ServeSettings

log = logging.getLogger(__name__)

_PROGRAM = "thriftserve.keeper.fetcher"
#: So many models are downloaded and unpacked at once; others wait.
_AT_ONCE = 4
_places = threading.BoundedSemaphore(_AT_ONCE)


@dataclass(frozen=True)
class Limits:
    """What a fetch may take.

    Attributes:
        max_bytes: of the download.
        timeout_s: the whole of it, pauses between tries included.
        timing: when it is tried again, and how often.
    """

    max_bytes: int
    timeout_s: float
    timing: Timing

    @classmethod
    def of(cls, settings: ServeSettings) -> Limits:
        """As the settings say."""
        return cls(settings.fetch_max_bytes, settings.fetch_timeout_s, Timing.of(settings))


@dataclass(frozen=True)
class Outcome:
    """How a fetch, or a try, ended: well, or with code and words; and whether another try may do better."""

    error: tuple[Code, str] | None = None
    passing: bool = False


class Fetching(threading.Thread):
    """Such a fetch.

    Args:
        before: an earlier one into the same base path that was cancelled: it must have let go first.
        ended: called in this thread.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        sha256: str | None,
        limits: Limits,
        before: Fetching | None,
        ended: Callable[[Outcome], None],
    ) -> None:
        super().__init__(name=f"fetch {target.parent.name} {target.name}", daemon=True)
        self._request = {"url": url, "target": str(target), "sha256": sha256, "max_bytes": limits.max_bytes}
        self._target = target
        self._limits = limits
        self._before = before
        self._ended = ended
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._cancelled = False
        #: How far it is, for people.
        self.note = "about to be fetched"

    def cancel(self) -> None:
        """Ends it soon, and removes what came."""
        self._cancelled = True
        self.kill()

    def kill(self) -> None:
        """Ends it soon; what came stays for a later one."""
        with self._starting:
            self._stopped.set()
            if self._process is not None:
                self._process.kill()

    def run(self) -> None:
        """Fetches, until that has worked, or can't, or was given up."""
        if self._before is not None:
            self._before.join()
            self._before = None
        outcome = self._tried()
        if self._cancelled:
            discard(self._target)
        elif not self._stopped.is_set():
            self._ended(outcome)

    def _tried(self) -> Outcome:
        """The outcome of as many tries as there may be."""
        end, tries = time.monotonic() + self._limits.timeout_s, 0
        while True:
            self.note = "waits for other fetches"
            with _places:
                outcome = self._try(end - time.monotonic())
            tries += 1
            if outcome.error is None or not outcome.passing or self._stopped.is_set():
                return outcome
            pause_s = self._limits.timing.pause_s(tries)
            if time.monotonic() + pause_s >= end:
                return outcome
            self.note = f"fetched again in {pause_s:g} s: {outcome.error[1]}"
            log.warning("%s: %s", self.name, self.note)
            self._stopped.wait(pause_s)

    def _try(self, timeout_s: float) -> Outcome:
        with self._starting:
            if self._stopped.is_set():
                return Outcome((Code.CANCELLED, "given up"))
            self.note = "begins"
            self._process = _started()
        with self._process as process:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended before us: its end says why
                process.stdin.write(json.dumps({**self._request, "timeout_s": max(timeout_s, 1.0)}) + "\n")
                process.stdin.flush()
            outcome = None
            for line in process.stdout:
                outcome = self._heard(json.loads(line)) or outcome
            return outcome or _died(process.wait())

    def _heard(self, content: dict[str, Any]) -> Outcome | None:
        if "progress" in content:
            self.note = content["progress"]
        elif "log" in content:
            log.log(content["log"], "%s", content["message"])
        elif "error" in content:
            code, message, passing = content["error"]
            return Outcome((Code(code), message), passing)
        else:
            return Outcome()
        return None


def _died(code: int) -> Outcome:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return Outcome((Code.UNAVAILABLE, f"the process that fetched it ended {how}"), passing=True)


def _started() -> subprocess.Popen[str]:
    # A session of its own: a terminal's Ctrl-C is for the server, which ends it. And modules from where ours are.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )

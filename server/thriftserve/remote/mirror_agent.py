"""The program that mirrors base paths behind URLs, in a process of its own: python -m thriftserve.remote.mirror_agent

    stdin:  {"cache": …, "poll_s": 10, "urls": {"s3://…": {"policies": […], "held": […]}}}  what is wanted
    stdout: {"url": "s3://…", "settled": true, "changed": false, "problems": […]}           after each look
            {"log": 20, "message": "…"}                                                     what there is to log

The file systems of fsspec run threads and may hang, crash or grow: here none of that is anybody else's. It ends with
its stdin, so it outlives nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

from thriftserve.remote.mirror import Mirror, SyncResult, directory_of
from thriftserve.repository.versions import VersionPolicy, policy_from_json

#: After a look that saw something new, the next one comes this soon: it shows whether it has stayed the same.
_SECOND_LOOK_S = 1.0
#: How long a program that takes over waits for the one before it to end.
_LOCK_PATIENCE_S = 10.0
#: What was mirrored of a URL goes so long after the last look at it.
_KEPT_UNUSED_S = 3 * 86400.0
_NICE = 5

log = logging.getLogger(__name__)


class MirrorAgent:
    """Mirrors every URL in a thread of its own: a slow one keeps no other waiting.

    Args:
        out: where reports go, a line each.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._writing = threading.Lock()
        self._threads: dict[str, _UrlThread] = {}
        self._locked: TextIO | None = None

    def want(self, content: Mapping[str, Any]) -> None:
        """Mirrors these URLs and no others from now on, and looks at each of them at once."""
        cache = Path(content["cache"])
        self._lock(cache)
        urls = content["urls"]
        for url, wish in urls.items():
            if url not in self._threads:
                self._threads[url] = _UrlThread(self, Mirror(url, directory_of(cache, url)), url)
            policies = [policy_from_json(one) for one in wish["policies"]]
            self._threads[url].want(policies, wish["held"], content["poll_s"])
        for url, thread in self._threads.items():
            if url not in urls:
                thread.rest()
        _clear(cache, {directory_of(cache, url) for url in urls})

    def tell(self, content: Mapping[str, Any]) -> None:
        """Writes a line."""
        with self._writing, contextlib.suppress(BrokenPipeError):  # stdin has ended too
            self._out.write(json.dumps(content) + "\n")
            self._out.flush()

    def _lock(self, cache: Path) -> None:
        """Keeps other servers out of the cache: two that mirror into one directory would undo each other's work."""
        if self._locked is not None:
            return
        cache.mkdir(parents=True, exist_ok=True)
        file = open(cache / ".lock", "w", encoding="utf-8")  # noqa: SIM115  (held until the process ends)
        until = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > until:
                    raise OSError(f"{cache} is another server's: give each its own model_cache_dir") from None
                time.sleep(0.1)
            else:
                self._locked = file
                return


class _UrlThread:
    """One URL, looked at again and again. The thread never ends: whoever wants the URL again gets the same."""

    def __init__(self, mirroring: MirrorAgent, mirror: Mirror, url: str) -> None:
        self._mirroring = mirroring
        self._mirror = mirror
        self._url = url
        self._wish: tuple[list[VersionPolicy], list[int], float] | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mirror {url}", daemon=True)
        self._thread.start()

    def want(self, policies: list[VersionPolicy], held: list[int], poll_s: float) -> None:
        """What to bring, what not to remove, and seconds between looks; 0: only when told."""
        self._wish = (policies, held, poll_s)
        self._wake.set()

    def rest(self) -> None:
        """Has it do nothing after the look that it is at."""
        self._wish = None

    def _run(self) -> None:
        pause_s: float | None = None
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            pause_s = None
            if self._wish is not None:
                policies, held, poll_s = self._wish
                synced = self._look(policies, held)
                self._tell(synced)
                pause_s = min(poll_s or _SECOND_LOOK_S, _SECOND_LOOK_S) if synced.coming else poll_s or None

    def _tell(self, synced: SyncResult) -> None:
        changed = bool(synced.landed or synced.removed)
        told = {"settled": not synced.coming, "changed": changed, "problems": synced.problems}
        self._mirroring.tell({"url": self._url, **told})

    def _look(self, policies: list[VersionPolicy], held: list[int]) -> SyncResult:
        try:
            synced = self._mirror.sync(*policies, held=held)
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._mirror.directory)  # see _clear
            return synced
        except Exception as error:  # the disk is full, say: the next look may do better
            return SyncResult(problems=(f"{self._url}: can't be mirrored: {error}",))


class _Upward(logging.Handler):
    """Has log records written by the process that has this one's output: it knows how the server logs."""

    def __init__(self, mirroring: MirrorAgent) -> None:
        super().__init__(logging.INFO)
        self._mirroring = mirroring

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a record on."""
        self._mirroring.tell({"log": record.levelno, "message": record.getMessage()})


def _clear(cache: Path, used: Collection[Path]) -> None:
    """Removes what was mirrored of URLs that nobody has wanted for days."""
    for path in cache.iterdir():
        if path.is_dir() and path not in used and time.time() - path.stat().st_mtime > _KEPT_UNUSED_S:
            log.info("%s: mirrors a URL that no model has had for days: removed", path)
            shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Mirrors what stdin says until it ends."""
    os.nice(_NICE)
    mirroring = MirrorAgent(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # what a library prints is no report
    logging.basicConfig(level=logging.WARNING, handlers=[_Upward(mirroring)])
    logging.getLogger("thriftserve").setLevel(logging.INFO)
    for line in sys.stdin:
        try:
            mirroring.want(json.loads(line))
        except OSError as error:
            mirroring.tell({"log": logging.ERROR, "message": f"base paths behind URLs can't be mirrored: {error}"})
            break
    # Not by the interpreter's own end: it would wait for downloads.
    os._exit(0)


if __name__ == "__main__":
    main()

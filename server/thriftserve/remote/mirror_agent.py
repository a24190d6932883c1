"""The program that mirrors base paths behind URLs: python -m thriftserve.remote.mirror_agent

    stdin:  {"cache": …, "poll_s": 10, "urls": {"s3://…": {"policies": […], "protected": […]}}}  what to mirror now
    stdout: {"url": "s3://…", "settled": true, "changed": false, "problems": […]}                after each sync

fsspec's file systems run threads and may hang, crash or grow; in a process of their own they harm nobody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from thriftserve.remote.agent import Parent, run_agent
from thriftserve.remote.mirror import Mirror, SyncResult, mirror_directory
from thriftserve.repository.versions import VersionPolicy, policy_from_json

#: After a sync that saw something new, the next one follows this soon: it shows whether that has stayed the same.
_SECOND_SYNC_S = 1.0
#: How long a new agent waits for the one before it to end.
_LOCK_TIMEOUT_S = 10.0
#: A mirror that no model uses is removed so long after its last sync.
_UNUSED_S = 3 * 86400.0

log = logging.getLogger(__name__)


def main(parent: Parent) -> None:
    """Mirror what the latest command says."""
    agent = MirrorAgent(parent)
    while True:
        command = parent.next_command()
        try:
            agent.configure(command)
        except OSError as error:
            log.error("can't mirror base paths behind URLs: %s", error)
            return


class MirrorAgent:
    """Mirrors every URL in a thread of its own, so that a slow one keeps no other waiting. Used by one thread."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._mirrors: dict[str, _MirrorThread] = {}
        self._lock_file: TextIO | None = None

    def configure(self, command: Mapping[str, Any]) -> None:
        """Mirror the URLs of a command and no others, and sync each of them now.

        Raises:
            OSError: the cache can't be used, or another server uses it.
        """
        cache, urls = Path(command["cache"]), command["urls"]
        self._lock(cache)
        for url, task in urls.items():
            if url not in self._mirrors:
                self._mirrors[url] = _MirrorThread(self._parent, url, mirror_directory(cache, url))
            policies = [policy_from_json(policy) for policy in task["policies"]]
            self._mirrors[url].configure(_MirrorTask(policies, task["protected"], command["poll_s"]))
        for url, mirror in self._mirrors.items():
            if url not in urls:
                mirror.configure(None)
        _remove_unused(cache, {mirror_directory(cache, url) for url in urls})

    def _lock(self, cache: Path) -> None:
        """Keep other servers out of the cache: two that mirror into one directory would undo each other's work."""
        if self._lock_file is not None:
            return
        cache.mkdir(parents=True, exist_ok=True)
        file = open(cache / ".lock", "w", encoding="utf-8")  # noqa: SIM115  (locked until the process ends)
        give_up_at = time.monotonic() + _LOCK_TIMEOUT_S
        while self._lock_file is None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock_file = file
            except OSError:
                if time.monotonic() > give_up_at:
                    raise OSError(
                        f"{cache} is in use by another server: give each server its own mirror_dir or state_dir"
                    ) from None
                time.sleep(0.1)


class _MirrorTask(NamedTuple):
    """What to do for a URL."""

    #: What to bring.
    policies: list[VersionPolicy]
    #: Versions that must not be removed.
    protected: list[int]
    #: Seconds between two syncs; 0: only when a command comes.
    poll_s: float


class _MirrorThread:
    """One URL, synced again and again. The thread never ends: if the URL comes back, it goes on."""

    def __init__(self, parent: Parent, url: str, directory: Path) -> None:
        self._parent = parent
        self._url = url
        self._mirror = Mirror(url, directory)
        self._task: _MirrorTask | None = None
        self._wake = threading.Event()
        threading.Thread(target=self._run, name=f"mirror {url}", daemon=True).start()

    def configure(self, task: _MirrorTask | None) -> None:
        """Sync now and from now on; None: no more after the sync that is running."""
        self._task = task
        if task is not None:
            self._wake.set()

    def _run(self) -> None:
        pause_s: float | None = None
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            pause_s = None
            task = self._task
            if task is not None:
                result = self._sync(task)
                self._report(result)
                pause_s = min(task.poll_s or _SECOND_SYNC_S, _SECOND_SYNC_S) if result.pending else task.poll_s or None

    def _sync(self, task: _MirrorTask) -> SyncResult:
        try:
            result = self._mirror.sync(*task.policies, protected=task.protected)
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._mirror.directory)  # see _remove_unused
            return result
        except Exception as error:  # a full disk, for instance: the next sync may succeed
            return SyncResult(problems=(f"{self._url}: can't be mirrored: {error}",))

    def _report(self, result: SyncResult) -> None:
        self._parent.report(
            url=self._url,
            settled=not result.pending,
            changed=bool(result.landed or result.removed),
            problems=result.problems,
        )


def _remove_unused(cache: Path, used: Collection[Path]) -> None:
    """Remove the mirrors of URLs that no model has used for days."""
    for path in cache.iterdir():
        if path.is_dir() and path not in used and time.time() - path.stat().st_mtime > _UNUSED_S:
            log.info("%s: removed: no model has used this mirror for days", path)
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    run_agent(main)

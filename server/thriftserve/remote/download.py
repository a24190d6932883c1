"""A download: a file at a URL becomes a file on disk, in parallel parts if the server allows, resumed after a cut.

Address  --probe-->  206: parts, each filled by ranges with If-Range  -->  download + download.json
                     200: all of it, from its start with each try     -->  download

Parts are only asked for if the server names something (ETag, Last-Modified) that tells this file from the next one
under the same URL: joined parts of two files would be neither.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from thriftserve.errors import ResourceExhausted, Unavailable
from thriftserve.remote.address import Address
from thriftserve.remote.http import HttpAnswer, HttpFailed, HttpRange, get
from thriftserve.remote.journal import DownloadPart, DownloadPaths, Journal
from thriftserve.remote.limits import FetchDeadline, Limits, Phase, Progress, ProgressCallback, TooLarge

#: Seconds between two reports of progress, and between two writes of the journal, which cost a sync of the disk.
_REPORT_S = 0.1
_SAVE_S = 1.0
#: How often the file may change under the download before it is asked for in one go.
_RESTARTS = 3

log = logging.getLogger(__name__)


class SourceChanged(Exception):
    """The file under the URL is another one now."""


class DownloadStopped(Exception):
    """Another part has failed, or the caller has given up."""


class Download:
    """One download; call `run` once.

    Args:
        address: http or https.
        paths: what an earlier try left there is used.
        limits: of the fetch.
        deadline: of the fetch.
        report: called several times a second, from the thread that called `run`; what it raises ends the download.

    Attributes:
        resumed: whether bytes of an earlier fetch are part of the file.
    """

    def __init__(
        self,
        address: Address,
        paths: DownloadPaths,
        limits: Limits,
        deadline: FetchDeadline,
        report: ProgressCallback,
    ) -> None:
        self._address = address
        self._paths = paths
        self._limits = limits
        self._deadline = deadline
        self._report = report
        self._stop = threading.Event()
        #: Bytes of a file that arrives in one go.
        self._arrived = 0
        self.resumed = False

    def run(self) -> None:
        """Download the file.

        Raises:
            Unavailable: the network or the server failed, again and again.
            NotFound, FailedPrecondition: the server does not give it.
            TooLarge: it is larger than the limits allow.
            DeadlineExceeded, ResourceExhausted: no time or no room for it.
        """
        for _ in range(_RESTARTS):
            try:
                return self._attempt()
            except SourceChanged as error:
                log.warning("%s: %s: the download begins again", self._address, error)
                self._paths.journal.unlink(missing_ok=True)
        # The server's ranges don't belong together: what arrives in one go is one file.
        self.resumed = False
        return self._run_all([partial(self._retry, self._download_in_one_go)])

    def _attempt(self) -> None:
        journal = Journal.load(self._paths.journal)
        if journal is None or journal.url != self._address.url or not self._has_file(journal.total):
            self._paths.journal.unlink(missing_ok=True)
            self.resumed = False
            self._run_all([partial(self._retry, self._probe)])
            journal = Journal.load(self._paths.journal)
            if journal is None:  # it arrived in one go
                return
        elif journal.done:
            self.resumed = True
            log.info("%s: going on after %d of %d bytes", self._address, journal.done, journal.total)
        self._check_size(journal.total)
        self._fill(journal)

    def _has_file(self, size: int) -> bool:
        return self._paths.file.is_file() and self._paths.file.stat().st_size == size

    def _check_size(self, total: int) -> None:
        if total > self._limits.max_bytes:
            raise TooLarge(f"{self._address}: {total} bytes; at most {self._limits.max_bytes} are fetched")
        disk = os.statvfs(self._paths.file.parent)
        free = disk.f_bavail * disk.f_frsize
        # The file of an earlier try has a part of its room already. This only ends early what is hopeless.
        if total > free + (self._paths.file.stat().st_blocks * 512 if self._paths.file.exists() else 0):
            raise ResourceExhausted(f"{self._paths.file.parent}: {free} bytes are free; the download has {total}")

    # The first answer shows whether the server gives ranges.

    def _probe(self) -> None:
        """Leave a journal if the file can be had in parts, else download the file."""
        with self._get(HttpRange(0, 1)) as answer:
            if not answer.partial:
                return self._write_all(answer)
            if answer.validator is not None and answer.total:
                self._check_size(answer.total)
                with open(self._paths.file, "wb") as file:
                    file.truncate(answer.total)
                journal = Journal.begin(self._address.url, answer.validator, answer.total, self._limits.part_bytes)
                journal.save(self._paths.journal)
                return None
        return self._download_in_one_go()

    def _download_in_one_go(self) -> None:
        with self._get(None) as answer:
            self._write_all(answer)

    def _write_all(self, answer: HttpAnswer) -> None:
        if answer.total is not None:
            self._check_size(answer.total)
        self._arrived = 0
        with open(self._paths.file, "wb") as file:
            for chunk in answer.chunks():
                self._check_running()
                file.write(chunk)
                self._arrived += len(chunk)
                if self._arrived > self._limits.max_bytes:
                    raise TooLarge(f"{self._address}: more than {self._limits.max_bytes} bytes are not fetched")
            file.flush()
            os.fsync(file.fileno())
        if answer.total is not None and self._arrived != answer.total:
            raise HttpFailed(f"the connection was cut after {self._arrived} of {answer.total} bytes")

    # Parts

    def _fill(self, journal: Journal) -> None:
        """Download the missing bytes of every part."""
        descriptor = os.open(self._paths.file, os.O_WRONLY)
        try:
            tasks = [
                partial(self._retry, partial(self._fill_part, descriptor, journal, part), part)
                for part in journal.parts
                if part.done < part.size
            ]
            # If all of it was there before: is it still what the server has?
            tasks = tasks or [partial(self._retry, partial(self._confirm, journal))]
            self._run_all(tasks, journal, descriptor)
        finally:
            os.close(descriptor)

    def _fill_part(self, descriptor: int, journal: Journal, part: DownloadPart) -> None:
        """Ask once for the bytes that a part lacks."""
        if part.done == part.size:
            return
        start, end = part.start + part.done, part.start + part.size
        with self._get(HttpRange(start, end, journal.validator)) as answer:
            _check_unchanged(answer, journal)
            if answer.start != start:
                raise HttpFailed(f"asked for bytes from {start} on, the server sent bytes from {answer.start} on")
            for chunk in answer.chunks():
                self._check_running()
                wanted = chunk[: part.size - part.done]  # the server may send more than was asked for
                os.pwrite(descriptor, wanted, part.start + part.done)
                part.done += len(wanted)
                if part.done == part.size:
                    return
        raise HttpFailed(f"the connection was cut with {part.size - part.done} of {part.size} bytes of a part to come")

    def _confirm(self, journal: Journal) -> None:
        with self._get(HttpRange(0, 1, journal.validator)) as answer:
            _check_unchanged(answer, journal)

    # Requests, retries and threads

    def _get(self, byte_range: HttpRange | None) -> AbstractContextManager[HttpAnswer]:
        self._check_running()
        timeout_s = max(0.001, min(self._limits.stall_s, self._deadline.left_s))
        return get(self._address, byte_range, timeout_s=timeout_s, redirects=self._limits.redirects)

    def _check_running(self) -> None:
        if self._stop.is_set():
            raise DownloadStopped
        self._deadline.check()

    def _retry(self, step: Callable[[], None], part: DownloadPart | None = None) -> None:
        """Repeat a step until it succeeds, after longer and longer pauses while it brings no byte of its part."""
        failures = 0
        while True:
            done_before = part.done if part else 0
            try:
                return step()
            except HttpFailed as error:
                failures = 1 if part and part.done != done_before else failures + 1
                if failures > self._limits.retries:
                    raise Unavailable(f"{self._address}: given up after {failures} tries in a row: {error}") from error
                pause_s = min(self._limits.max_backoff_s, self._limits.backoff_s * 2 ** (failures - 1))
                log.info("%s: %s; next try in %.1f s", self._address, error, pause_s)
                self._stop.wait(min(pause_s, self._deadline.left_s))

    def _run_all(
        self, tasks: Sequence[Callable[[], None]], journal: Journal | None = None, descriptor: int | None = None
    ) -> None:
        """Run tasks in threads until they are done or one fails; report progress and save the journal meanwhile."""
        self._stop.clear()
        with ThreadPoolExecutor(self._limits.connections, "fetch") as pool:
            try:
                self._watch({pool.submit(self._run_task, task) for task in tasks}, journal, descriptor)
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                if journal is not None and descriptor is not None:
                    self._save(journal, descriptor)

    def _run_task(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException:
            self._stop.set()
            raise

    def _watch(self, running: set[Future[None]], journal: Journal | None, descriptor: int | None) -> None:
        saved_at = time.monotonic()
        while running:
            ended, running = wait(running, _REPORT_S, FIRST_EXCEPTION)
            errors = [error for future in ended if (error := future.exception())]
            # The one that failed stopped the others: its error says why.
            for error in sorted(errors, key=lambda error: isinstance(error, DownloadStopped)):
                raise error
            if journal is None or descriptor is None:
                self._report(Progress(Phase.DOWNLOADING, self._arrived))
                continue
            self._report(Progress(Phase.DOWNLOADING, journal.done, journal.total))
            if time.monotonic() - saved_at > _SAVE_S:
                self._save(journal, descriptor)
                saved_at = time.monotonic()

    def _save(self, journal: Journal, descriptor: int) -> None:
        # Counted first, then synced: the journal never counts more than is on disk.
        parts = [replace(part) for part in journal.parts]
        os.fdatasync(descriptor)
        replace(journal, parts=parts).save(self._paths.journal)


def _check_unchanged(answer: HttpAnswer, journal: Journal) -> None:
    if not answer.partial or answer.total != journal.total or answer.validator not in (None, journal.validator):
        raise SourceChanged("the file has changed on the server")

"""A file at a URL becomes a file on disk: in parallel pieces where the server gives them, going on after a cut.

Address  --probe-->  pieces, each filled by --get If-Range-->  download + download.json   (206)
                     or the whole, from its start each time    -->  download              (200)

Pieces are only asked for where the server names something (ETag, Last-Modified) that tells this file from
the next one under the same URL: joined pieces of two files would be neither.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path

from thriftserve.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from thriftserve.files import write_atomically
from thriftserve.remote.http import Address, HttpAnswer, HttpFailed, HttpRange, get

# What of a download is on disk, kept beside it so that the next try goes on from there.


@dataclass
class DownloadPart:
    """A range of the file, and how many of its bytes are there, from its start on."""

    start: int
    size: int
    done: int = 0


@dataclass(frozen=True)
class Journal:
    """A file that is downloaded in parts."""

    url: str
    validator: str
    total: int
    parts: Sequence[DownloadPart]

    @classmethod
    def begun(cls, url: str, validator: str, total: int, part_bytes: int) -> Journal:
        """Nothing of it is there yet."""
        starts = range(0, total, part_bytes)
        return cls(url, validator, total, [DownloadPart(start, min(part_bytes, total - start)) for start in starts])

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return sum(one.done for one in self.parts)

    def save(self, path: Path) -> None:
        """Writes it; the file changes whole or not at all. What it says is there must be on disk before."""
        content = {
            "url": self.url,
            "validator": self.validator,
            "total": self.total,
            "parts": [[one.start, one.size, one.done] for one in self.parts],
        }
        write_atomically(path, json.dumps(content))

    @classmethod
    def load(cls, path: Path) -> Journal | None:
        """What was saved; None where nothing was, or it makes no sense."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            parts = [DownloadPart(*map(int, one)) for one in content["parts"]]
            found = cls(str(content["url"]), str(content["validator"]), int(content["total"]), parts)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if found._sound() else None

    def _sound(self) -> bool:
        at = 0
        for one in self.parts:
            if one.start != at or not 0 <= one.done <= one.size:
                return False
            at += one.size
        return at == self.total


# What a fetch may take, and how far it is.

_MIB = 1 << 20
_GIB = 1 << 30


class TooLarge(ResourceExhausted):
    """It is larger than a fetch may be; so it will be the next time."""

    retryable = False


@dataclass(frozen=True)
class Limits:
    """Bounds of one fetch. Sizes in bytes, times in seconds."""

    #: Of the download.
    max_bytes: int = 16 * _GIB
    #: Of what is unpacked, all files together.
    max_unpacked_bytes: int = 32 * _GIB
    #: Unpacked bytes for each packed one; only what comes after the first `free_bytes` is held to it.
    max_ratio: int = 300
    free_bytes: int = 256 * _MIB
    #: Files, directories and links in an archive.
    max_entries: int = 20_000
    #: The whole fetch.
    timeout_s: float = 3600.0
    #: Silence on a connection, and the time to make one.
    stall_s: float = 30.0
    #: Failures in a row, without a byte between them, that a part survives.
    retries: int = 5
    #: Wait after the first of them; it doubles with each.
    backoff_s: float = 0.5
    max_backoff_s: float = 15.0
    #: Connections at once, where the server answers ranges.
    connections: int = 4
    #: Bytes a connection asks for at a time.
    part_bytes: int = 16 * _MIB
    redirects: int = 5


class Phase(Enum):
    """What a fetch is at."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    UNPACKING = "unpacking"
    CHECKING = "checking"
    LANDED = "landed"


@dataclass(frozen=True)
class Progress:
    """How far a fetch is. Bytes of the phase it is at; a total of None is not known."""

    phase: Phase
    done: int = 0
    total: int | None = None

    def __str__(self) -> str:
        if not self.total:
            return f"{self.phase.value} {self.done / _MIB:.1f} MiB" if self.done else self.phase.value
        share = 100 * self.done / self.total
        return f"{self.phase.value} {self.done / _MIB:.1f} of {self.total / _MIB:.1f} MiB ({share:.0f} %)"


Report = Callable[[Progress], None]


class ProgressDeadline:
    """The moment by which a fetch must be done."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until it; never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises DeadlineExceeded once it is over."""
        if not self.left_s:
            raise DeadlineExceeded(
                f"the fetch was not done within {self._timeout_s:g} s; what is downloaded is kept for the next try"
            )


#: Time between two looks at what has arrived, and between two writes of the journal, in seconds.
_LOOK_S = 0.1
_SAVE_S = 1.0
#: How often a file may change under the download before it is given up.
_RESTARTS = 3

log = logging.getLogger(__name__)


class SourceChanged(Exception):
    """The file under the URL is another one now."""


class DownloadStopped(Exception):
    """Another part has failed, or the caller has given up."""


@dataclass(frozen=True)
class DownloadPaths:
    """Where a download goes: the file and its journal."""

    file: Path
    journal: Path


class Download:
    """One download, once.

    Args:
        address: http or https.
        place: files of an earlier try are gone on from.
        report: called several times a second, from the thread that called `run`; what it raises ends the download.
    """

    def __init__(
        self, address: Address, place: DownloadPaths, limits: Limits, deadline: ProgressDeadline, report: Report
    ) -> None:
        self._address = address
        self._place = place
        self._limits = limits
        self._deadline = deadline
        self._report = report
        self._stop = threading.Event()
        #: Bytes of a file that arrives in one go.
        self._arrived = 0
        #: Whether bytes of an earlier call are part of the file.
        self.resumed = False

    def run(self) -> None:
        """Downloads the file.

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
                self._place.journal.unlink(missing_ok=True)
        # Or else the server does not mean it when it gives pieces: what comes in one go is one file.
        self.resumed = False
        return self._work([partial(self._retried, lambda: None, self._in_one_go)])

    def _attempt(self) -> None:
        journal = Journal.load(self._place.journal)
        if journal is None or journal.url != self._address.url or not self._there(journal.total):
            self._place.journal.unlink(missing_ok=True)
            self.resumed = False
            self._work([self._begin])
            journal = Journal.load(self._place.journal)
            if journal is None:  # it came in one go
                return
        elif journal.done:
            self.resumed = True
            log.info("%s: going on after %d of %d bytes", self._address, journal.done, journal.total)
        self._admit(journal.total)
        self._fill(journal)

    def _there(self, size: int) -> bool:
        return self._place.file.is_file() and self._place.file.stat().st_size == size

    def _admit(self, total: int) -> None:
        if total > self._limits.max_bytes:
            raise TooLarge(f"{self._address}: {total} bytes; at most {self._limits.max_bytes} are fetched")
        free = os.statvfs(self._place.file.parent)
        left = free.f_bavail * free.f_frsize
        # A file of an earlier try takes its place already, in part; this only tells early what is hopeless.
        if total > left + (self._place.file.stat().st_blocks * 512 if self._place.file.exists() else 0):
            raise ResourceExhausted(f"{self._place.file.parent}: {left} bytes are free; the download has {total}")

    # The first answer: it tells whether the server gives pieces.

    def _begin(self) -> None:
        """Leaves a journal where the file can be had in pieces, else the whole file."""
        self._retried(lambda: None, self._probe)

    def _probe(self) -> None:
        with self._get(HttpRange(0, 1)) as answer:
            if not answer.partial:
                return self._whole(answer)
            if answer.validator is not None and answer.total:
                self._admit(answer.total)
                with open(self._place.file, "wb") as file:
                    file.truncate(answer.total)
                Journal.begun(self._address.url, answer.validator, answer.total, self._limits.part_bytes).save(
                    self._place.journal
                )
                return None
        return self._in_one_go()

    def _in_one_go(self) -> None:
        with self._get(None) as answer:
            self._whole(answer)

    def _whole(self, answer: HttpAnswer) -> None:
        if answer.total is not None:
            self._admit(answer.total)
        self._arrived = 0
        with open(self._place.file, "wb") as file:
            for chunk in answer.chunks():
                self._go_on()
                file.write(chunk)
                self._arrived += len(chunk)
                if self._arrived > self._limits.max_bytes:
                    raise TooLarge(f"{self._address}: more than {self._limits.max_bytes} bytes are not fetched")
            file.flush()
            os.fsync(file.fileno())
        if answer.total is not None and self._arrived != answer.total:
            raise HttpFailed(f"the connection was cut after {self._arrived} of {answer.total} bytes")

    # Pieces.

    def _fill(self, journal: Journal) -> None:
        descriptor = os.open(self._place.file, os.O_WRONLY)
        try:
            missing = [one for one in journal.parts if one.done < one.size]
            tasks = [partial(self._part, descriptor, journal, one) for one in missing]
            # All of it was there before: is it still what the server has?
            self._work(
                tasks or [partial(self._retried, lambda: None, partial(self._confirm, journal))], journal, descriptor
            )
        finally:
            os.close(descriptor)

    def _part(self, descriptor: int, journal: Journal, part: DownloadPart) -> None:
        self._retried(lambda: part.done, lambda: self._rest(descriptor, journal, part))

    def _rest(self, descriptor: int, journal: Journal, part: DownloadPart) -> None:
        """Asks for what a part lacks, once."""
        if part.done == part.size:
            return
        at, end = part.start + part.done, part.start + part.size
        with self._get(HttpRange(at, end, journal.validator)) as answer:
            _hold_same(answer, journal)
            if answer.start != at:
                raise HttpFailed(
                    f"the server sent bytes from {answer.start} on where those from {at} on were asked for"
                )
            for chunk in answer.chunks():
                self._go_on()
                kept = chunk[: part.size - part.done]
                os.pwrite(descriptor, kept, part.start + part.done)
                part.done += len(kept)
                if part.done == part.size:
                    return
        raise HttpFailed(f"the connection was cut with {part.size - part.done} of {part.size} bytes of a part to come")

    def _confirm(self, journal: Journal) -> None:
        with self._get(HttpRange(0, 1, journal.validator)) as answer:
            _hold_same(answer, journal)

    # What all of them share.

    def _get(self, piece: HttpRange | None) -> AbstractContextManager[HttpAnswer]:
        self._go_on()
        timeout_s = max(0.001, min(self._limits.stall_s, self._deadline.left_s))
        return get(self._address, piece, timeout_s=timeout_s, redirects=self._limits.redirects)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise DownloadStopped
        self._deadline.check()

    def _retried(self, done: Callable[[], int | None], step: Callable[[], None]) -> None:
        """Takes a step until it succeeds, waiting longer each time that it brought nothing."""
        failures = 0
        while True:
            before = done()
            try:
                return step()
            except HttpFailed as error:
                failures = 1 if done() != before else failures + 1
                if failures > self._limits.retries:
                    raise Unavailable(f"{self._address}: given up after {failures} tries in a row: {error}") from error
                pause = min(self._limits.max_backoff_s, self._limits.backoff_s * 2 ** (failures - 1))
                log.info("%s: %s; again in %.1f s", self._address, error, pause)
                self._stop.wait(min(pause, self._deadline.left_s))

    def _work(
        self, tasks: Sequence[Callable[[], None]], journal: Journal | None = None, descriptor: int | None = None
    ) -> None:
        """Runs tasks in threads; tells of them, and keeps the journal, until they are done or one fails."""
        self._stop.clear()
        with ThreadPoolExecutor(self._limits.connections, "fetch") as pool:
            try:
                self._watch({pool.submit(self._run, one) for one in tasks}, journal, descriptor)
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                if journal is not None and descriptor is not None:
                    self._save(journal, descriptor)

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException:
            self._stop.set()
            raise

    def _watch(self, running: set[Future[None]], journal: Journal | None, descriptor: int | None) -> None:
        saved = time.monotonic()
        while running:
            ended, running = wait(running, _LOOK_S, FIRST_EXCEPTION)
            # One that failed stopped the others: their errors say no more than that.
            failed = [error for one in ended if (error := one.exception())]
            for error in sorted(failed, key=lambda one: isinstance(one, DownloadStopped)):
                raise error
            if journal is None or descriptor is None:
                self._report(Progress(Phase.DOWNLOADING, self._arrived))
                continue
            self._report(Progress(Phase.DOWNLOADING, journal.done, journal.total))
            if time.monotonic() - saved > _SAVE_S:
                self._save(journal, descriptor)
                saved = time.monotonic()

    def _save(self, journal: Journal, descriptor: int) -> None:
        # Counted first, then brought to disk: the journal never says more than is there.
        parts = [replace(one) for one in journal.parts]
        os.fdatasync(descriptor)
        replace(journal, parts=parts).save(self._place.journal)


def _hold_same(answer: HttpAnswer, journal: Journal) -> None:
    if not answer.partial or answer.total != journal.total or answer.validator not in (None, journal.validator):
        raise SourceChanged("the file has changed on the server")

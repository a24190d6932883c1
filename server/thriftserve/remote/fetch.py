"""A packed model at a URL becomes a version directory, whole or not at all.

URL  --download-->  archive  --SHA-256-->  --unpack, find, check-->  staging  --rename-->  BASE/VERSION

    fetch("https://models.example/digits-3.tar.gz", Path("/models/digits/3"), check=whole, sha256="9f86…")

Killed at any moment, it leaves either nothing that a server would take for a version, or the whole of it; the
next fetch of the same version goes on with what was downloaded, and clears the rest away.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from thriftserve.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from thriftserve.remote.archive import find_model, unpack
from thriftserve.remote.archive_entries import CHUNK, Unpacked, check_links
from thriftserve.remote.download import Download, Limits, Phase, Progress, ProgressDeadline, Report, TooLarge
from thriftserve.remote.http import Address, parse
from thriftserve.remote.staging import Staging, sync_directory

Check = Callable[[Path], None]
#: Time between two log lines about one fetch, in seconds.
_TELL_S = 5.0
_DEFAULT = Limits()

log = logging.getLogger(__name__)


def fetch(
    url: str,
    target_dir: Path,
    *,
    check: Check,
    sha256: str | None = None,
    limits: Limits = _DEFAULT,
    progress: Report | None = None,
) -> Path:
    """Fetches a packed SavedModel (tar, tar.gz or zip) and puts it into a version directory.

    Args:
        url: http://, https:// or file:///.
        target_dir: BASE/VERSION, which must not be there yet; BASE is made where missing.
        check: called with the directory of the unpacked model before it lands; raises where it is not good.
        sha256: what the archive's must be, in hexadecimal.
        progress: called several times a second, from this thread; what it raises ends the fetch.

    Returns:
        `target_dir`.

    Raises:
        InvalidArgument: the URL, the checksum, the archive or the model in it is wrong.
        NotFound: there is nothing under the URL.
        FailedPrecondition: the server refuses, the target is there already, or is being fetched by another.
        Unavailable: the network or the server failed, again and again.
        DeadlineExceeded: it took longer than the limits allow.
        ResourceExhausted: the disk is full, or it is larger than the limits allow.
    """
    address, wanted = parse(url), _checksum(sha256)
    try:
        with Staging(target_dir) as staging:
            return _Fetch(address, target_dir, wanted, limits, progress, check).run(staging)
    except OSError as error:
        place = error.filename or target_dir
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{place}: the disk is full") from error
        raise FailedPrecondition(f"{place}: {error.strerror or error}") from error


class _Fetch:
    def __init__(
        self, address: Address, target: Path, sha256: str | None, limits: Limits, progress: Report | None, check: Check
    ) -> None:
        self._address = address
        self._target = target
        self._sha256 = sha256
        self._limits = limits
        self._progress = progress
        self._check = check
        self._deadline = ProgressDeadline(limits.timeout_s)
        self._told = time.monotonic()

    def run(self, staging: Staging) -> Path:
        began = time.monotonic()
        source = f"{self._address.url} {self._sha256 or ''}"
        if staging.landed(source):
            log.info("%s: was fetched before, and is there", self._target)
        elif self._target.exists():
            staging.clear()
            raise FailedPrecondition(f"{self._target}: is there already: fetch it as another version, or remove it")
        else:
            self._download(staging)
            self._land(staging, source)
            log.info("fetched %s into %s in %.1f s", self._address, self._target, time.monotonic() - began)
        staging.clear()
        self._report(Progress(Phase.LANDED))
        return self._target

    def _download(self, staging: Staging) -> None:
        if self._address.scheme == "file":
            self._copy(staging.place.file)
            return self._verify(staging)
        for again in (False, True):
            download = Download(self._address, staging.place, self._limits, self._deadline, self._report)
            download.run()
            try:
                return self._verify(staging)
            except InvalidArgument:
                # Part of it is from an earlier call: the fault may lie there.
                if again or not download.resumed:
                    raise
                log.warning("%s: the sum of what was gone on with is wrong: the download begins again", self._address)
        return None

    def _copy(self, file: Path) -> None:
        source = self._address.path
        try:
            size = source.stat().st_size
        except FileNotFoundError:
            raise NotFound(f"{source}: there is no such file") from None
        if not source.is_file():
            raise InvalidArgument(f"{source}: is no file: a packed model is fetched; a directory is given as base path")
        if size > self._limits.max_bytes:
            raise TooLarge(f"{source}: {size} bytes; at most {self._limits.max_bytes} are fetched")
        with open(source, "rb") as reader, open(file, "wb") as writer:
            while chunk := reader.read(CHUNK):
                writer.write(chunk)
                self._deadline.check()
                self._report(Progress(Phase.DOWNLOADING, writer.tell(), size))

    def _verify(self, staging: Staging) -> None:
        if self._sha256 is None:
            return
        found, size = hashlib.sha256(), staging.place.file.stat().st_size
        with open(staging.place.file, "rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
                self._deadline.check()
                self._report(Progress(Phase.VERIFYING, file.tell(), size))
        if found.hexdigest() != self._sha256:
            self._forget(staging)
            raise InvalidArgument(
                f"{self._address}: the SHA-256 of its {size} bytes is {found.hexdigest()}, not {self._sha256}"
            )

    def _land(self, staging: Staging, source: str) -> None:
        staging.unpacked.mkdir()
        packed = staging.place.file.stat().st_size
        try:
            unpack(staging.place.file, Unpacked(staging.unpacked, packed, self._limits, self._deadline, self._report))
            model = find_model(staging.unpacked)
            check_links(model)
            self._report(Progress(Phase.CHECKING))
            self._check(model)
        except (InvalidArgument, TooLarge) as error:
            self._forget(staging)
            raise type(error)(f"{self._address}: {error.message}") from error
        for folder, _, _ in os.walk(model):
            sync_directory(Path(folder))
        staging.land(source, model)

    def _forget(self, staging: Staging) -> None:
        """Drops what would be as wrong the next time."""
        staging.place.journal.unlink(missing_ok=True)
        staging.place.file.unlink(missing_ok=True)
        shutil.rmtree(staging.unpacked, ignore_errors=True)

    def _report(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told > _TELL_S:
            self._told = now
            log.info("%s: %s", self._address, progress)
        if self._progress is not None:
            self._progress(progress)


def check_request(url: str, sha256: str | None) -> None:
    """Check a URL and a checksum before a fetch is begun.

    Raises:
        InvalidArgument: the URL can't be read, or has another scheme than http, https or file; or the checksum can't.
    """
    parse(url)
    _checksum(sha256)


def _checksum(text: str | None) -> str | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise InvalidArgument(f"sha256 is {text!r:.80}: write 64 hexadecimal digits")
    return text.lower()

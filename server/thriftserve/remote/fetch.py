"""A fetch: a packed model at a URL becomes a version directory, checked, or not there at all.

URL  --download-->  archive  --SHA-256-->  --unpack, find, check-->  staging  --rename-->  BASE/VERSION

    fetch("https://models.example/digits-3.tar.gz", Path("/models/digits/3"), check=check_saved_model, sha256="9f86…")

Killed at any moment, it leaves either nothing that a server would take for a version, or all of it. The next fetch of
the same version resumes the download and removes what else was left.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from thriftserve.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from thriftserve.remote.address import Address, parse, parse_sha256
from thriftserve.remote.archive import find_model, unpack
from thriftserve.remote.archive_entries import CHUNK, Unpacker, check_links
from thriftserve.remote.limits import FetchDeadline, Limits, Phase, Progress, ProgressCallback, TooLarge
from thriftserve.remote.staging import Staging, sync_directory

#: Called with the directory of an unpacked model; raises if it is not good.
ModelCheck = Callable[[Path], None]
#: Seconds between two log lines about one fetch.
_LOG_S = 5.0
_DEFAULT_LIMITS = Limits()

log = logging.getLogger(__name__)


def fetch(
    url: str,
    target_dir: Path,
    *,
    check: ModelCheck,
    sha256: str | None = None,
    limits: Limits = _DEFAULT_LIMITS,
    progress: ProgressCallback | None = None,
) -> Path:
    """Fetch a packed SavedModel (tar, tar.gz or zip) and put it into a version directory.

    Args:
        url: http://, https:// or file:///.
        target_dir: BASE/VERSION, which must not exist; BASE is created if missing.
        check: called with the directory of the unpacked model before it lands; raises if it is not good.
        sha256: of the archive, in hexadecimal.
        limits: of the fetch.
        progress: called several times a second, from this thread; what it raises ends the fetch.

    Returns:
        `target_dir`.

    Raises:
        InvalidArgument: the URL, the checksum, the archive or the model in it is wrong.
        NotFound: there is nothing under the URL.
        FailedPrecondition: the server refuses, the target exists, or another fetch of it is under way.
        Unavailable: the network or the server failed, again and again.
        DeadlineExceeded: it took longer than the limits allow.
        ResourceExhausted: the disk is full, or it is larger than the limits allow.
    """
    address, checksum = parse(url), parse_sha256(sha256)
    try:
        with Staging(target_dir) as staging:
            return _Fetch(address, target_dir, checksum, limits, progress, check).run(staging)
    except OSError as error:
        path = error.filename or target_dir
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{path}: the disk is full") from error
        raise FailedPrecondition(f"{path}: {error.strerror or error}") from error


class _Fetch:
    def __init__(
        self,
        address: Address,
        target: Path,
        sha256: str | None,
        limits: Limits,
        progress: ProgressCallback | None,
        check: ModelCheck,
    ) -> None:
        self._address = address
        self._target = target
        self._sha256 = sha256
        self._limits = limits
        self._progress = progress
        self._check = check
        self._deadline = FetchDeadline(limits.timeout_s)
        self._logged_at = time.monotonic()

    def run(self, staging: Staging) -> Path:
        began = time.monotonic()
        source = f"{self._address.url} {self._sha256 or ''}"
        if staging.has_landed(source):
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
        """Download or copy the archive, and check its SHA-256."""
        if self._address.scheme == "file":
            self._copy(staging.paths.file)
            return self._verify(staging)
        resumed = self._download_http(staging)
        try:
            return self._verify(staging)
        except InvalidArgument:
            if not resumed:
                raise
            # The fault may be in what an earlier fetch has left.
            log.warning("%s: the SHA-256 of the resumed download is wrong: it begins again", self._address)
        self._download_http(staging)
        return self._verify(staging)

    def _download_http(self, staging: Staging) -> bool:
        """Return whether bytes of an earlier fetch are part of the download."""
        # Imported here: httpx takes 80 ms, which no start of a controller should wait for.
        from thriftserve.remote.download import Download

        download = Download(self._address, staging.paths, self._limits, self._deadline, self._report)
        download.run()
        return download.resumed

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
        digest, size = hashlib.sha256(), staging.paths.file.stat().st_size
        with open(staging.paths.file, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                self._deadline.check()
                self._report(Progress(Phase.VERIFYING, file.tell(), size))
        if digest.hexdigest() != self._sha256:
            self._discard_download(staging)
            raise InvalidArgument(
                f"{self._address}: the SHA-256 of its {size} bytes is {digest.hexdigest()}, not {self._sha256}"
            )

    def _land(self, staging: Staging, source: str) -> None:
        """Unpack and check the model, and rename it to the target."""
        staging.unpacked.mkdir()
        packed_bytes = staging.paths.file.stat().st_size
        unpacker = Unpacker(staging.unpacked, packed_bytes, self._limits, self._deadline, self._report)
        try:
            unpack(staging.paths.file, unpacker)
            model = find_model(staging.unpacked)
            check_links(model)
            self._report(Progress(Phase.CHECKING))
            self._check(model)
        except (InvalidArgument, TooLarge) as error:
            self._discard_download(staging)
            raise type(error)(f"{self._address}: {error.message}") from error
        for folder, _, _ in os.walk(model):
            sync_directory(Path(folder))
        staging.land(source, model)

    def _discard_download(self, staging: Staging) -> None:
        """Remove what would be as wrong the next time."""
        staging.paths.journal.unlink(missing_ok=True)
        staging.paths.file.unlink(missing_ok=True)
        shutil.rmtree(staging.unpacked, ignore_errors=True)

    def _report(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._logged_at > _LOG_S:
            self._logged_at = now
            log.info("%s: %s", self._address, progress)
        if self._progress is not None:
            self._progress(progress)

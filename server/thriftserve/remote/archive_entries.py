"""The entries of an archive: each is checked before it is written to disk.

(name, kind, bytes)  --Unpacker: a safe name, a new name, within the limits-->  a file, a directory, a link

Nothing is ever written through a link: links are made when everything else is there, and only if they stay inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from thriftserve.errors import InvalidArgument
from thriftserve.remote.limits import FetchDeadline, Limits, Phase, Progress, ProgressCallback, TooLarge

#: Bytes copied at a time.
CHUNK = 1 << 20
#: Of an entry, in bytes: its name, and each part of it (what file systems take); and the number of parts.
_MAX_NAME = 1024
_MAX_COMPONENT = 255
_MAX_DEPTH = 32


class Unpacker:
    """Puts the entries of one archive into a directory. Used by one thread.

    Its methods raise InvalidArgument for what is not safe, TooLarge for what is more than the limits allow, and
    DeadlineExceeded.

    Args:
        root: an empty directory.
        packed_bytes: size of the archive.
        limits: of the fetch.
        deadline: of the fetch.
        report: called with each chunk that is written.
    """

    def __init__(
        self, root: Path, packed_bytes: int, limits: Limits, deadline: FetchDeadline, report: ProgressCallback
    ) -> None:
        self._root = root
        self._limits = limits
        self._deadline = deadline
        self._report = report
        self._max_bytes = limits.free_bytes + limits.max_ratio * packed_bytes
        self._bytes = 0
        self._entries = 0
        self._files: set[PurePosixPath] = set()
        self._directories: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def add_directory(self, name: str) -> None:
        """Create a directory; it may be there already."""
        path = self._count(name)
        if path in self._files or path in self._links:
            raise InvalidArgument(f"the archive has two entries {name!r:.200}")
        self._create_directories(path)

    def add_file(self, name: str, size: int, content: Iterator[bytes]) -> None:
        """Write a file.

        Args:
            name: as the archive has it.
            size: what the archive says of it, in bytes.
            content: what is really there.
        """
        path = self._new_path(name)
        self._check_size(size)
        with open(self._root / path, "xb") as file:
            written = 0
            for chunk in content:
                written += len(chunk)
                if written > size:
                    raise InvalidArgument(f"{name!r:.200} in the archive has more than the {size} bytes it should have")
                file.write(chunk)
                self._bytes += len(chunk)
                self._deadline.check()
                self._report(Progress(Phase.UNPACKING, self._bytes))
            if written != size:
                raise InvalidArgument(f"{name!r:.200} in the archive has {written} of {size} bytes: it is cut off")
            file.flush()
            os.fsync(file.fileno())
        self._files.add(path)

    def add_hard_link(self, name: str, target: str) -> None:
        """Link to a file that was unpacked before."""
        path, source = self._new_path(name), _safe_path(target)
        if source not in self._files:
            raise InvalidArgument(f"{name!r:.200} in the archive is a link to {target!r:.200}, which is no file in it")
        os.link(self._root / source, self._root / path)
        self._files.add(path)

    def add_symbolic_link(self, name: str, target: str) -> None:
        """Note a symbolic link, to be made by `finish`."""
        self._links[self._new_path(name)] = target

    def finish(self) -> None:
        """Make the symbolic links."""
        for path, target in self._links.items():
            if not target or "\0" in target or os.path.isabs(target):
                raise InvalidArgument(f"{str(path)!r} in the archive is a link to {target!r:.200}: it leads outside")
            (self._root / path).symlink_to(target)
        check_links(self._root)

    def _new_path(self, name: str) -> PurePosixPath:
        path = self._count(name)
        if path in self._files or path in self._links or path in self._directories or path == PurePosixPath():
            raise InvalidArgument(f"the archive has two entries {name!r:.200}")
        self._create_directories(path.parent)
        return path

    def _count(self, name: str) -> PurePosixPath:
        self._entries += 1
        if self._entries > self._limits.max_entries:
            raise InvalidArgument(f"the archive has more than {self._limits.max_entries} entries")
        self._deadline.check()
        return _safe_path(name)

    def _create_directories(self, path: PurePosixPath) -> None:
        for directory in reversed([path, *path.parents]):
            if directory in self._files or directory in self._links:
                raise InvalidArgument(f"the archive puts entries below {str(directory)!r}, which is no directory in it")
            if directory not in self._directories:
                (self._root / directory).mkdir(exist_ok=True)
                self._directories.add(directory)

    def _check_size(self, size: int) -> None:
        if self._bytes + size > self._limits.max_unpacked_bytes:
            raise TooLarge(f"the archive unpacks to more than {self._limits.max_unpacked_bytes} bytes, the limit")
        if size < 0 or self._bytes + size > self._max_bytes:
            raise InvalidArgument(
                f"the archive unpacks to more than {self._max_bytes} bytes: too much for its own size"
            )


def check_links(root: Path) -> None:
    """Check that every symbolic link below a directory leads to something in that directory.

    Raises:
        InvalidArgument: one does not.
    """
    real_root = Path(os.path.realpath(root))
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(folder, name)
            if not path.is_symlink():
                continue
            end = Path(os.path.realpath(path))
            if not end.exists() or not end.is_relative_to(real_root):
                raise InvalidArgument(
                    f"{str(path.relative_to(root))!r} in the archive is a link to "
                    f"{os.readlink(path)!r:.200}: it leads outside, or nowhere"
                )


def _safe_path(name: str) -> PurePosixPath:
    """Return the path of an entry below the archive's root."""
    path = PurePosixPath(name)
    if not name or "\0" in name:
        raise InvalidArgument(f"the archive has an entry {name!r:.200}: that is no name")
    if path.is_absolute() or ".." in path.parts:
        raise InvalidArgument(f"the archive has an entry {name!r:.200}: it leads outside")
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except UnicodeEncodeError:
        raise InvalidArgument(f"the archive has an entry {name!r:.200}: that is no name here") from None
    if len(os.fsencode(name)) > _MAX_NAME or longest > _MAX_COMPONENT or len(path.parts) > _MAX_DEPTH:
        raise InvalidArgument(f"the archive has an entry {name[:60]!r}…: its name is too long or too deep")
    return path

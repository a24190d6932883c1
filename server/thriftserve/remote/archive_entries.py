"""What an archive wants to put on disk, one entry at a time, each looked at before it is done.

(name, kind, bytes)  --Unpacked: safe name, new name, within the limits-->  a file, a directory, a link

Nothing is ever written through a link: links are made when everything else is there, and only such as stay inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from thriftserve.errors import InvalidArgument
from thriftserve.remote.download import Limits, Phase, Progress, ProgressDeadline, Report, TooLarge

#: Bytes copied at a time.
CHUNK = 1 << 20
#: Longest name of an entry, its longest part (what file systems take), and the most parts of it.
_MAX_NAME = 1024
_MAX_COMPONENT = 255
_MAX_DEPTH = 32


class Unpacked:
    """A directory that an archive is unpacked into; its methods raise InvalidArgument for what is not safe.

    And TooLarge for what is more than the limits allow.

    Args:
        root: an empty directory.
        packed: size of the archive in bytes.
    """

    def __init__(self, root: Path, packed: int, limits: Limits, deadline: ProgressDeadline, report: Report) -> None:
        self._root = root
        self._limits = limits
        self._deadline = deadline
        self._report = report
        self._most = limits.free_bytes + limits.max_ratio * packed
        self._bytes = 0
        self._entries = 0
        self._files: set[PurePosixPath] = set()
        self._directories: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def directory(self, name: str) -> None:
        """Makes a directory; it may be there already."""
        path = self._admit(name)
        if path in self._files or path in self._links:
            raise InvalidArgument(f"the archive has two entries {name!r:.200}")
        self._make(path)

    def file(self, name: str, size: int, content: Iterator[bytes]) -> None:
        """Writes a file; `size` is what the archive says of it, `content` what it really is."""
        path = self._fresh(name)
        self._hold(size)
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

    def hard_link(self, name: str, target: str) -> None:
        """Links to a file that was unpacked before."""
        path, source = self._fresh(name), _safe(target)
        if source not in self._files:
            raise InvalidArgument(f"{name!r:.200} in the archive is a link to {target!r:.200}, which is no file in it")
        os.link(self._root / source, self._root / path)
        self._files.add(path)

    def soft_link(self, name: str, target: str) -> None:
        """Notes a symbolic link, to be made by `finish`."""
        self._links[self._fresh(name)] = target

    def finish(self) -> None:
        """Makes the links."""
        for path, target in self._links.items():
            if not target or "\0" in target or os.path.isabs(target):
                raise InvalidArgument(f"{str(path)!r} in the archive is a link to {target!r:.200}: it leads outside")
            (self._root / path).symlink_to(target)
        check_links(self._root)

    def _fresh(self, name: str) -> PurePosixPath:
        path = self._admit(name)
        if path in self._files or path in self._links or path in self._directories or path == PurePosixPath():
            raise InvalidArgument(f"the archive has two entries {name!r:.200}")
        self._make(path.parent)
        return path

    def _admit(self, name: str) -> PurePosixPath:
        self._entries += 1
        if self._entries > self._limits.max_entries:
            raise InvalidArgument(f"the archive has more than {self._limits.max_entries} entries")
        self._deadline.check()
        return _safe(name)

    def _make(self, path: PurePosixPath) -> None:
        for one in reversed([path, *path.parents]):
            if one in self._files or one in self._links:
                raise InvalidArgument(f"the archive puts entries below {str(one)!r}, which is no directory in it")
            if one not in self._directories:
                (self._root / one).mkdir(exist_ok=True)
                self._directories.add(one)

    def _hold(self, size: int) -> None:
        if self._bytes + size > self._limits.max_unpacked_bytes:
            raise TooLarge(f"the archive unpacks to more than {self._limits.max_unpacked_bytes} bytes, the limit")
        if size < 0 or self._bytes + size > self._most:
            raise InvalidArgument(f"the archive unpacks to more than {self._most} bytes: too much for its own size")


def check_links(root: Path) -> None:
    """Holds every symbolic link below a directory to leading to something in that directory.

    Raises:
        InvalidArgument: one does not.
    """
    real = Path(os.path.realpath(root))
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(folder, name)
            if not path.is_symlink():
                continue
            end = Path(os.path.realpath(path))
            if not end.exists() or not end.is_relative_to(real):
                raise InvalidArgument(
                    f"{str(path.relative_to(root))!r} in the archive is a link to "
                    f"{os.readlink(path)!r:.200}: it leads outside, or nowhere"
                )


def _safe(name: str) -> PurePosixPath:
    """The path of an entry below the archive's root."""
    path = PurePosixPath(name)
    if not name or "\0" in name:
        raise InvalidArgument(f"the archive has an entry {name!r:.200}: that is no name")
    if path.is_absolute() or ".." in path.parts:
        raise InvalidArgument(f"the archive has an entry {name!r:.200}: it leads outside")
    try:
        longest = max((len(os.fsencode(one)) for one in path.parts), default=0)
    except UnicodeEncodeError:
        raise InvalidArgument(f"the archive has an entry {name!r:.200}: that is no name here") from None
    if len(os.fsencode(name)) > _MAX_NAME or longest > _MAX_COMPONENT or len(path.parts) > _MAX_DEPTH:
        raise InvalidArgument(f"the archive has an entry {name[:60]!r}…: its name is too long or too deep")
    return path

"""Files of any package: the atomic write, and the error for content that can't be used.

    content  --write_atomically-->  a new file beside PATH  --rename-->  PATH

A reader finds the old content or the new content, never a part of either. This holds also when the writing process is
killed at any moment.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True, mode: int | None = None) -> None:
    """Replace the file at `path`, or create it, in one step.

    Safe to call from several threads and processes, also for the same path: the last one wins.

    Args:
        path: the file; its directory must exist.
        content: the new content. Text is encoded as UTF-8.
        durable: also survive a failure of the machine. Costs a write to the disk (fsync).
        mode: the exact permissions. None: as any new file of this process (umask).

    Raises:
        OSError: the file can't be written. The old file is unchanged.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    # The thread's id makes the name unique: two threads that write the same file don't share a new one.
    new_path = path.with_name(f".{path.name}.{threading.get_native_id()}.new")
    new_path.unlink(missing_ok=True)  # left behind by a killed process that had the same id
    fd = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    try:
        with open(fd, "wb") as file:
            if mode is not None:
                os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        os.replace(new_path, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new_path.unlink()
        raise


class CorruptFile(ValueError):
    """A file's content is not what it should be. The message says how."""

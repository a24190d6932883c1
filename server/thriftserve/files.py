"""A file that changes whole or not at all.

content  --write_whole-->  a new file beside its place  --rename-->  PATH

Whoever reads it finds the old content or the new one, whenever the process that writes is killed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, durable: bool = True, mode: int | None = None) -> None:
    """Puts a file in the place of the one that is there, in one step.

    Args:
        path: of the file; its directory must be there.
        content: text becomes UTF-8.
        durable: also where the machine fails one of the two is there whole; it takes a write to the disk.
        mode: its permissions, exactly; None: those of any new file of the process.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    # A name of the thread's own: two that write the same file at once don't write into each other's.
    fresh = path.with_name(f".{path.name}.{threading.get_native_id()}.new")
    fresh.unlink(missing_ok=True)  # of a process with our number that was killed
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    try:
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


class CorruptFile(ValueError):
    """The content of a file is not what it should be; the message says how."""

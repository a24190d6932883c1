"""Memory that a process has mapped and needs no more.

/proc/self/smaps --clean pages of files, which were never written to--> given back; the next touch finds them again

Importing TensorFlow reads most of its libraries once: a quarter of a gigabyte that stays mapped in whoever did it.
The pages belong to the system's file cache, which keeps them for as long as it has room.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

_MADV_DONTNEED = 4
#: A mapping's first line in smaps: its place, its rights, its file.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)\s*(/.*)?$")
#: What tells that pages of a private mapping are its own, and would be lost.
_OWN = ("Private_Dirty", "Shared_Dirty", "Anonymous", "Swap")


def forget_clean_pages() -> int:
    """Unmaps the pages of files that this process only reads.

    Returns:
        Bytes that it no longer has in memory.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            found = list(read_only_files(smaps.read()))
    except OSError:  # a system that does not show them
        return 0
    return sum(resident for start, size, resident in found if libc.madvise(start, size, _MADV_DONTNEED) == 0)


def read_only_files(smaps: str) -> Iterator[tuple[int, int, int]]:
    """The mappings of files that have no page of their own and can't get one: (start, size, resident), bytes.

    >>> text = '''7f00-8f00 r-xp 00000000 08:01 77  /lib/some.so
    ... Rss:      4 kB
    ... Private_Dirty:   0 kB
    ... Shared_Dirty:    0 kB
    ... Anonymous:       0 kB
    ... Swap:            0 kB
    ... 9f00-af00 rw-p 00000000 08:01 77  /lib/some.so
    ... Rss:      4 kB
    ... '''
    >>> list(read_only_files(text))
    [(32512, 4096, 4096)]
    """
    for start, size, rights, sizes in _mappings(smaps):
        if "w" not in rights and rights.endswith("p") and sizes["Rss"] and not any(sizes.get(one, 1) for one in _OWN):
            yield start, size, sizes["Rss"]


def _mappings(smaps: str) -> Iterator[tuple[int, int, str, dict[str, int]]]:
    """Every mapping of a file: start, size, rights, its sizes by name in bytes."""
    current: tuple[int, int, str, dict[str, int]] | None = None
    for line in smaps.splitlines():
        head = _MAPPING.match(line)
        if head is None:
            name, _, value = line.partition(":")
            if current is not None and value.endswith("kB"):
                current[3][name] = int(value[:-2]) * 1024
            continue
        if current is not None:
            yield current
        start, end = int(head[1], 16), int(head[2], 16)
        current = (start, end - start, head[3], {"Rss": 0}) if head[5] and head[4] != "0" else None
    if current is not None:
        yield current

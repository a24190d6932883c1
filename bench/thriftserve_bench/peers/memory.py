"""A server's memory as if nothing else ran that maps the same files.

    pids  -->  they and their children, theirs too  -->  anonymous and shared memory + each mapped file once  -->  bytes

Contestants stay up side by side and map the same TensorFlow. PSS divides its pages among all of them, and would
flatter each one the more the others are.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import psutil

#: Mappings that have a path and are no files: their pages are told as shared memory.
_NO_FILES = ("/dev/", "/memfd:", "/SYSV", "/anon_hugepage")


def alone_bytes(*pids: int) -> int:
    """Bytes that would be free if these process trees ended and nothing else used their files."""
    roots = [psutil.Process(pid) for pid in pids]
    own = 0
    files: defaultdict[str, int] = defaultdict(int)
    for process in [*roots, *(child for root in roots for child in root.children(recursive=True))]:
        try:
            own += _own_bytes(process.pid)
            for mapped in process.memory_maps(grouped=True):
                if mapped.path.startswith("/") and not mapped.path.startswith(_NO_FILES):
                    # Pages of one file are the same pages in each process, and each has most of those it needs.
                    files[mapped.path] = max(files[mapped.path], mapped.rss - mapped.anonymous)
        except (psutil.NoSuchProcess, OSError):
            continue  # it ended between the two looks
    return own + sum(files.values())


def _own_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process; what it shares with n others counts 1/n."""
    kilobytes = {"Pss_Anon": 0, "Pss_Shmem": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in kilobytes:
            kilobytes[name] = int(rest.split()[0])
    return 1024 * sum(kilobytes.values())

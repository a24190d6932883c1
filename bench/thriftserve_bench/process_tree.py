"""A server's process tree: its CPU time, its memory, and signals to it.

pid  -->  the process and its descendants  -->  CPU seconds, bytes of memory, paused, resumed, stopped
pid  -->  one process, or one group, other than the caller's own  -->  signal
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

_STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)
_STILL_WITHIN_S = 1.0
#: Mappings with a path that are no files: the kernel counts their pages as shared memory.
_NO_FILES = ("/dev/", "/memfd:", "/SYSV", "/anon_hugepage")


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree, bytes.

    Attributes:
        rss: resident; memory that processes share counts in each of them.
        pss: proportional; memory that n processes share counts 1/n in each.
        uss: unique; shared memory does not count: what each process would free by ending alone.
    """

    rss: int
    pss: int
    uss: int


def cpu_s(pid: int) -> float:
    """Return user and system CPU seconds of a process tree so far, including children that have ended."""
    total = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
            total += times.children_user + times.children_system + own_cpu_s(process.pid)
        except (psutil.NoSuchProcess, OSError):
            continue  # it has just ended: its parent has its time now
    return total


def own_cpu_s(pid: int) -> float:
    """Return CPU seconds of one process, to the nanosecond; /proc counts in steps of 10 ms.

    The number of the clock is that of Linux's clock_getcpuclockid(3), which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> Memory:
    """Return the memory of a process tree now."""
    rss = pss = uss = 0
    for process in _tree(pid):
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        rss += info.rss
        pss += info.pss
        uss += info.uss
    return Memory(rss, pss, uss)


def standalone_bytes(*pids: int) -> int:
    """Return the memory that process trees would use if nothing else mapped the same files.

    That is anonymous and shared memory, and each mapped file once. Servers that are up side by side map the same
    TensorFlow: PSS divides its pages among all of them, and makes each look the smaller the more the others are.
    """
    own = 0
    files: defaultdict[str, int] = defaultdict(int)
    for process in (process for pid in pids for process in _tree(pid)):
        try:
            own += _unmapped_bytes(process.pid)
            for mapped in process.memory_maps(grouped=True):
                if mapped.path.startswith("/") and not mapped.path.startswith(_NO_FILES):
                    # Pages of one file are the same pages in each process, and each has most of those it needs.
                    files[mapped.path] = max(files[mapped.path], mapped.rss - mapped.anonymous)
        except (psutil.NoSuchProcess, OSError):
            continue  # it has just ended
    return own + sum(files.values())


def _unmapped_bytes(pid: int) -> int:
    """Return anonymous and shared memory of a process; memory that it shares with n others counts 1/n."""
    kilobytes = {"Pss_Anon": 0, "Pss_Shmem": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in kilobytes:
            kilobytes[name] = int(rest.split()[0])
    return 1024 * sum(kilobytes.values())


def pause(pid: int) -> None:
    """Stop a process tree where it is, so that it takes no CPU until `resume`."""
    paused: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        while running := [process for process in _tree(pid) if process.pid not in paused]:
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
                    _wait_until_still(process)  # until then it may fork another child
                paused.add(process.pid)


def resume(pid: int) -> None:
    """Let a paused process tree continue, children first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in reversed(_tree(pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _wait_until_still(process: psutil.Process) -> None:
    """Wait for a process to stop: one on another core runs on for a moment, one in the kernel until it returns."""
    until = time.monotonic() + _STILL_WITHIN_S
    while process.status() not in _STILL and time.monotonic() < until:
        time.sleep(0.001)


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process whose pid was read somewhere: in a status, a log, a file.

    Raises:
        ValueError: the pid names no single process (0 is the caller's own group, -1 everybody), or it is the caller,
            one of its ancestors, or init.
    """
    if pid <= 1 or pid == os.getpid() or any(parent.pid == pid for parent in psutil.Process().parents()):
        raise ValueError(f"signal {number} to pid {pid}: expected a process other than this one and its parents")
    os.kill(pid, number)


def signal_group(group: int, number: int) -> None:
    """Send a signal to every process of a group.

    Raises:
        ValueError: it is no group (0 is the caller's own), or the caller's own.
    """
    if group <= 1 or group == os.getpgrp():
        raise ValueError(f"signal {number} to process group {group}: expected one that this process is not in")
    os.killpg(group, number)


def stop(pid: int, timeout_s: float) -> None:
    """End a process tree: SIGTERM to its root, then SIGKILL to what is left of the tree after `timeout_s`."""
    try:
        tree = _tree(pid)
    except psutil.NoSuchProcess:
        return
    tree[0].terminate()
    _, alive = psutil.wait_procs(tree[:1], timeout_s)
    # Apache's process pool leaves its workers behind, serving.
    for process in [*alive, *tree[1:]]:
        if process.is_running() and process.pid != os.getpid():
            process.kill()
    psutil.wait_procs(tree, timeout_s)

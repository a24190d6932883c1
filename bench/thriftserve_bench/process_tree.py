"""A server's processes: what they took, all together, and how they are signalled.

pid  -->  it and its children, theirs too  -->  CPU seconds, bytes of memory
pid  -->  one process, or one group, that is not the caller's own  -->  signal
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

import psutil

_STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)
_STILL_WITHIN_S = 1.0


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree, bytes.

    Attributes:
        rss: resident; what processes share counts in each of them.
        pss: proportional; what n processes share counts 1/n in each.
        uss: unique; what they share does not count: what would be free if each ended alone.
    """

    rss: int
    pss: int
    uss: int


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process tree so far, children that ended included."""
    total = 0.0
    for process in _family(pid):
        try:
            times = process.cpu_times()
            total += times.children_user + times.children_system + own_cpu_s(process.pid)
        except (psutil.NoSuchProcess, OSError):
            continue  # it ended between the two looks: its parent has its time now
    return total


def own_cpu_s(pid: int) -> float:
    """CPU seconds of one process in nanoseconds' steps; what /proc tells has steps of 10 ms.

    The number of the clock is that of Linux's clock_getcpuclockid(3), which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> Memory:
    """Memory of a process tree now."""
    rss = pss = uss = 0
    for process in _family(pid):
        try:
            info = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        rss += info.rss
        pss += info.pss
        uss += info.uss
    return Memory(rss, pss, uss)


def pause(pid: int) -> None:
    """Stops a process tree where it stands, until `resume`: it takes no CPU."""
    paused: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        while found := [one for one in _family(pid) if one.pid not in paused]:
            for one in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.suspend()
                    _wait_until_still(one)  # until then it may have another child
                paused.add(one.pid)


def resume(pid: int) -> None:
    """Lets a process tree go on."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in reversed(_family(pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()


def _family(pid: int) -> list[psutil.Process]:
    """A process, and whoever descends from it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _wait_until_still(process: psutil.Process) -> None:
    """A process on another core runs on for a moment, one in the kernel until it comes out."""
    until = time.monotonic() + _STILL_WITHIN_S
    while process.status() not in _STILL and time.monotonic() < until:
        time.sleep(0.001)


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process whose pid was read somewhere: in a status, a log, a file.

    Raises:
        ValueError: the pid names no single process (0 is the caller's own group, -1 everybody), or it is the caller,
            one that the caller descends from, or init.
    """
    if pid <= 1 or pid == os.getpid() or any(one.pid == pid for one in psutil.Process().parents()):
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


def stop(pid: int, patience_s: float) -> None:
    """Ends a process tree: SIGTERM to its root, then SIGKILL to whatever is left of it."""
    try:
        family = _family(pid)
    except psutil.NoSuchProcess:
        return
    family[0].terminate()
    _, alive = psutil.wait_procs(family[:1], patience_s)
    # Apache's process pool leaves its workers behind, serving.
    for process in [*alive, *family[1:]]:
        if process.is_running() and process.pid != os.getpid():
            process.kill()
    psutil.wait_procs(family, patience_s)

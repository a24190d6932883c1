"""The number of cores that this process may use.

    sched_getaffinity, CPU limit of the control group  -->  usable_cores()

A container with a CPU limit sees all cores of its machine. With a process for each of them, the kernel would stop all
of them again and again, whenever together they have used what the group may use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

#: The control groups of this process, and where their files are mounted (Linux, cgroups(7)).
CGROUP_FILE = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def usable_cores(cgroup_file: Path = CGROUP_FILE, cgroup_root: Path = CGROUP_ROOT) -> int:
    """Return how many cores this process can keep busy: at least 1, and only whole ones of a group's limit."""
    limit = cpu_limit(cgroup_file, cgroup_root)
    allowed = len(os.sched_getaffinity(0))
    return allowed if limit is None else max(1, min(allowed, int(limit)))


@cache
def cpu_limit(cgroup_file: Path, cgroup_root: Path) -> float | None:
    """Return the CPU limit in cores: the smallest one of the process's control group and the groups around it.

    Args:
        cgroup_file: lines as in /proc/self/cgroup, of version 1 or 2.
        cgroup_root: a directory like /sys/fs/cgroup.

    Returns:
        None if there is no limit.
    """
    try:
        lines = cgroup_file.read_text().splitlines()
    except OSError:  # this system has no control groups
        return None
    limits: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            limits += _limits(cgroup_root, group, _limit_version_2)
        elif "cpu" in controllers.split(","):
            limits += _limits(cgroup_root / controllers, group, _limit_version_1)
    return min(limits, default=None)


def _limits(root: Path, group: str, limit_of: Callable[[Path], float | None]) -> Iterator[float]:
    """Yield the limits of a group and of every group around it, as far as this process can see them."""
    group_dir = root / group.lstrip("/")
    for directory in (group_dir, *group_dir.parents):
        try:
            limit = limit_of(directory)
        except (OSError, ValueError, ZeroDivisionError):  # this directory has no limit
            limit = None
        if limit is not None:
            yield limit
        if directory == root:
            return


def _limit_version_2(directory: Path) -> float | None:
    quota, period = (directory / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _limit_version_1(directory: Path) -> float | None:
    quota = int((directory / "cpu.cfs_quota_us").read_text())
    return None if quota < 0 else quota / int((directory / "cpu.cfs_period_us").read_text())

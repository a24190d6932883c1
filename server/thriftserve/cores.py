"""Cores that this process may use: those that it may run on, and no more than its group's share of their time.

sched_getaffinity, the control group's CPU limit --> usable_cores()

A container with a CPU limit sees all cores of its machine. A process for each of them would be stopped again and
again, whenever they have used up what the group is allowed together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")

#: The limit that a group's directory tells; None: it has none.
Limit = Callable[[Path], float | None]


def usable_cores() -> int:
    """How many: 1 at least, whole ones of the group's limit."""
    limit = cpu_limit(_GROUPS, _MOUNTED)
    allowed = len(os.sched_getaffinity(0))
    return allowed if limit is None else max(1, min(allowed, int(limit)))


@cache
def cpu_limit(groups: Path, mounted: Path) -> float | None:
    """The smallest limit of this process's control group and of those around it, in cores; None: there is none.

    Args:
        groups: as /proc/self/cgroup, of version 1 or 2.
        mounted: as /sys/fs/cgroup.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not on this system
        return None
    found: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            found += _limits(mounted, group, _version_2)
        elif "cpu" in controllers.split(","):
            found += _limits(mounted / controllers, group, _version_1)
    return min(found, default=None)


def _limits(root: Path, group: str, limit_of: Limit) -> Iterator[float]:
    """Of a group, and of every one around it that can be seen from here."""
    inside = root / group.lstrip("/")
    for directory in (inside, *inside.parents):
        try:
            limit = limit_of(directory)
        except (OSError, ValueError, ZeroDivisionError):  # none is kept there
            limit = None
        if limit is not None:
            yield limit
        if directory == root:
            return


def _version_2(directory: Path) -> float | None:
    quota, period = (directory / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _version_1(directory: Path) -> float | None:
    quota = int((directory / "cpu.cfs_quota_us").read_text())
    return None if quota < 0 else quota / int((directory / "cpu.cfs_period_us").read_text())

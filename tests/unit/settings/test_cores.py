"""Usable cores: the CPU limit of a control group counts, at whatever level it is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thriftserve.cores import cpu_limit, usable_cores


def cgroups(root: Path, files: dict[str, str], groups: str) -> tuple[Path, Path]:
    """Create a /proc/self/cgroup with those lines, and a /sys/fs/cgroup with those files; return their paths."""
    for name, content in files.items():
        path = root / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    cgroup_file = root / "cgroup"
    cgroup_file.write_text(groups)
    return cgroup_file, root / "mounted"


@pytest.mark.parametrize(
    ("files", "groups", "limit"),
    [
        pytest.param({"cpu.max": "max 100000\n"}, "0::/\n", None, id="none"),
        pytest.param({"cpu.max": "250000 100000\n"}, "0::/\n", 2.5, id="container"),
        pytest.param({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 3.0, id="around"),
        pytest.param({"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 100000"}, "0::/a/b\n", 0.5, id="smallest"),
        pytest.param({"cpu.max": "400000 100000"}, "0::/of/the/host\n", 4.0, id="seen-from-inside"),
        pytest.param(
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"},
            "5:memory:/pod\n4:cpu,cpuacct:/pod\n",
            1.5,
            id="version-1",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "1:cpu:/\n",
            None,
            id="version-1-none",
        ),
        pytest.param({"cpu.max": "of another kind"}, "0::/\n", None, id="unreadable"),
        pytest.param({}, "0::/../outside\n", None, id="outside"),
    ],
)
def test_the_limit_of_a_group(tmp_path: Path, files: dict[str, str], groups: str, limit: float | None) -> None:
    """The smallest of the group's own limit and of those around it, in either version of control groups."""
    assert cpu_limit(*cgroups(tmp_path, files, groups)) == limit


def test_where_there_are_no_groups(tmp_path: Path) -> None:
    """A system without control groups has no limit."""
    assert cpu_limit(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("limit", "usable"), [("50000", 1), ("100000", 1), ("190000", 1), ("99900000", 10**6)])
def test_whole_cores(tmp_path: Path, limit: str, usable: int) -> None:
    """Usable cores are whole cores of the limit: at least 1, and no more than the machine has."""
    cores = usable_cores(*cgroups(tmp_path, {"cpu.max": f"{limit} 100000"}, "0::/\n"))
    assert cores == min(usable, len(os.sched_getaffinity(0)))

"""The machine of a run: its hardware and software, and which cores run what.

/proc, git, installed packages  -->  facts beside every figure
cores                           -->  the first ones for load generators, the others for servers
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_UNKNOWN = "unknown"


def describe() -> dict[str, Any]:
    """Return CPU, cores, memory, kernel and load average of this machine."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": list(os.getloadavg()),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or _UNKNOWN
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or _UNKNOWN)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str:
    """Return the commit of the source tree, with a + if files differ from it, or "unknown" outside of a tree."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return _UNKNOWN
    return revision + ("+" if changed else "")


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    completed = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    return completed.stdout.strip()


def core_set(text: str) -> set[int]:
    """Parse "1,2,3"."""
    return {int(part) for part in text.split(",")}


def split_cores(generators: int, pin: bool) -> tuple[list[str], set[int]]:
    """Return a core for each load generator, and the cores of the servers.

    Where pinning is off, or there are too few cores, nothing is pinned: the generators' cores are empty texts.
    """
    available = sorted(os.sched_getaffinity(0))
    if not pin or len(available) <= generators:
        return [""] * generators, set(available)
    return [str(core) for core in available[:generators]], set(available[generators:])


@contextmanager
def running_on(cores: set[int]) -> Iterator[None]:
    """Start the block's child processes on `cores`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

"""Which processes make up the gateway, and what they use, as the kernel tells.

PROMETHEUS_MULTIPROC_DIR, /proc --> live pids --> resident memory, CPU time
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thriftserve.gateway import metrics_table as table

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"(?:counter|histogram|gauge_livesum)_(\d+)\.db")
_TICKS_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Fields of /proc/PID/stat, counted from behind the name, which may have blanks in it: see proc(5).
_UTIME, _STIME, _RSS = 11, 12, 21


class ProcessCollector(Collector):
    """Memory and CPU time of each process of the gateway.

    Args:
        directory: what they share; None: this process is alone.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            table.PROCESS_MEMORY.name, table.PROCESS_MEMORY.help, labels=table.PROCESS_MEMORY.labels
        )
        cpu = CounterMetricFamily(table.PROCESS_CPU.name, table.PROCESS_CPU.help, labels=table.PROCESS_CPU.labels)
        for pid in sorted({os.getpid()} if self._directory is None else pids_in(self._directory)):
            used = _usage(pid)
            if used is not None:
                memory.add_metric([str(pid)], used[0])
                cpu.add_metric([str(pid)], used[1])
        yield memory
        yield cpu


def shared_directory() -> Path | None:
    """The directory that processes count in together; None: each for itself."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named) if named else None


def pids_in(directory: Path) -> set[int]:
    """The processes alive that count there."""
    found = {int(name[1]) for file in directory.iterdir() if (name := _FILE.fullmatch(file.name))}
    return {pid for pid in found if _usage(pid) is not None}


def forget_the_dead(directory: Path) -> None:
    """What processes that were killed said of their present is past; what they counted stays."""
    for file in directory.glob("gauge_livesum_*.db"):
        found = _FILE.fullmatch(file.name)
        if found and _usage(int(found[1])) is None:
            file.unlink(missing_ok=True)


def _usage(pid: int) -> tuple[int, float] | None:
    """Resident bytes and CPU seconds; None: there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[_RSS]) * _PAGE_BYTES, (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_S

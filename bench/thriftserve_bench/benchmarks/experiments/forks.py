"""What a fork costs, against the memory that its parent holds.

    measure(filled_with, MB)  -->  a process of its own: fills itself, forks, waits, again  -->  ForkCost

    python -m thriftserve_bench.benchmarks.experiments.forks ballast 200 20
    python -m thriftserve_bench.benchmarks.experiments.forks tensorflow 0 20

A child ends at once. The parent's page tables are what fork copies, so every page of the ballast is touched, and
none is one of the kernel's huge ones, which Python's own memory hardly ever has.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from thriftserve_bench.records.experiments import ForkCost

BALLAST, TENSORFLOW = "ballast", "tensorflow"
_TIMEOUT_S = 120.0


class ForkCostFailed(Exception):
    """The process that forks ended without figures."""


def measure(filled_with: str, megabytes: int, repeats: int) -> ForkCost:
    """Time forks in a process of its own.

    Args:
        filled_with: BALLAST or TENSORFLOW.
        megabytes: size of the ballast.
        repeats: how many forks.

    Raises:
        ForkCostFailed: it ended, or took longer than two minutes.
    """
    command = [
        sys.executable,
        "-m",
        "thriftserve_bench.benchmarks.experiments.forks",
        filled_with,
        str(megabytes),
        str(repeats),
    ]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2"} | os.environ
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, env=environment)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise ForkCostFailed(f"{' '.join(command[2:])}: {said[-1] if said else error}") from error
    except subprocess.TimeoutExpired as error:
        raise ForkCostFailed(str(error)) from error
    return ForkCost(**json.loads(done.stdout))


def fork_costs(megabytes: tuple[int, ...], repeats: int, with_tensorflow: bool) -> Iterator[ForkCost]:
    """Yield each size in turn, then TensorFlow's import; what can't be measured is left out."""
    kinds = [(BALLAST, size) for size in megabytes] + ([(TENSORFLOW, 0)] if with_tensorflow else [])
    for filled_with, size in kinds:
        try:
            yield measure(filled_with, size, repeats)
        except ForkCostFailed as error:
            print(f"thriftserve-bench: no figure of forks: {error}", file=sys.stderr)


def _fill(filled_with: str, megabytes: int) -> mmap.mmap | None:
    if filled_with == TENSORFLOW:
        import tensorflow  # noqa: F401  (its import is what fills the process)
    if not megabytes:
        return None
    ballast = mmap.mmap(-1, megabytes * 1_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        ballast.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(ballast), mmap.PAGESIZE):
        ballast[at] = 1
    return ballast


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * mmap.PAGESIZE


def _fork_once() -> tuple[float, float]:
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    forked = time.perf_counter()
    os.waitpid(pid, 0)
    return forked - began, time.perf_counter() - began


def main() -> int:
    """Print one ForkCost as JSON."""
    filled_with, megabytes, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ballast = _fill(filled_with, megabytes)
    _fork_once()
    times = [_fork_once() for _ in range(repeats)]
    cost = ForkCost(filled_with, _resident_bytes(), [pair[0] for pair in times], [pair[1] for pair in times])
    print(json.dumps(asdict(cost)))
    if ballast is not None:
        ballast.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

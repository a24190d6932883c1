"""Flags that both hosts take, and the service that they ask for.

argv  -->  server type, processes, threads, limit, workload, cores
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from thriftserve_bench.echo_service import echo_processor
from thriftserve_bench.server_types import WITH_THREADS, WITH_WORKERS

#: Room for 32 x 224 x 224 x 3 float32 (19,267,584 bytes) and what is around it.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024


def parse_host_flags(description: str | None, server_types: Sequence[str]) -> argparse.Namespace:
    """Reads `sys.argv` and keeps this process to its cores; wrong flags leave through SystemExit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server_type", choices=server_types)
    parser.add_argument("--workers", type=int, default=4, help=f"processes of {' and '.join(WITH_WORKERS)}")
    parser.add_argument("--threads", type=int, default=10, help=f"threads of {' and '.join(WITH_THREADS)}")
    parser.add_argument("--max-message-bytes", type=int, default=MAX_MESSAGE_BYTES)
    parser.add_argument(
        "--workload", metavar="SOURCE", help="serve package.module:Class?option=value; the echo service by default"
    )
    parser.add_argument("--cores", type=core_set, help="cores to run on, like 1,2,3; all by default")
    flags = parser.parse_args()
    if flags.cores:
        os.sched_setaffinity(0, flags.cores)
    return flags


def processor_of(flags: argparse.Namespace) -> Any:
    """The processor of the service to host."""
    if not flags.workload:
        return echo_processor()
    # Brings numpy, whose memory the echo service's hosts must not have.
    from thriftserve_bench.workload_service import workload_processor

    return workload_processor(flags.workload)


def core_set(text: str) -> set[int]:
    """Reads "1,2,3"."""
    return {int(part) for part in text.split(",")}

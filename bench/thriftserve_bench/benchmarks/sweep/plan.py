"""What a sweep measures: every server with every payload under every load.

SweepSettings  -->  Variants, each started once  -->  the Settings of each, one point each
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import product

from thriftserve_bench.records.sweep import CLOSED, ECHO, OPEN, Setting, Variant
from thriftserve_bench.servers import WITH_THREADS, WITH_WORKERS
from thriftserve_bench.workloads.payloads import payload_bytes

#: Answers one connection at a time: others would wait for it to hang up.
ONE_CONNECTION = "TSimpleServer"


@dataclass(frozen=True)
class SweepSettings:
    """What `sweep` measures and for how long."""

    server_types: tuple[str, ...] = ("TBatchingServer",)
    workers: tuple[int, ...] = (2,)
    threads: tuple[int, ...] = (10,)
    #: NAME=SOURCE for `thriftserve serve --model`, or ECHO.
    models: tuple[str, ...] = (ECHO,)
    #: Names of PAYLOADS, or numbers of bytes.
    payloads: tuple[str, ...] = ("tiny",)
    #: Callers of the closed loops.
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    #: Calls a second of the open loops.
    rates: tuple[float, ...] = (100.0, 500.0, 1000.0, 2000.0)
    #: The most connections that an open loop uses.
    connections: int = 32
    #: Length of a window, and how many windows a point has at most.
    seconds: float = 1.0
    max_windows: int = 8
    #: Three windows in a row that differ by no more than this part have settled.
    agree: float = 0.10
    #: How long a call may take; also for the first one.
    timeout_s: float = 30.0
    seed: int = 1
    generators: int = 1
    #: The load generators have the first cores to themselves, the server the others.
    pin: bool = True
    #: Passed to `thriftserve serve` as they are.
    serve_flags: tuple[str, ...] = ()
    #: Environment of the server besides the command's own.
    environment: dict[str, str] = field(default_factory=dict)

    def variants(self) -> list[Variant]:
        """The servers, each once; a number that a type has no use for does not multiply it."""
        every = product(self.models, self.server_types, self.workers, self.threads)
        found = [
            Variant(kind, workers if kind in WITH_WORKERS else 0, threads if kind in WITH_THREADS else 0, model)
            for model, kind, workers, threads in every
        ]
        return list(dict.fromkeys(found))

    def points(self, variant: Variant) -> list[Setting]:
        """The points of a server."""
        alone = variant.server_type == ONE_CONNECTION
        closed = [1] if alone and self.concurrency else self.concurrency
        most = 1 if alone else self.connections
        found = []
        for payload in self.payloads:
            found += [Setting(variant, payload, CLOSED, float(count), count) for count in closed]
            found += [Setting(variant, payload, OPEN, rate, most) for rate in self.rates]
        return found

    @property
    def max_message_bytes(self) -> int:
        """What servers are to accept: twice the largest payload, and no less than they would by default."""
        return max(64 * 2**20, *(2 * payload_bytes(one) for one in self.payloads))

    @property
    def total(self) -> int:
        """How many points there are."""
        return sum(len(self.points(one)) for one in self.variants())


def split_cores(generators: int, pin: bool) -> tuple[list[str], set[int]]:
    """Where things run: a core for each generator, and the cores of the servers.

    Nothing is pinned, and the first are empty texts, where that is not wanted or there are too few cores.
    """
    available = sorted(os.sched_getaffinity(0))
    if not pin or len(available) <= generators:
        return [""] * generators, set(available)
    return [str(one) for one in available[:generators]], set(available[generators:])

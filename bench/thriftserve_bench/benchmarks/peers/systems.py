"""The systems that `peers` measures: which jobs each takes part in, how it is started and called.

jobs, families, flags of our server  -->  System: a command line, a protocol
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.load.protocols import MODEL
from thriftserve_bench.records.peers import OUR_FAMILY

#: The default is the first that the server offers.
OUR_TYPES = ("TBatchingServer", "TThreadPoolServer", "TProcessPoolServer")
_HOSTS = "thriftserve_bench.servers"
TINY, NETS = ("tiny",), ("tensor", "jpeg")
ALL = TINY + NETS


@dataclass(frozen=True)
class System:
    """A server of the jobs' models.

    Attributes:
        name: in tables and results.
        family: a name of PEERS, or OUR_FAMILY.
        jobs: the jobs that it takes part in.
        host: the module of its program; empty: `thriftserve serve`.
        protocol: a name of PROTOCOLS.
        flags: its command line, besides job and model.
        workers: processes with a model each; 0: as many as the server chooses.
    """

    name: str
    family: str
    jobs: tuple[str, ...]
    host: str
    protocol: str
    flags: tuple[str, ...] = ()
    workers: int = 1

    def arguments(self, job: str, model: Path) -> list[str]:
        """Return its command line for a job; `model` is a base path."""
        if self.family == OUR_FAMILY:
            return ["--model", f"{MODEL}={model}", "--port", "0", *self.flags]
        workers = ["--workers", str(self.workers)]
        return [job, str(model / "1"), *workers, *self.flags, "--intra-op-threads", str(self._intra(job))]

    def _intra(self, job: str) -> int:
        # Nets: several requests run side by side, so each operation is best left to one thread if there are as
        # many requests as cores. half_plus_two has nothing to divide.
        return max(1, (os.cpu_count() or 1) // max(2, self.workers)) if job in NETS else 0


def _stock(short: str, server_type: str, workers: int = 1) -> System:
    flags = ("--server-type", server_type)
    return System(f"stock {short}", "stock-thrift", ALL, f"{_HOSTS}.apache_model_host", "thrift", flags, workers)


def _http(name: str, jobs: tuple[str, ...], workers: int, batch: int) -> System:
    protocol = "http" if name == "mosec" else "json"
    title = name + (f" x{workers}" if workers > 1 else "") + (f" batch {batch}" if batch > 1 else "")
    return System(title, name, jobs, f"{_HOSTS}.{name}_host", protocol, ("--batch", str(batch)), workers)


PEER_SYSTEMS = (
    _stock("TThreadedServer", "TThreadedServer"),
    _stock("TProcessPoolServer x2", "TProcessPoolServer", 2),
    _stock("TNonblockingServer", "TNonblockingServer"),
    System("grpcio", "grpcio", ALL, f"{_HOSTS}.grpc_host", "content"),
    _http("mosec", TINY, 1, 1),
    _http("mosec", TINY, 1, 8),
    _http("mosec", TINY, 1, 64),
    _http("mosec", NETS, 2, 1),
    _http("mosec", NETS, 2, 4),
    _http("litserve", TINY, 1, 1),
    _http("litserve", TINY, 1, 64),
    _http("litserve", NETS, 2, 1),
)


def our_systems(server_types: Sequence[str], more_flags: str) -> list[System]:
    """Return a system for each server type of ours.

    Args:
        server_types: as `thriftserve serve --server-type` takes them.
        more_flags: more of that command line, as in a shell.
    """
    words = shlex.split(more_flags)
    workers = _workers_flag(words)
    return [
        System(server_type, OUR_FAMILY, ALL, "", "thrift", ("--server-type", server_type, *words), workers)
        for server_type in server_types
    ]


def _workers_flag(words: Sequence[str]) -> int:
    for place, word in enumerate(words):
        if word == "--workers" and place + 1 < len(words):
            return int(words[place + 1])
        if word.startswith("--workers="):
            return int(word.partition("=")[2])
    return 0


def select(names: Sequence[str]) -> list[System]:
    """Return the peers' systems with these names, or of families with these names."""
    return [system for system in PEER_SYSTEMS if system.family in names or system.name in names]

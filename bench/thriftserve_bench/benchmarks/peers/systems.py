"""Who takes part in which job, how it is started and spoken to.

jobs, families, flags of our server  -->  Contestant: a command line, a dialect
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench.load.protocols import MODEL

OURS = "thriftserve"
#: The best of ours stands first; the default is the first that the server offers.
OUR_TYPES = ("TBatchingServer", "TThreadPoolServer", "TProcessPoolServer")
_HOSTS = "thriftserve_bench.servers"
TINY, NETS = ("tiny",), ("tensor", "jpeg")
ALL = TINY + NETS


@dataclass(frozen=True)
class Contestant:
    """One server.

    Attributes:
        name: in tables, and of the results.
        family: a name of environments.PEERS, or OURS.
        jobs: that it takes part in.
        host: its program, a module; empty: `thriftserve serve`.
        dialect: a name of dialects.DIALECTS.
        flags: of its command line, besides job and model.
        workers: processes with a model each; 0: as many as the server chooses.
    """

    name: str
    family: str
    jobs: tuple[str, ...]
    host: str
    dialect: str
    flags: tuple[str, ...] = ()
    workers: int = 1

    def arguments(self, job: str, model: Path) -> list[str]:
        """Its command line for a job; `model` is a base path."""
        if self.family == OURS:
            return ["--model", f"{MODEL}={model}", "--port", "0", *self.flags]
        workers = ["--workers", str(self.workers)]
        return [job, str(model / "1"), *workers, *self.flags, "--intra-op-threads", str(self._intra(job))]

    def _intra(self, job: str) -> int:
        # Nets: several requests run side by side, so each operation is best left to one thread where there are as
        # many requests as cores. half_plus_two has nothing to share out.
        return max(1, (os.cpu_count() or 1) // max(2, self.workers)) if job in NETS else 0


def _stock(short: str, server_type: str, workers: int = 1) -> Contestant:
    flags = ("--server-type", server_type)
    return Contestant(f"stock {short}", "stock-thrift", ALL, f"{_HOSTS}.apache_model_host", "thrift", flags, workers)


def _http(name: str, jobs: tuple[str, ...], workers: int, batch: int) -> Contestant:
    dialect = "http" if name == "mosec" else "json"
    title = name + (f" x{workers}" if workers > 1 else "") + (f" batch {batch}" if batch > 1 else "")
    return Contestant(title, name, jobs, f"{_HOSTS}.{name}_host", dialect, ("--batch", str(batch)), workers)


PEER_CONTESTANTS = (
    _stock("TThreadedServer", "TThreadedServer"),
    _stock("TProcessPoolServer x2", "TProcessPoolServer", 2),
    _stock("TNonblockingServer", "TNonblockingServer"),
    Contestant("grpcio", "grpcio", ALL, f"{_HOSTS}.grpc_host", "content"),
    _http("mosec", TINY, 1, 1),
    _http("mosec", TINY, 1, 8),
    _http("mosec", TINY, 1, 64),
    _http("mosec", NETS, 2, 1),
    _http("mosec", NETS, 2, 4),
    _http("litserve", TINY, 1, 1),
    _http("litserve", TINY, 1, 64),
    _http("litserve", NETS, 2, 1),
)


def ours(server_types: Sequence[str], more_flags: str) -> list[Contestant]:
    """A contestant for each server type.

    Args:
        server_types: as `thriftserve serve --server-type` takes them.
        more_flags: of the same command line, as one would write them in a shell.
    """
    words = shlex.split(more_flags)
    return [
        Contestant(one, OURS, ALL, "", "thrift", ("--server-type", one, *words), _told_workers(words))
        for one in server_types
    ]


def _told_workers(words: Sequence[str]) -> int:
    for at, word in enumerate(words):
        if word == "--workers" and at + 1 < len(words):
            return int(words[at + 1])
        if word.startswith("--workers="):
            return int(word.partition("=")[2])
    return 0


def chosen(names: Sequence[str]) -> list[Contestant]:
    """The peers' servers of these names, or of families of these names."""
    return [one for one in PEER_CONTESTANTS if one.family in names or one.name in names]

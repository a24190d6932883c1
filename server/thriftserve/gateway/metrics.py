"""What Prometheus reads of the gateway and of the servers behind it.

each Exchange, Reply --RequestMetrics--> counters of this process, or of all that share a directory
GET /metrics --> counters + processes + what each server says --> Prometheus' text, or OpenMetrics where it is asked for
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from thriftserve.gateway import metric_families as table
from thriftserve.gateway.backends import Backends
from thriftserve.gateway.http import HttpReply, HttpRequest, Refusal
from thriftserve.gateway.metrics_servers import BackendStatus, ServerCollector, Servers
from thriftserve_client.errors import CallTimeout, DeadlineExceededError, ResourceExhaustedError

# Which processes make up the gateway, and what they use, as the kernel tells.

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


# What the gateway's processes count of the requests that they answer.

#: Upper bounds of the durations, in seconds: from a tiny model's answer to `max_timeout_s`.
DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)
#: Clients choose the words of a path: so many models and versions become labels, any further ones count as none.
_MOST_NAMES = 1000
#: Longer ones are not looked at, and not remembered: clients can make as many of them as they like.
_LONGEST_PATH = 500
_MODEL = re.compile(
    r"/v[12]/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/[^/:]+)?(?:[:/](?P<verb>[a-z]+))?",
    re.IGNORECASE | re.ASCII,
)
_VERBS = ("predict", "classify", "regress", "detect", "metadata", "ready", "infer")
_FIXED = {
    "/healthz": "health",
    "/readyz": "health",
    "/v2/health/live": "health",
    "/v2/health/ready": "health",
    "/metrics": "metrics",
    "/monitoring/prometheus/metrics": "metrics",
    "/service": "service",
    "/v1/models": "models",
}

W = TypeVar("W", bound=MetricWrapperBase)


@dataclass(frozen=True)
class Named:
    """What a path asks for: method (see docs/reference/metrics.md), model, version as text."""

    method: str
    model: str = ""
    version: str = ""


def named(path: str) -> Named:
    """What a path is about; of whatever it may be: the method is one of a few words."""
    return _named(path) if len(path) <= _LONGEST_PATH else Named("other")


@lru_cache(maxsize=4096)
def _named(path: str) -> Named:
    fixed = _FIXED.get(path)
    if fixed is not None:
        return Named(fixed)
    found = _MODEL.fullmatch(path)
    if found is None:
        return Named("other")
    verb = (found["verb"] or "").lower()
    if verb not in _VERBS:
        verb = "status" if not verb else "other"
    # A lone surrogate can't be written as UTF-8.
    return Named(verb, unquote(found["model"], errors="replace"), found["version"] or "")


class RequestMetrics:
    """The counters of one process.

    Args:
        registry: where they are registered; None: with the directory of several processes alone.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._requests = _made(Counter, table.REQUESTS, registry)
        self._durations = _made(Histogram, table.DURATION, registry, buckets=DURATIONS_S)
        self._received = _made(Counter, table.RECEIVED, registry)
        self._sent = _made(Counter, table.SENT, registry)
        self._in_flight = _made(Gauge, table.IN_FLIGHT, registry, multiprocess_mode="livesum")
        shed = _made(Counter, table.SHED, registry)
        self._shed_here, self._shed_behind = shed.labels("gateway"), shed.labels("server")
        self._expired = _made(Counter, table.EXPIRED, registry)
        # Another process of this pid may have left its number behind.
        self._in_flight.set(0)
        self._known: set[tuple[str, str]] = set()
        self._kept: dict[tuple[str, str, str, int], tuple[Any, ...]] = {}

    def in_flight(self, number: int) -> None:
        """So many requests are under way."""
        self._in_flight.set(number)

    def answered(self, exchange: HttpRequest, reply: HttpReply) -> None:
        """One has its answer."""
        what = named(exchange.path)
        model, version = self._served(exchange, what, reply.status)
        key = (model, version, what.method, reply.status)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = (
                self._requests.labels(model, version, what.method, reply.status),
                self._durations.labels(model, what.method),
                self._received.labels(model, what.method),
                self._sent.labels(model, what.method),
            )
        requests, durations, received, sent = kept
        requests.inc()
        durations.observe(time.perf_counter() - exchange.arrived)
        received.inc(exchange.received_bytes)
        sent.inc(len(reply.body))

    def failed(self, error: Exception, status: int) -> None:
        """One is answered with an error: counts those turned away for load, and those too late."""
        if isinstance(error, ResourceExhaustedError):
            self._shed_behind.inc()
        elif isinstance(error, Refusal) and status == 503:
            self._shed_here.inc()
        elif status == 504 or isinstance(error, DeadlineExceededError | CallTimeout):
            self._expired.inc()

    def _served(self, exchange: HttpRequest, what: Named, status: int) -> tuple[str, str]:
        """Model and version for the labels: those that a server has answered for, and no others."""
        if exchange.ran is not None:
            model, number = exchange.ran
            return self._remembered(model, "" if number is None else str(number))
        if what.model and status < 300:
            return self._remembered(what.model, what.version)
        if (what.model, what.version) in self._known:
            return what.model, what.version
        return (what.model, "") if (what.model, "") in self._known else ("", "")

    def _remembered(self, model: str, version: str) -> tuple[str, str]:
        one = (model, version)
        if one not in self._known:
            if len(self._known) >= _MOST_NAMES:
                return "", ""
            self._known |= {one, (model, "")}
        return one


def _made(kind: type[W], family: table.Family, registry: CollectorRegistry | None, **more: Any) -> W:
    return kind(family.name, family.help, family.labels, registry=registry, **more)


class Metrics:
    """Counts requests, and answers /metrics."""

    def __init__(self, backends: Backends) -> None:
        self._directory = shared_directory()
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        # When each series began is of no use to Prometheus' text format, and doubles it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs
        self._own = CollectorRegistry()
        self._servers = Servers(backends)
        self.requests = RequestMetrics(self._own)

    async def answer(self, exchange: HttpRequest) -> HttpReply:
        """Everything, in the form that the Accept header asks for."""
        told = await self._servers.look()
        # A thread: files of many processes take a while to read.
        body, content_type = await asyncio.to_thread(self._written, told, exchange.headers.get("accept", ""))
        return HttpReply(body, content_type)

    def _written(self, told: list[BackendStatus], accept: str) -> tuple[bytes, str]:
        registry = CollectorRegistry()
        if self._directory is None:
            registry.register(self._own)
        else:
            forget_the_dead(self._directory)
            MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]  # theirs
        registry.register(ProcessCollector(self._directory))
        registry.register(ServerCollector(told))
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type

"""The metrics of the gateway and of the servers behind it, for Prometheus.

each HttpRequest, HttpReply --RequestMetrics--> counters of this process, or of all that share a directory
GET /metrics --> counters + processes + each server's status --> Prometheus text, or OpenMetrics by Accept
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
from thriftserve.gateway.metrics_servers import BackendStatus, BackendStatuses, ServerCollector
from thriftserve_client.errors import CallTimeout, DeadlineExceededError, ResourceExhaustedError

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FILE = re.compile(r"(?:counter|histogram|gauge_livesum)_(\d+)\.db")
_TICKS_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Fields of /proc/PID/stat, counted from after the name, which may contain spaces; see proc(5).
_UTIME, _STIME, _RSS = 11, 12, 21
#: Upper bounds of the durations, in seconds: from a tiny model's reply to `max_timeout_s`.
DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)
#: Limit on the models and versions that become labels, for clients choose the names in paths. Others get empty labels.
_MAX_NAMES = 1000
#: Longer paths are neither parsed nor cached.
_MAX_PATH = 500
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


class Metrics:
    """Count requests, and answer /metrics."""

    def __init__(self, backends: Backends) -> None:
        self._directory = shared_directory()
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        # The time at which each series began doubles the text, and Prometheus does not use it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs
        self._registry = CollectorRegistry()
        self._backend_statuses = BackendStatuses(backends)
        self.requests = RequestMetrics(self._registry)

    async def answer(self, request: HttpRequest) -> HttpReply:
        """Return all metrics, in the format of the Accept header."""
        statuses = await self._backend_statuses.get()
        # In a thread: reading the files of many processes takes a while.
        body, content_type = await asyncio.to_thread(self._write, statuses, request.headers.get("accept", ""))
        return HttpReply(body, content_type)

    def _write(self, statuses: list[BackendStatus], accept: str) -> tuple[bytes, str]:
        registry = CollectorRegistry()
        if self._directory is None:
            registry.register(self._registry)
        else:
            remove_dead_gauges(self._directory)
            MultiProcessCollector(registry, str(self._directory))  # type: ignore[no-untyped-call]  # theirs
        registry.register(ProcessCollector(self._directory))
        registry.register(ServerCollector(statuses))
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type


class RequestMetrics:
    """The request counters of one process. The event loop's thread counts.

    Args:
        registry: where they are registered; None if several processes share a directory.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._requests = _create(Counter, table.REQUESTS, registry)
        self._durations = _create(Histogram, table.DURATION, registry, buckets=DURATIONS_S)
        self._received = _create(Counter, table.RECEIVED, registry)
        self._sent = _create(Counter, table.SENT, registry)
        self._in_flight = _create(Gauge, table.IN_FLIGHT, registry, multiprocess_mode="livesum")
        shed = _create(Counter, table.SHED, registry)
        self._shed_here, self._shed_behind = shed.labels("gateway"), shed.labels("server")
        self._expired = _create(Counter, table.EXPIRED, registry)
        # An earlier process with this pid may have left its number in the file.
        self._in_flight.set(0)
        self._names: set[tuple[str, str]] = set()
        self._series: dict[tuple[str, str, str, int], tuple[Any, ...]] = {}

    def in_flight(self, number: int) -> None:
        """Set the number of requests in flight."""
        self._in_flight.set(number)

    def answered(self, request: HttpRequest, reply: HttpReply) -> None:
        """Count a request and its reply."""
        target = parse_target(request.path)
        model, version = self._model_labels(request, target, reply.status)
        key = (model, version, target.method, reply.status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = (
                self._requests.labels(model, version, target.method, reply.status),
                self._durations.labels(model, target.method),
                self._received.labels(model, target.method),
                self._sent.labels(model, target.method),
            )
        requests, durations, received, sent = series
        requests.inc()
        durations.observe(time.perf_counter() - request.arrived)
        received.inc(request.received_bytes)
        sent.inc(len(reply.body))

    def failed(self, error: Exception, status: int) -> None:
        """Count a request answered with an error, if it was rejected for load or exceeded its deadline."""
        if isinstance(error, ResourceExhaustedError):
            self._shed_behind.inc()
        elif isinstance(error, Refusal) and status == 503:
            self._shed_here.inc()
        elif status == 504 or isinstance(error, DeadlineExceededError | CallTimeout):
            self._expired.inc()

    def _model_labels(self, request: HttpRequest, target: PathTarget, status: int) -> tuple[str, str]:
        """Return the labels for model and version: only those that a server has answered for."""
        if request.ran is not None:
            model, number = request.ran
            return self._register(model, "" if number is None else str(number))
        if target.model and status < 300:
            return self._register(target.model, target.version)
        if (target.model, target.version) in self._names:
            return target.model, target.version
        return (target.model, "") if (target.model, "") in self._names else ("", "")

    def _register(self, model: str, version: str) -> tuple[str, str]:
        labels = (model, version)
        if labels not in self._names:
            if len(self._names) >= _MAX_NAMES:
                return "", ""
            self._names |= {labels, (model, "")}
        return labels


def _create(kind: type[W], family: table.Family, registry: CollectorRegistry | None, **more: Any) -> W:
    return kind(family.name, family.help, family.labels, registry=registry, **more)


@dataclass(frozen=True)
class PathTarget:
    """What a path names: method (see docs/reference/metrics.md), model, and version as text."""

    method: str
    model: str = ""
    version: str = ""


def parse_target(path: str) -> PathTarget:
    """Return what any path names. The method is one of a few words, "other" for unknown paths."""
    return _parse_target(path) if len(path) <= _MAX_PATH else PathTarget("other")


@lru_cache(maxsize=4096)
def _parse_target(path: str) -> PathTarget:
    fixed = _FIXED.get(path)
    if fixed is not None:
        return PathTarget(fixed)
    match = _MODEL.fullmatch(path)
    if match is None:
        return PathTarget("other")
    verb = (match["verb"] or "").lower()
    if verb not in _VERBS:
        verb = "status" if not verb else "other"
    # Replaced, because a lone surrogate can't be encoded as UTF-8.
    return PathTarget(verb, unquote(match["model"], errors="replace"), match["version"] or "")


class ProcessCollector(Collector):
    """Memory and CPU time of each process of the gateway.

    Args:
        directory: shared by the processes; None if this process is the only one.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            table.PROCESS_MEMORY.name, table.PROCESS_MEMORY.help, labels=table.PROCESS_MEMORY.labels
        )
        cpu = CounterMetricFamily(table.PROCESS_CPU.name, table.PROCESS_CPU.help, labels=table.PROCESS_CPU.labels)
        for pid in sorted({os.getpid()} if self._directory is None else pids_in(self._directory)):
            usage = _usage(pid)
            if usage is not None:
                memory.add_metric([str(pid)], usage[0])
                cpu.add_metric([str(pid)], usage[1])
        yield memory
        yield cpu


def shared_directory() -> Path | None:
    """Return the directory that the processes count in together; None if each counts alone."""
    name = os.environ.get(DIRECTORY_VARIABLE)
    return Path(name) if name else None


def pids_in(directory: Path) -> set[int]:
    """Return the running processes that count in a directory."""
    pids = {int(name[1]) for file in directory.iterdir() if (name := _FILE.fullmatch(file.name))}
    return {pid for pid in pids if _usage(pid) is not None}


def remove_dead_gauges(directory: Path) -> None:
    """Delete the gauges of processes that were killed; their counters stay."""
    for file in directory.glob("gauge_livesum_*.db"):
        name = _FILE.fullmatch(file.name)
        if name and _usage(int(name[1])) is None:
            file.unlink(missing_ok=True)


def _usage(pid: int) -> tuple[int, float] | None:
    """Return resident bytes and CPU seconds of a process; None if it does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[_RSS]) * _PAGE_BYTES, (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_S

"""The status of the servers behind the gateway, as metrics.

getServerStatus, listModels --BackendStatuses.get, cached a second--> BackendStatus --ServerCollector--> samples
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from thriftserve.gateway import metric_families as table
from thriftserve.gateway.backends import Backends
from thriftserve_client import decode
from thriftserve_client.histogram import Histogram
from thriftserve_client.results import ModelStatus, ServerStatus
from thriftserve_idl.ttypes import ServerState

#: Seconds that statuses are cached.
CACHE_S = 1.0
#: A server that has not answered by then counts as down.
STATUS_TIMEOUT_S = 2.0
#: A worker answers for its models between two runs; if the runs are long, its last answer is used.
MODELS_TIMEOUT_S = 0.5
_US = 1e-6
_MS = 1e-3
_HISTOGRAMS = {"queue_time": table.QUEUE_TIME, "compute_time": table.COMPUTE_TIME, "batch_size": table.BATCH_SIZE}
_STATES = [state.name for state in ServerState]
_MODEL_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


@dataclass(frozen=True)
class BackendStatus:
    """Status of one server and of its models; `status` is None if it did not answer."""

    backend: str
    status: ServerStatus | None
    models: tuple[ModelStatus, ...] = ()


class BackendStatuses:
    """Call the servers for their statuses, at most once per `CACHE_S`."""

    def __init__(self, backends: Backends) -> None:
        self._pool = backends.pool
        self._task: asyncio.Task[list[BackendStatus]] | None = None
        self._fresh_until = 0.0
        self._models: dict[str, tuple[ModelStatus, ...]] = {}

    async def get(self) -> list[BackendStatus]:
        """Return the status of each server, at most `CACHE_S` old; concurrent callers share one call."""
        now = asyncio.get_running_loop().time()
        if self._task is None or (self._task.done() and now >= self._fresh_until):
            self._task = asyncio.ensure_future(self._call())
        return await asyncio.shield(self._task)

    async def _call(self) -> list[BackendStatus]:
        statuses, models = await asyncio.gather(
            self._pool.call_each("getServerStatus", STATUS_TIMEOUT_S),
            self._pool.call_each("listModels", MODELS_TIMEOUT_S),
        )
        self._fresh_until = asyncio.get_running_loop().time() + CACHE_S
        for backend, model_statuses in models:
            if not isinstance(model_statuses, BaseException):
                self._models[str(backend.config.address)] = tuple(map(decode.model_status, model_statuses))
        return [self._decode(str(backend.config.address), status) for backend, status in statuses]

    def _decode(self, backend: str, status: Any) -> BackendStatus:
        if isinstance(status, BaseException):
            return BackendStatus(backend, None)
        return BackendStatus(backend, decode.server_status(status), self._models.get(backend, ()))


class ServerCollector(Collector):
    """The statuses as metric families."""

    def __init__(self, statuses: Iterable[BackendStatus]) -> None:
        self._statuses = list(statuses)

    def collect(self) -> Iterator[Metric]:
        up = _gauge(table.UP)
        for server in self._statuses:
            up.add_metric([server.backend], server.status is not None)
        answered = [(server.backend, server.status) for server in self._statuses if server.status is not None]
        yield up
        yield from _servers(answered)
        yield from _workers(answered)
        for name, family in _HISTOGRAMS.items():
            yield _histograms(name, family, answered)
        yield from _models([(server.backend, model) for server in self._statuses for model in server.models])


def _models(models: list[tuple[str, ModelStatus]]) -> Iterator[Metric]:
    states, times, transitions = _gauge(table.MODEL_STATE), _gauge(table.MODEL_LOAD), _counter(table.MODEL_TRANSITIONS)
    for backend, model in models:
        for version in model.versions:
            labels = [backend, model.name, str(version.version)]
            for state in _MODEL_STATES:
                states.add_metric([*labels, state], state == version.state)
            if version.load_time_ms is not None:
                times.add_metric(labels, version.load_time_ms * _MS)
        for state, number in (model.transitions or {}).items():
            transitions.add_metric([backend, model.name, state], number)
    yield from (states, times, transitions)


def _servers(statuses: list[tuple[str, ServerStatus]]) -> Iterator[Metric]:
    info, states = _gauge(table.INFO), _gauge(table.STATE)
    gauges = {
        family: _gauge(family)
        for family in (table.UPTIME, table.RUNNING, table.CONNECTIONS, table.QUEUED, table.QUEUED_BYTES)
    }
    counters = {family: _counter(family) for family in (table.SERVED, table.FAILED, table.REFUSED)}
    for backend, status in statuses:
        info.add_metric([backend, status.server_type, status.version], 1)
        for state in _STATES:
            states.add_metric([backend, state], state == status.state)
        workers = status.workers
        now = {
            table.UPTIME: status.uptime_s,
            table.RUNNING: sum(worker.in_flight for worker in workers),
            table.CONNECTIONS: sum(worker.connections for worker in workers),
            table.QUEUED: status.queued,
            table.QUEUED_BYTES: status.queued_bytes,
        }
        for family, value in now.items():
            if value is not None:
                gauges[family].add_metric([backend], value)
        counters[table.SERVED].add_metric([backend], status.past_requests + sum(worker.requests for worker in workers))
        counters[table.FAILED].add_metric([backend], status.past_errors + sum(worker.errors for worker in workers))
        counters[table.REFUSED].add_metric([backend], status.refused)
    yield from (info, states, *gauges.values(), *counters.values())


def _workers(statuses: list[tuple[str, ServerStatus]]) -> Iterator[Metric]:
    restarts, memory = _counter(table.RESTARTS), _gauge(table.WORKER_MEMORY)
    cpu, states = _counter(table.WORKER_CPU), _gauge(table.WORKER_STATE)
    for backend, status in statuses:
        by_slot: dict[tuple[str, str], int] = {}
        for worker in status.workers:
            slot = (worker.role, str(worker.index))
            # While a process is replaced, its successor has the same role and index.
            by_slot[slot] = max(by_slot.get(slot, 0), worker.restarts)
            labels = [backend, *slot, str(worker.pid)]
            memory.add_metric(labels, worker.rss_bytes)
            cpu.add_metric(labels, worker.cpu_s)
            states.add_metric([*labels, worker.state], 1)
        for (role, index), number in by_slot.items():
            restarts.add_metric([backend, role, index], number)
    yield from (restarts, memory, cpu, states)


def _histograms(name: str, family: table.Family, statuses: list[tuple[str, ServerStatus]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for backend, status in statuses:
        for histogram in status.histograms:
            if histogram.name == name:
                scale = _US if histogram.unit == "us" else 1.0
                metric.add_metric([backend], _buckets(histogram, scale), histogram.sum * scale)
    return metric


def _buckets(histogram: Histogram, scale: float) -> list[tuple[str, float]]:
    """Return Prometheus' buckets, which are cumulative."""
    buckets, total = [], 0
    for bound, number in zip((*histogram.bounds, None), histogram.counts, strict=True):
        total += number
        # Rounded, so that 64 us are 6.4e-05 and not 6.399999999999999e-05.
        le = "+Inf" if bound is None else str(round(bound * scale, 9))
        buckets.append((le, float(total)))
    return buckets


def _gauge(family: table.Family) -> GaugeMetricFamily:
    return GaugeMetricFamily(family.name, family.help, labels=family.labels)


def _counter(family: table.Family) -> CounterMetricFamily:
    return CounterMetricFamily(family.name, family.help, labels=family.labels)

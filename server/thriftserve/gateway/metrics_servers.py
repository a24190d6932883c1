"""What the servers behind the gateway tell of themselves, as metrics.

getServerStatus, listModels --Servers.look, kept for a second--> Told --ServerCollector--> families of samples
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

#: Several that look at once, or one after another within this time, see the same.
KEPT_S = 1.0
#: A server that has not answered by then counts as not there.
PATIENCE_S = 2.0
#: A worker answers for its models between two runs; where the runs are long, what it said last must do.
MODELS_PATIENCE_S = 0.5
_US = 1e-6
_MS = 1e-3
_HISTOGRAMS = {"queue_time": table.QUEUE_TIME, "compute_time": table.COMPUTE_TIME, "batch_size": table.BATCH_SIZE}
_STATES = [one.name for one in ServerState]
_MODEL_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


@dataclass(frozen=True)
class BackendStatus:
    """What one server said; `status` is None where it did not answer."""

    backend: str
    status: ServerStatus | None
    models: tuple[ModelStatus, ...] = ()


class Servers:
    """Asks the servers, not more often than once a second."""

    def __init__(self, backends: Backends) -> None:
        self._pool = backends.pool
        self._looking: asyncio.Task[list[BackendStatus]] | None = None
        self._fresh_until = 0.0
        self._models: dict[str, tuple[ModelStatus, ...]] = {}

    async def look(self) -> list[BackendStatus]:
        """What each server says, at most `KEPT_S` old."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (self._looking.done() and now >= self._fresh_until):
            self._looking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._looking)

    async def _ask(self) -> list[BackendStatus]:
        statuses, models = await asyncio.gather(
            self._pool.ask_each("getServerStatus", PATIENCE_S), self._pool.ask_each("listModels", MODELS_PATIENCE_S)
        )
        self._fresh_until = asyncio.get_running_loop().time() + KEPT_S
        for backend, listed in models:
            if not isinstance(listed, BaseException):
                self._models[str(backend.dialing.address)] = tuple(map(decode.model_status, listed))
        return [self._told(str(backend.dialing.address), status) for backend, status in statuses]

    def _told(self, backend: str, status: Any) -> BackendStatus:
        if isinstance(status, BaseException):
            return BackendStatus(backend, None)
        return BackendStatus(backend, decode.server_status(status), self._models.get(backend, ()))


class ServerCollector(Collector):
    """The same as families of samples."""

    def __init__(self, told: Iterable[BackendStatus]) -> None:
        self._told = list(told)

    def collect(self) -> Iterator[Metric]:
        up = _gauge(table.UP)
        for one in self._told:
            up.add_metric([one.backend], one.status is not None)
        answered = [(one.backend, one.status) for one in self._told if one.status is not None]
        yield up
        yield from _servers(answered)
        yield from _workers(answered)
        for name, family in _HISTOGRAMS.items():
            yield _histograms(name, family, answered)
        yield from _models([(one.backend, model) for one in self._told for model in one.models])


def _models(told: list[tuple[str, ModelStatus]]) -> Iterator[Metric]:
    states, times, transitions = _gauge(table.MODEL_STATE), _gauge(table.MODEL_LOAD), _counter(table.MODEL_TRANSITIONS)
    for backend, model in told:
        for version in model.versions:
            labels = [backend, model.name, str(version.version)]
            for state in _MODEL_STATES:
                states.add_metric([*labels, state], state == version.state)
            if version.load_time_ms is not None:
                times.add_metric(labels, version.load_time_ms * _MS)
        for state, number in (model.transitions or {}).items():
            transitions.add_metric([backend, model.name, state], number)
    yield from (states, times, transitions)


def _servers(told: list[tuple[str, ServerStatus]]) -> Iterator[Metric]:
    info, states = _gauge(table.INFO), _gauge(table.STATE)
    gauges = {
        one: _gauge(one) for one in (table.UPTIME, table.RUNNING, table.CONNECTIONS, table.QUEUED, table.QUEUED_BYTES)
    }
    counters = {one: _counter(one) for one in (table.SERVED, table.FAILED, table.REFUSED)}
    for backend, status in told:
        info.add_metric([backend, status.server_type, status.version], 1)
        for state in _STATES:
            states.add_metric([backend, state], state == status.state)
        workers = status.workers
        now = {
            table.UPTIME: status.uptime_s,
            table.RUNNING: sum(one.in_flight for one in workers),
            table.CONNECTIONS: sum(one.connections for one in workers),
            table.QUEUED: status.queued,
            table.QUEUED_BYTES: status.queued_bytes,
        }
        for family, value in now.items():
            if value is not None:
                gauges[family].add_metric([backend], value)
        counters[table.SERVED].add_metric([backend], status.past_requests + sum(one.requests for one in workers))
        counters[table.FAILED].add_metric([backend], status.past_errors + sum(one.errors for one in workers))
        counters[table.REFUSED].add_metric([backend], status.refused)
    yield from (info, states, *gauges.values(), *counters.values())


def _workers(told: list[tuple[str, ServerStatus]]) -> Iterator[Metric]:
    restarts, memory = _counter(table.RESTARTS), _gauge(table.WORKER_MEMORY)
    cpu, states = _counter(table.WORKER_CPU), _gauge(table.WORKER_STATE)
    for backend, status in told:
        places: dict[tuple[str, str], int] = {}
        for one in status.workers:
            place = (one.role, str(one.index))
            # While a process is replaced, its successor stands in the same place.
            places[place] = max(places.get(place, 0), one.restarts)
            labels = [backend, *place, str(one.pid)]
            memory.add_metric(labels, one.rss_bytes)
            cpu.add_metric(labels, one.cpu_s)
            states.add_metric([*labels, one.state], 1)
        for (role, index), number in places.items():
            restarts.add_metric([backend, role, index], number)
    yield from (restarts, memory, cpu, states)


def _histograms(name: str, family: table.Family, told: list[tuple[str, ServerStatus]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for backend, status in told:
        for one in status.histograms:
            if one.name == name:
                scale = _US if one.unit == "us" else 1.0
                metric.add_metric([backend], _buckets(one, scale), one.sum * scale)
    return metric


def _buckets(one: Histogram, scale: float) -> list[tuple[str, float]]:
    """Prometheus' buckets hold what lies below them, too."""
    buckets, seen = [], 0
    for bound, number in zip((*one.bounds, None), one.counts, strict=True):
        seen += number
        # Rounded, so that 64 us are 6.4e-05 and not 6.399999999999999e-05.
        le = "+Inf" if bound is None else str(round(bound * scale, 9))
        buckets.append((le, float(seen)))
    return buckets


def _gauge(family: table.Family) -> GaugeMetricFamily:
    return GaugeMetricFamily(family.name, family.help, labels=family.labels)


def _counter(family: table.Family) -> CounterMetricFamily:
    return CounterMetricFamily(family.name, family.help, labels=family.labels)

"""What Prometheus reads of the gateway and of the servers behind it.

each Exchange, Reply --RequestMetrics--> counters of this process, or of all that share a directory
GET /metrics --> counters + processes + what each server says --> Prometheus' text, or OpenMetrics where it is asked for
"""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.exchange import Exchange, Reply
from thriftserve.gateway.metrics_processes import ProcessCollector, forget_the_dead, shared_directory
from thriftserve.gateway.metrics_requests import RequestMetrics
from thriftserve.gateway.metrics_servers import ServerCollector, Servers, Told


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

    async def answer(self, exchange: Exchange) -> Reply:
        """Everything, in the form that the Accept header asks for."""
        told = await self._servers.look()
        # A thread: files of many processes take a while to read.
        body, content_type = await asyncio.to_thread(self._written, told, exchange.headers.get("accept", ""))
        return Reply(body, content_type)

    def _written(self, told: list[Told], accept: str) -> tuple[bytes, str]:
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

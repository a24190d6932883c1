"""Whether the gateway lives, whether it can answer, and what is wrong where it can't.

/healthz --> 200 while the event loop turns
/readyz  --ping each server--> 200 where one answers, 503 and each one's fault where none does
"""

from __future__ import annotations

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.http import HttpReply, HttpRequest
from thriftserve_client import CallTimeout

#: A server that has not answered by then counts as not there.
_PATIENCE_S = 2.0


class Health:
    """The probes of balancers and orchestrators."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def live(self, exchange: HttpRequest) -> HttpReply:
        """That the process answers."""
        return HttpReply.of({"status": "ok"})

    async def ready(self, exchange: HttpRequest) -> HttpReply:
        """That a server answers; for each what was wrong.

        Raises:
            Refusal: the request's own time was over before one did.
        """
        left_s = exchange.left_s
        told = await self._backends.pool.ask_each("ping", min(_PATIENCE_S, left_s))
        servers = [
            {"backend": str(one.dialing.address), "status": "ok" if fault is None else "failed"}
            | ({} if fault is None else {"error": str(fault)})
            for one, fault in told
        ]
        answering = sum(one["status"] == "ok" for one in servers)
        if not answering and left_s < _PATIENCE_S:  # a request that gave them no time has learnt nothing of them
            if any(isinstance(fault, CallTimeout) for _, fault in told):
                raise exchange.too_late()
            _ = exchange.left_s
        state = "ok" if answering == len(servers) else "degraded" if answering else "failed"
        return HttpReply.of({"status": state, "backends": servers}, 200 if answering else 503)

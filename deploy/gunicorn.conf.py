"""gunicorn with uvicorn's workers for the gateway.

gunicorn -c deploy/gunicorn.conf.py 'thriftserve.gateway.asgi:app()'  -->  workers that share :8501 and their metrics

The gateway's own settings are THRIFTSERVE_GATEWAY_… variables: THRIFTSERVE_GATEWAY_BACKEND=10.0.0.1:9090,10.0.0.2:9090
"""

import os
import shutil
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from thriftserve.gateway.http_protocol import limited_protocol


class Worker(UvicornWorker):
    """A request's head must come within this time, in seconds, and is bounded in size."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "uvloop", "http": limited_protocol(30.0)}


bind = os.environ.get("BIND", "127.0.0.1:8501")
workers = int(os.environ.get("WORKERS", "2"))
worker_class = Worker
backlog = 1024
keepalive = 75
#: Seconds for what is in flight after SIGTERM.
graceful_timeout = 30
#: A worker whose event loop stands still for so long is replaced.
timeout = 60

_metrics = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", "/run/thriftserve/metrics")


def on_starting(server: Any) -> None:
    """What workers of an earlier start counted is theirs."""
    shutil.rmtree(_metrics, ignore_errors=True)
    os.makedirs(_metrics)

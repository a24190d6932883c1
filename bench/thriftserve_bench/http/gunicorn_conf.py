"""gunicorn's configuration for the published stack: nothing but a ready line, once every worker has its application.

gunicorn -c python:thriftserve_bench.http.gunicorn_conf  --each worker's file in READY_DIR; all there-->  a ready line
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

READY_DIR = "PUBLISHED_STACK_READY"


def post_worker_init(worker: Any) -> None:
    """Called by gunicorn in a worker that has its application."""
    place = Path(os.environ[READY_DIR])
    (place / str(worker.pid)).touch()
    if len(list(place.iterdir())) >= worker.cfg.workers:
        host, port = worker.sockets[0].getsockname()
        print(f"gunicorn ready host={host} port={port} pid={worker.ppid}", flush=True)

"""The echo service, or a workload, on one of our server types, as a process of its own.

    python -m thriftserve_bench.servers.our_host TBatchingServer --workers 4 --threads 10  -->  a ready line

The benchmarks start it and never import it: it is what a user would write.
"""

from __future__ import annotations

import sys
from functools import partial

from thriftserve.servers import HostSettings, serve
from thriftserve_bench.servers import SERVER_TYPES, WITH_WORKERS
from thriftserve_bench.servers.host_flags import parse_service_flags
from thriftserve_bench.servers.services import make_processor


def main() -> int:
    """Serve until SIGTERM."""
    flags = parse_service_flags(__doc__, SERVER_TYPES)
    settings = HostSettings(
        server_type=flags.server_type,
        port=0,
        workers=flags.workers if flags.server_type in WITH_WORKERS else None,
        threads=flags.threads,
        max_message_bytes=flags.max_message_bytes,
    )
    return serve(lambda _: make_processor(flags.workload), settings, on_ready=partial(print, flush=True))


if __name__ == "__main__":
    sys.exit(main())

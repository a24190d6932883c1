"""The echo service, or a workload, on one of our server types, as a process of its own.

    python -m thriftserve_bench.our_host TBatchingServer --workers 4 --threads 10  -->  a ready line

The benchmarks start it and never import it: it stands for what a user would write.
"""

from __future__ import annotations

import sys
from functools import partial

from thriftserve.servers import HostSettings, serve
from thriftserve_bench.host_flags import parse_host_flags, processor_of
from thriftserve_bench.server_types import SERVER_TYPES, WITH_WORKERS


def main() -> int:
    """Serves until it is told to end."""
    flags = parse_host_flags(__doc__, SERVER_TYPES)
    settings = HostSettings(
        server_type=flags.server_type,
        port=0,
        workers=flags.workers if flags.server_type in WITH_WORKERS else None,
        threads=flags.threads,
        max_message_bytes=flags.max_message_bytes,
    )
    return serve(lambda _: processor_of(flags), settings, on_ready=partial(print, flush=True))


if __name__ == "__main__":
    sys.exit(main())

"""The server types by name, and which settings each has a use for.

server_type  -->  USED_BY: what a change of it would mean something for  -->  HostSettings.unused: what is told
"""

from __future__ import annotations

SERVER_TYPES = (
    "TSimpleServer",
    "TThreadedServer",
    "TThreadPoolServer",
    "TNonblockingServer",
    "TForkingServer",
    "TProcessPoolServer",
    "TBatchingServer",
)
#: What each server type makes use of, of the settings that not every one does.
USED_BY = {
    "TSimpleServer": frozenset({"max_queued", "spin_us"}),
    "TThreadedServer": frozenset({"max_connections", "spin_us"}),
    "TThreadPoolServer": frozenset({"threads", "max_connections", "max_queued", "spin_us"}),
    "TNonblockingServer": frozenset({"threads", "max_connections", "max_queued"}),
    "TForkingServer": frozenset({"max_children", "max_queued", "spin_us"}),
    "TProcessPoolServer": frozenset({"workers", "max_connections", "max_queued", "spin_us"}),
    "TBatchingServer": frozenset(
        {
            "workers",
            "max_connections",
            "max_queued",
            "max_queued_bytes",
            "fronts",
            "runs_per_worker",
            "spin_us",
            "worker_timeout_s",
            "max_batch_size",
            "batch_timeout_ms",
        }
    ),
}
#: Of these a type may have no use; every other setting is for all of them.
OF_SOME_TYPES = frozenset().union(*USED_BY.values())

"""The server types that are measured: which there are, whose, and which numbers each is told.

name  -->  Apache's class and ours | ours alone  -->  --workers, --threads
"""

from __future__ import annotations

APACHE_TYPES = (
    "TSimpleServer",
    "TThreadedServer",
    "TThreadPoolServer",
    "TNonblockingServer",
    "TForkingServer",
    "TProcessPoolServer",
)
#: Ours alone.
BATCHING = "TBatchingServer"
SERVER_TYPES = (*APACHE_TYPES, BATCHING)
#: Those whose number of worker processes is a setting, and those whose number of handler threads is.
WITH_WORKERS = ("TProcessPoolServer", BATCHING)
WITH_THREADS = ("TThreadPoolServer", "TNonblockingServer")

"""The servers that are measured: which server types there are, their host programs, their environments."""

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
#: Types whose number of worker processes is a setting, and types whose number of handler threads is.
WITH_WORKERS = ("TProcessPoolServer", BATCHING)
WITH_THREADS = ("TThreadPoolServer", "TNonblockingServer")

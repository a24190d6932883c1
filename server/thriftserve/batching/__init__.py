"""Many requests, one run: what fits together shares a session call, and each gets its own answer.

Jobs --> Batcher: lanes --> one run of a lane's jobs --> Done, a job each
"""

from thriftserve.batching.batcher import MAX_BATCH_SIZE, Batcher
from thriftserve.batching.group import on_word
from thriftserve.batching.hint import Advice
from thriftserve.batching.job import Done, Job

__all__ = ["MAX_BATCH_SIZE", "Advice", "Batcher", "Done", "Job", "on_word"]

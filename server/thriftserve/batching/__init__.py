"""Many requests, one run: what fits together shares a session call, and each gets its own answer.

Jobs --> Batcher: lanes --> one run of a lane's jobs --> Done, a job each
"""

from thriftserve.batching.advice import Advice
from thriftserve.batching.batcher import MAX_BATCH_SIZE, Batcher
from thriftserve.batching.job import Done, Job
from thriftserve.batching.lane import on_word

__all__ = ["MAX_BATCH_SIZE", "Advice", "Batcher", "Done", "Job", "on_word"]

"""Many requests, one run: what fits together shares a session call, and each gets its own answer.

Jobs --> Batcher: lanes --> one run of a lane's jobs --> Done, a job each
"""

from thriftserve.batching.batcher import MAX_BATCH_SIZE, Batcher
from thriftserve.batching.group import on_word
from thriftserve.batching.job import Task, TaskResult
from thriftserve.rpc.batch_processor import BatchHint

__all__ = ["MAX_BATCH_SIZE", "BatchHint", "Batcher", "Task", "TaskResult", "on_word"]

"""Many requests, one run: what fits together shares a session call, and each gets its own result.

tasks --> Batcher: batch groups --> one run of a group's tasks --> TaskResult, one for each task
"""

from thriftserve.batching.batcher import MAX_BATCH_SIZE, Batcher
from thriftserve.batching.group import declares_batching
from thriftserve.batching.task import Task, TaskResult
from thriftserve.rpc.batch_processor import BatchHint

__all__ = ["MAX_BATCH_SIZE", "BatchHint", "Batcher", "Task", "TaskResult", "declares_batching"]

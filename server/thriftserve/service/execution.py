"""From a request's checked arrays to its outputs, by way of a job that somebody else runs.

arrays --> Job, yielded --> Done, sent back --> the outputs asked for

What a request does is written as steps: a generator that yields each Job it needs run, is sent its Done, and
returns the answer. So one request waits for its own run, and many are begun together and run as batches.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TypeVar

from thriftserve.batching import Batcher, Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import Internal, InvalidArgument
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.service.errors import listed
from thriftserve.service.validation import RequestValidator

T = TypeVar("T")
Steps = Generator[Task, TaskResult, T]


def run_through(steps: Steps[T], batcher: Batcher) -> T:
    """Runs each job of a request's steps as it comes, and gives what they return."""
    try:
        job = next(steps)
        while True:
            job = steps.send(batcher.run(job))
    except StopIteration as stop:
        answer: T = stop.value
        return answer


def job_for(
    servable: Servable, plan: RequestValidator, arrays: dict[str, Array], wanted: tuple[str, ...], deadline: Deadline
) -> Task:
    """The job that runs the outputs wanted."""
    # What a signature without declared outputs gives is only known afterwards.
    asked = wanted if plan.signature.validated else ()
    return Task(servable, plan.signature, arrays, asked, deadline, plan.batch_size(arrays))


def asked_for(plan: RequestValidator, outputs: Mapping[str, Array], wanted: tuple[str, ...]) -> Mapping[str, Array]:
    """The outputs that were asked for, where a session gave more or fewer.

    Raises:
        InvalidArgument: the model has no output that was asked for.
        Internal: it did not give one that it declares.
    """
    if tuple(outputs) == wanted:
        return outputs
    missing = [name for name in wanted if name not in outputs]
    if missing and plan.signature.validated:
        raise Internal(f"the model did not give the outputs {listed(missing)}: it gave {listed(outputs)}")
    if missing:
        raise InvalidArgument(f"output_filter names {listed(missing)}: the model gave {listed(outputs)}")
    return {name: outputs[name] for name in wanted} if wanted else outputs

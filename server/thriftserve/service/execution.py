"""Run a request's checked arrays through the model.

    arrays --> Task, yielded --> TaskResult, sent back --> the outputs that the request names

A method of the service is a generator of steps: it yields each Task to be run, is sent its TaskResult, and returns the
response. So one request can wait for its own run, and many can be begun together and share one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TypeVar

from thriftserve.batching import Batcher, Task, TaskResult
from thriftserve.deadline import Deadline
from thriftserve.errors import Internal, InvalidArgument
from thriftserve.models.registry import Servable
from thriftserve.models.session import Array
from thriftserve.service.errors import quote_all
from thriftserve.service.validation import RequestValidator

T = TypeVar("T")
Steps = Generator[Task, TaskResult, T]


def run_steps(steps: Steps[T], batcher: Batcher) -> T:
    """Run each task that the steps yield; return the steps' response."""
    try:
        task = next(steps)
        while True:
            task = steps.send(batcher.run(task))
    except StopIteration as stop:
        response: T = stop.value
        return response


def make_task(
    servable: Servable,
    validator: RequestValidator,
    arrays: dict[str, Array],
    output_names: tuple[str, ...],
    deadline: Deadline,
) -> Task:
    """Return the task that runs these outputs."""
    # A signature that declares no outputs shows them only by running.
    names = output_names if validator.signature.validated else ()
    return Task(servable, validator.signature, arrays, names, deadline, validator.batch_size(arrays))


def select_outputs(
    validator: RequestValidator, outputs: Mapping[str, Array], output_names: tuple[str, ...]
) -> Mapping[str, Array]:
    """Return the outputs that the request names; all of them if it names none.

    Raises:
        InvalidArgument: the request names an output that the model does not have.
        Internal: the model did not return an output that its signature declares.
    """
    if tuple(outputs) == output_names:
        return outputs
    missing = [name for name in output_names if name not in outputs]
    if missing and validator.signature.validated:
        raise Internal(f"the model did not return the outputs {quote_all(missing)}: it returned {quote_all(outputs)}")
    if missing:
        raise InvalidArgument(
            f"output_filter names {quote_all(missing)}: expected some of the outputs {quote_all(outputs)}"
        )
    return {name: outputs[name] for name in output_names} if output_names else outputs

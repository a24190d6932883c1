"""One run of a session for one request, timed.

arrays --> Deadline.check --> Session.run --> outputs, Timing

predict, classify and detect all go through here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from thriftserve.errors import Internal, InvalidArgument
from thriftserve.handler.deadline import Deadline
from thriftserve.handler.plan import Plan
from thriftserve.handler.wording import listed
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve_idl.ttypes import Timing


def run(
    servable: Servable, plan: Plan, arrays: Mapping[str, Array], wanted: Sequence[str], deadline: Deadline
) -> tuple[dict[str, Array], Timing]:
    """Runs the outputs wanted, where there is time left.

    Raises:
        DeadlineExceeded: there is none; the session was not called.
        InvalidArgument: the model refused the inputs, or has no output that was asked for.
        Internal: the model failed.
    """
    began = deadline.check()
    # What a signature without declared outputs gives is only known afterwards.
    asked = wanted if plan.signature.validated else ()
    outputs = servable.session.run(plan.signature.name, arrays, asked)
    compute_us = int((time.monotonic() - began) * 1e6)
    queue_us = int((began - deadline.arrived) * 1e6)
    if len(outputs) != len(wanted) or any(name not in outputs for name in wanted):
        outputs = _asked_for(plan, outputs, wanted)
    return outputs, Timing(queue_us, compute_us, plan.batch_size(arrays), os.getpid())


def _asked_for(plan: Plan, outputs: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
    """The outputs that were asked for, where a session gave more or fewer."""
    missing = [name for name in wanted if name not in outputs]
    if missing and plan.signature.validated:
        raise Internal(f"the model did not give the outputs {listed(missing)}: it gave {listed(outputs)}")
    if missing:
        raise InvalidArgument(f"output_filter names {listed(missing)}: the model gave {listed(outputs)}")
    return {name: outputs[name] for name in wanted} if wanted else dict(outputs)

"""What may share a run (tasks of one signature, one set of outputs, one inner shape), and how many are worth it.

    Task --> BatchPolicy (servable, signature, outputs) --> BatchGroup (dtypes, inner shapes) --> its runs

Tasks share a run only if every input and every output wanted has a leading dimension of any size, the batch, and if a
verdict says that sharing changes no result, or the model's author says so.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from thriftserve.batching.calibration import Calibration
from thriftserve.batching.spot_check import SpotCheck
from thriftserve.batching.task import Task
from thriftserve.batching.verdict import Cut, Verdict
from thriftserve.models.registry import Servable
from thriftserve.models.session import Signature, TensorSpec
from thriftserve.rpc.batch_processor import BatchHint

#: Seconds of use that count together.
WINDOW_S = 2.0
#: Seconds for which a hint stays as it is: it is asked for after every batch.
HINT_S = 0.02
#: Microseconds that handing requests over costs, however many: waking the other process, a message each way.
HAND_OVER_US = 50.0
#: What is handed over should take this many times that: 95 % of the time is then spent on it.
HAND_OVERS = 19


class UsageTracker:
    """The batch groups used lately.

    Threads may add and ask at once: what one of them misses is counted a moment later.

    Args:
        max_requests: requests that are worth it before any run, and at most if the model sets no batch size.
        timeout_ms: how long to wait for others, if the model sets no time; None: as long as it is worth.
    """

    def __init__(self, max_requests: int, timeout_ms: float | None = None) -> None:
        self._max_requests = max_requests
        self._timeout_ms = timeout_ms
        self._hint = BatchHint(max_requests, wait_us=_us(timeout_ms))
        self._used: set[BatchGroup] = set()
        self._hint_ends = 0.0
        self._window_ends = 0.0

    def add(self, group: BatchGroup) -> None:
        """Note that a group had a run."""
        self._used.add(group)

    def hint(self) -> BatchHint:
        """Return the hint of this moment."""
        now = time.monotonic()
        if now < self._hint_ends:
            return self._hint
        self._hint_ends = now + HINT_S
        used = self._used
        if used:
            busiest = max(used.copy(), key=lambda group: group.busy_us)
            self._hint = hint_for(busiest, self._max_requests, self._timeout_ms)
        if now > self._window_ends:
            self._window_ends = now + WINDOW_S
            self._used = {group for group in used.copy() if group.fade()}
        return self._hint


def hint_for(group: BatchGroup, max_requests: int, timeout_ms: float | None = None) -> BatchHint:
    """Return what is worth it if every request is of one group; arguments as for `UsageTracker`."""
    policy = group.policy
    calibration = policy.calibration
    fixed_us, row_us = (calibration.fixed_us, calibration.row_us) if calibration is not None else (0.0, 0.0)
    own_ms = policy.settings.batch_timeout_ms
    wait_us = _us(timeout_ms if own_ms is None else own_ms) if group.merges else 0  # others would not share its run
    if not group.tasks:
        return BatchHint(max_requests, fixed_us, row_us, wait_us)
    rows_per_task = max(1.0, group.rows / group.tasks) if policy.stacks else 1.0
    if wait_us:
        return BatchHint(math.ceil(policy.max_rows / rows_per_task), fixed_us, row_us, wait_us)
    one_run = math.ceil(group.rows_to_run() / rows_per_task)
    # Small requests are worth handing over together even if they are run one by one.
    one_hand_over = math.ceil(HAND_OVERS * HAND_OVER_US * group.tasks / max(1, group.busy_us))
    return BatchHint(max(1, one_run, min(one_hand_over, max_requests)), fixed_us, row_us, wait_us)


def _us(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else int(milliseconds * 1000)


#: Callers choose the inner shapes that are free, so there must be a limit; past it, all groups are made anew.
MAX_GROUPS = 256

log = logging.getLogger(__name__)


class BatchPolicy:
    """How tasks of one signature of one servable, for one set of outputs, may share runs.

    `max_rows` is the number of rows that tasks are merged up to, 1 for not at all; `part` that of the largest run that
    a single task gets before it is split, None for any. Any thread may call it.

    Args:
        servable: the version.
        signature: its function.
        wanted: the outputs; empty: all that the signature has.
        default_rows: rows of a run, if the model sets no other number.
        verdict: what is known of the signature; None: nothing.
        calibration: what its runs take; None: unknown.
    """

    def __init__(
        self,
        servable: Servable,
        signature: Signature,
        wanted: tuple[str, ...],
        default_rows: int,
        verdict: Verdict | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.servable = weakref.ref(servable)
        self.title = f"{servable.name} version {servable.version} {signature.name!r}"
        self.settings = servable.batching
        session = servable.session
        allowed = self.settings.allowed_batch_sizes
        max_rows = self.settings.max_batch_size or default_rows
        self.each = session.runs_each(signature.name)
        opted_out = session.batching is False
        self.stacks = not opted_out and not self.each and has_batch(signature, wanted or tuple(signature.outputs))
        self.declared = declares_batching(servable)
        if not self.stacks:
            allowed = ()
        self.max_rows = min(max_rows, allowed[-1]) if allowed else max_rows
        self.part = (self.max_rows if self.max_rows > 1 else None) if self.stacks else None
        if allowed and self.part is None:
            self.part = allowed[-1]
        self.allowed = allowed
        self.merges = self.max_rows > 1 and not opted_out and (self.stacks or self.each)
        #: Axes of each input, the batch not counted, that requests may differ in and still share a run.
        self.padded = _free_axes(signature) if self.settings.pad_variable_length_inputs and self.stacks else {}
        #: By output: what of a padded run's outputs is beyond a request's own size.
        self.cuts: Mapping[str, Sequence[Cut]] = {}
        #: Checks some of its merged runs.
        self.check = None if self.declared else SpotCheck(verdict.rounding if verdict is not None else {})
        self.calibration = calibration
        self._apply_verdict(verdict, wanted or tuple(signature.outputs))
        self._name = next(iter(signature.inputs)) if len(signature.inputs) == 1 and not self.padded else None
        self._groups: dict[Any, BatchGroup] = {}
        self._alone = BatchGroup(self, merges=False)
        self._together = BatchGroup(self, merges=True)

    def _apply_verdict(self, verdict: Verdict | None, wanted: Sequence[str]) -> None:
        """Merge no more than what was shown, unless the author says more."""
        if verdict is not None and not verdict.unpadded:
            self.cuts = verdict.cuts
        if self.declared:
            return
        if verdict is None:
            # A batch method was written for several requests at once: where it can't be tried, its author has spoken.
            if not self.each:
                self.keep_apart()
        elif verdict.why_not(wanted) and (not self.each or verdict.dependent):
            self.keep_apart()
        else:
            self.limit_rows(verdict.rows if not verdict.why_not(wanted) else self.max_rows)
            if verdict.unpadded:
                self.padded = {}

    def limit_rows(self, rows: int) -> None:
        """Merge at most so many rows."""
        self.max_rows = min(self.max_rows, rows)
        if self.part is not None:
            self.part = min(self.part, rows)
        self.merges = self.merges and self.max_rows > 1

    def group(self, task: Task) -> BatchGroup:
        """Return the group that a task belongs to."""
        if not self.merges or task.rows == 0:
            return self._alone
        if self.each:
            return self._together
        key: Any
        if self._name is not None:
            array = task.arrays[self._name]
            size, *inner = array.shape
            if size != task.rows:
                return self._alone
            key = (array.dtype, *inner)
        else:
            key = self._key(task)
        if key is None:
            return self._alone
        return self._groups.get(key) or self._new(key)

    def stop_for_fault(self, fault: str) -> None:
        """Merge nothing any more: the model returned what can't be split by rows."""
        if self.merges:
            log.warning("%s: requests are not put together any more: %s", self.title, fault)
        self.keep_apart()

    def keep_apart(self) -> None:
        """Merge nothing, split nothing and pad nothing."""
        self.merges = False
        self.part = None

    def counted(self, task: Task) -> int:
        """Return what a task counts against `max_rows`."""
        return task.rows if self.stacks else 1

    def padded_rows(self, rows: int) -> int:
        """Return the allowed size that a run of `rows` rows is padded to; `rows` itself if there is none."""
        return next((size for size in self.allowed if size >= rows), rows)

    def _key(self, task: Task) -> Any:
        """Return dtypes and inner shapes; None if the inputs have different leading sizes."""
        parts: list[Any] = []
        for name, array in task.arrays.items():
            if array.ndim == 0 or array.shape[0] != task.rows:
                return None
            free = self.padded.get(name, ())
            inner = tuple(-1 if axis in free else size for axis, size in enumerate(array.shape) if axis)
            parts.append((name, array.dtype, inner))
        parts.sort(key=lambda part: str(part[0]))
        return tuple(parts)

    def _new(self, key: Any) -> BatchGroup:
        if len(self._groups) >= MAX_GROUPS:
            self._groups = {}  # a batch in the making has a reference to its own
        return self._groups.setdefault(key, BatchGroup(self, merges=True))


class BatchGroup:
    """Tasks that fit together, and how much they were run lately. Any thread may call it."""

    __slots__ = ("_lock", "_merges", "busy_us", "policy", "rows", "tasks")

    def __init__(self, policy: BatchPolicy, *, merges: bool) -> None:
        self.policy = policy
        self._merges = merges
        self._lock = threading.Lock()
        #: Of its runs; recent ones count most.
        self.busy_us = self.tasks = self.rows = 0

    @property
    def merges(self) -> bool:
        """Whether its tasks may share runs."""
        return self._merges and self.policy.merges

    def add(self, tasks: int, rows: int, us: int) -> None:
        """Count a run of so many tasks and rows that took `us` microseconds."""
        with self._lock:
            self.busy_us += us
            self.tasks += tasks
            self.rows += rows

    def fade(self) -> bool:
        """Halve the weight of the runs until now; return whether any is left."""
        with self._lock:
            self.busy_us, self.tasks, self.rows = self.busy_us // 2, self.tasks // 2, self.rows // 2
            return self.busy_us > 0

    def rows_to_run(self) -> int:
        """Return how many rows to run together."""
        if not self.merges:
            return 1
        calibration = self.policy.calibration
        return self.policy.max_rows if calibration is None else min(calibration.rows, self.policy.max_rows)


def declares_batching(servable: Servable) -> bool:
    """Return whether the model's author says that its requests share runs, so that no proof is needed."""
    return servable.session.batching is True or servable.batching.max_batch_size is not None


def has_batch(signature: Signature, outputs: Sequence[str]) -> bool:
    """Return whether every input and every one of these outputs may have any leading size."""
    if not signature.validated or not signature.inputs or not outputs:
        return False
    specs = [*signature.inputs.values(), *(signature.outputs[name] for name in outputs)]
    return all(spec.has_rows for spec in specs)


def _free_axes(signature: Signature) -> dict[str, tuple[int, ...]]:
    return {name: _free(spec) for name, spec in signature.inputs.items()}


def _free(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(spec.shape or ()) if axis and size is None)

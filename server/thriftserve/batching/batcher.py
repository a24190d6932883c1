"""Tasks in, results out; tasks that fit together share runs.

    run_all(tasks)  -->  batch groups, cut to max_batch_size  -->  BatchExecutor  -->  TaskResult, one for each task
    run(task)       -->  a run of its own                     --'

>>> Batcher(max_batch_size=32).hint().requests
32
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from thriftserve.batching import merge_notes as notes
from thriftserve.batching.calibration import Calibration
from thriftserve.batching.examination import Examination
from thriftserve.batching.executor import BatchExecutor, run_one
from thriftserve.batching.group import BatchGroup, BatchPolicy, UsageTracker, declares_batching
from thriftserve.batching.spot_check import Fault
from thriftserve.batching.task import QueueLimit, Task, TaskOutcome, TaskResult
from thriftserve.batching.verdict import Verdict
from thriftserve.errors import ResourceExhausted
from thriftserve.models.registry import Servable
from thriftserve.repository.model_settings import UNSET
from thriftserve.rpc.batch_processor import BatchHint

log = logging.getLogger(__name__)

#: Rows of a run, if neither the server nor the model sets another number.
MAX_BATCH_SIZE = 64
#: Callers choose sets of outputs, so there must be a limit; past it, all policies are made anew.
MAX_POLICIES = 512
#: Seconds after which what another process reported is read, at most, while requests come.
READ_STOPS_S = 0.05
#: What a model without a model.toml has, by its identity: a request that nobody batches must not pay for more.
_UNSET = UNSET.batching

#: A model's name, its version, its signature.
_SignatureKey = tuple[str, int, str]


class MergeStops(Protocol):
    """What the processes of a server tell each other of models whose requests must not share runs."""

    def add(self, name: str, version: int, why: str) -> None:
        """Tell the other processes."""

    def new(self) -> Iterable[tuple[tuple[str, int], str]]:
        """Return what was reported since the last call: (model, version) and why."""


class Batcher:
    """Runs tasks, those that fit together in one run. Any thread may call it.

    Args:
        runs: session runs at once in this process; None: any number.
        max_batch_size: rows of one run, for models that set no other number; 1: requests never share runs.
        batch_timeout_ms: how long a request may wait for others, for models that set no other time; None: by the
            measured run times.
        stops: reports to other processes, and from them, models whose requests must not share runs; None: there are
            no others.
    """

    def __init__(
        self,
        runs: int | None = None,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        batch_timeout_ms: float | None = None,
        stops: MergeStops | None = None,
    ) -> None:
        self._usage = UsageTracker(max_batch_size, batch_timeout_ms)
        self._executor = BatchExecutor(runs, self._usage, self._stop)
        self._run_unbatched = self._executor.run_unbatched if runs else run_one
        self._runs = runs
        self._max_batch_size = max_batch_size
        self._verdicts: dict[_SignatureKey, Verdict] = {}
        self._calibrations: dict[_SignatureKey, Calibration] = {}
        #: By model, version: why nothing shares a run any more.
        self._stopped: dict[tuple[str, int], str] = {}
        self._stops = stops
        self._stops_read_at = 0.0
        self._policies: dict[tuple[int, str, tuple[str, ...]], BatchPolicy] = {}
        self._queue_limits: dict[str, QueueLimit] = {}

    @property
    def policies(self) -> int:
        """The number of signatures and sets of outputs in use."""
        return len(self._policies)

    # Running

    def run(self, task: Task) -> TaskResult:
        """Run a task by itself; block until it is done.

        Raises:
            DeadlineExceeded: its time was over before its run; it was not run.
            InvalidArgument: the model refused the inputs.
            Internal: the model failed.
        """
        if self._max_batch_size == 1 and task.servable.batching is _UNSET:
            return self._run_unbatched(task)
        self._read_stops()
        return self._executor.run_task(self._group_of(task), task)

    def run_all(self, tasks: Sequence[Task]) -> list[TaskOutcome]:
        """Run tasks together; return a result or an error for each, in their order."""
        if not tasks:
            return []
        self._read_stops()
        places_by_group: dict[BatchGroup, list[int]] = {}
        for place, task in enumerate(tasks):
            group = self._group_of(task)
            places = places_by_group.get(group)
            if places is None:
                places_by_group[group] = [place]
            else:
                places.append(place)
        if len(places_by_group) == 1:
            return self._run_group(next(iter(places_by_group)), list(tasks))
        outcomes: list[TaskOutcome | None] = [None] * len(tasks)
        for group, places in places_by_group.items():
            for place, outcome in zip(places, self._run_group(group, [tasks[at] for at in places]), strict=True):
                outcomes[place] = outcome
        return outcomes  # type: ignore[return-value]  # every place is filled

    def hint(self) -> BatchHint:
        """Return how many requests are worth handing to this process at once, by its runs of the last seconds."""
        return self._usage.hint()

    def _run_group(self, group: BatchGroup, tasks: list[Task]) -> list[TaskOutcome]:
        chunks = chunked(group, tasks)
        if len(chunks) == 1:
            return self._executor.run_together(group, tasks)
        outcomes: list[TaskOutcome] = []
        refused: list[TaskOutcome] = []
        limit = self._queue_limit(tasks[0])
        if limit is not None:
            chunks, refused = admitted(chunks, limit)
        for number, chunk in enumerate(chunks):
            if number and limit is not None:
                limit.remove(len(chunk))
            outcomes += self._executor.run_together(group, chunk)
        return outcomes + refused

    def _group_of(self, task: Task) -> BatchGroup:
        servable = task.servable
        policy = self._policies.get((id(servable), task.signature.name, task.wanted))
        # The id of a servable that has ended may be that of another one.
        if policy is None or policy.servable() is not servable:
            policy = self._add_policy(task)
        return policy.group(task)

    def _add_policy(self, task: Task) -> BatchPolicy:
        policies = {key: policy for key, policy in self._policies.copy().items() if policy.servable() is not None}
        if len(policies) >= MAX_POLICIES:
            policies = {}
        key = (task.servable.name, task.servable.version, task.signature.name)
        verdict, calibration = self._verdicts.get(key), self._calibrations.get(key)
        policy = BatchPolicy(task.servable, task.signature, task.wanted, self._max_batch_size, verdict, calibration)
        if (task.servable.name, task.servable.version) in self._stopped:
            policy.keep_apart()
        policies[id(task.servable), task.signature.name, task.wanted] = policy
        self._policies = policies
        return policy

    def _queue_limit(self, task: Task) -> QueueLimit | None:
        max_enqueued, name = task.servable.batching.max_enqueued, task.servable.name
        if max_enqueued is None:
            return None
        limit = self._queue_limits.get(name)
        if limit is None or limit.limit != max_enqueued:
            limit = self._queue_limits[name] = QueueLimit(name, max_enqueued)
        return limit

    # Whether requests may share runs

    def examine(self, servable: Servable, version_path: Path | None = None) -> None:
        """Find out whether a model's requests may share runs, and of how many rows; log the findings.

        Call it before the first request. Without it, only those models' requests share runs whose author says so.

        Args:
            servable: the loaded version.
            version_path: where the version's files are: requests recorded there are tried first.
        """
        # Runs apart from the others: what is tried is no use of the model.
        executor = BatchExecutor(self._runs, UsageTracker(self._max_batch_size), self._stop)
        examination = Examination(servable, executor, self._max_batch_size, self._runs, version_path)
        for signature in servable.signatures.values():
            finding = examination.of(signature)
            if finding is None:
                continue
            key = (servable.name, servable.version, signature.name)
            self._verdicts[key] = finding.verdict
            if finding.calibration is not None:
                self._calibrations[key] = finding.calibration
            declared = declares_batching(servable)
            notes.log_finding(servable, signature, finding.verdict, finding.calibration, declared=declared)

    def note(self, servable: Servable) -> str:
        """Return which of a model's requests do not share runs though they could, and why; empty if there are none."""
        stopped = self._stopped.get((servable.name, servable.version))
        if stopped is not None:
            return notes.of_stopped(stopped)
        if declares_batching(servable):
            return ""
        return notes.of_verdicts(self._verdicts_of(servable))

    def why_apart(self, servable: Servable, signature: str) -> str:
        """Return why requests for all outputs of a signature do not share runs; empty if they do."""
        verdict = self._verdicts.get((servable.name, servable.version, signature))
        if verdict is None:
            return "an input or an output has no free leading size"
        return verdict.why_not(servable.signatures[signature].outputs)

    def findings(self, servable: Servable) -> list[str]:
        """Return what examining a model has found, a line for each signature whose requests could share runs."""
        declared = declares_batching(servable)
        return [notes.in_words(name, verdict, declared) for name, verdict in self._verdicts_of(servable).items()]

    def _verdicts_of(self, servable: Servable) -> dict[str, Verdict]:
        verdicts = {name: self._verdicts.get((servable.name, servable.version, name)) for name in servable.signatures}
        return {name: verdict for name, verdict in verdicts.items() if verdict is not None}

    def _stop(self, task: Task, fault: Fault) -> None:
        """Let no requests of a task's model share runs any more, in this process and in the others."""
        servable = task.servable
        if (servable.name, servable.version) in self._stopped:
            return
        why = f"{fault.why} (signature {task.signature.name!r})"
        notes.log_stop(servable, why, dependent=fault.dependent)
        self._keep_apart((servable.name, servable.version), why)
        if self._stops is not None:
            self._stops.add(servable.name, servable.version, why)

    def _keep_apart(self, key: tuple[str, int], why: str) -> None:
        self._stopped[key] = why
        for policy in self._policies.copy().values():
            servable = policy.servable()
            if servable is not None and (servable.name, servable.version) == key and not policy.declared:
                policy.keep_apart()

    def _read_stops(self) -> None:
        """Read what other processes have reported."""
        now = time.monotonic()
        if self._stops is None or now < self._stops_read_at + READ_STOPS_S:
            return
        self._stops_read_at = now
        for key, why in self._stops.new():
            if key not in self._stopped:
                log.error("model %s version %d: merging stopped, as another process found: %s", *key, why)
                self._keep_apart(key, why)


def chunked(group: BatchGroup, tasks: Sequence[Task]) -> list[list[Task]]:
    """Return the tasks of a group in their order, cut into runs; no task is divided."""
    if not group.merges:
        return [[task] for task in tasks]
    max_rows, counted = group.policy.max_rows, group.policy.counted
    chunks: list[list[Task]] = []
    room = 0
    for task in tasks:
        rows = counted(task)
        if rows > room or not chunks:
            chunks.append([])
            room = max_rows
        chunks[-1].append(task)
        room -= rows
    return chunks


def admitted(chunks: list[list[Task]], limit: QueueLimit) -> tuple[list[list[Task]], list[TaskOutcome]]:
    """Return the runs whose tasks may wait behind the first one, and the errors of the last tasks that may not."""
    runs = [chunks[0]]
    for place, chunk in enumerate(chunks[1:], 1):
        tasks: list[Task] = []
        for task in chunk:
            try:
                limit.add()
            except ResourceExhausted as error:
                runs += [tasks] if tasks else []
                refused = sum(map(len, chunks[place:])) - len(tasks)
                return runs, [error] * refused
            tasks.append(task)
        runs.append(tasks)
    return runs, []

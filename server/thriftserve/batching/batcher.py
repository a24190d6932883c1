"""Jobs in, answers out; those that fit together share runs.

run_all(jobs)  -->  groups by lane, cut to max_batch_size  -->  Runs  -->  Done, a job each
run(job)       -->  a run of its own                        --'

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
from thriftserve.batching.group import BatchGroup, BatchPolicy, on_word
from thriftserve.batching.hint import UsageTracker
from thriftserve.batching.job import QueueLimit, Task, TaskOutcome, TaskResult
from thriftserve.batching.spot_check import Fault
from thriftserve.batching.verdict import Verdict
from thriftserve.errors import ResourceExhausted
from thriftserve.models.servable import Servable
from thriftserve.repository.model_settings import UNSET
from thriftserve.rpc.batch_processor import BatchHint

log = logging.getLogger(__name__)

#: Rows of a run, where neither the server nor the model says something else.
MAX_BATCH_SIZE = 64
#: Callers choose sets of outputs, so there must be a limit; past it, all are forgotten.
MOST_SHARINGS = 512
#: Seconds after which another process's finding is heard of, at most, where requests come.
HEAR_S = 0.05
#: What a model without a model.toml has, by its identity: a request that nobody batches must not pay for looking.
_UNSET = UNSET.batching


class MergeStops(Protocol):
    """What the processes of a server tell each other of models whose requests must not share runs."""

    def add(self, name: str, version: int, why: str) -> None:
        """Tells the others."""

    def new(self) -> Iterable[tuple[tuple[str, int], str]]:
        """What was told since it was last asked: (model, version) and why."""


class Batcher:
    """Runs jobs, those that fit together in one run. Any thread may call it."""

    def __init__(
        self,
        runs: int | None = None,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        batch_timeout_ms: float | None = None,
        stops: MergeStops | None = None,
    ) -> None:
        """Keeps what it is given.

        Args:
            runs: session runs at once in this process; None: any number.
            max_batch_size: rows of one run, for models that don't say themselves; 1: nothing is put together.
            batch_timeout_ms: how long a request may wait for others, for models that don't say themselves; None:
                by the measured run times.
            stops: tells other processes of a model whose requests must not share runs, and this one; None: there
                are none.
        """
        self._usage = UsageTracker(max_batch_size, batch_timeout_ms)
        self._runs = BatchExecutor(runs, self._usage, self._stop)
        self._straight = self._runs.straight if runs else run_one
        self._most_runs = runs
        self._most = max_batch_size
        #: By model, version, signature.
        self._verdicts: dict[tuple[str, int, str], Verdict] = {}
        self._calibrations: dict[tuple[str, int, str], Calibration] = {}
        #: By model, version: why nothing shares a run any more.
        self._stopped: dict[tuple[str, int], str] = {}
        self._stops = stops
        self._heard_at = 0.0
        self._sharings: dict[tuple[int, str, tuple[str, ...]], BatchPolicy] = {}
        self._enqueued: dict[str, QueueLimit] = {}

    def run(self, job: Task) -> TaskResult:
        """Runs a job by itself; blocks.

        Raises:
            DeadlineExceeded: its time was over before its run; it was not run.
            InvalidArgument: the model refused the inputs.
            Internal: the model failed.
        """
        if self._most == 1 and job.servable.batching is _UNSET:
            return self._straight(job)
        self._hear()
        return self._runs.alone(self._lane(job), job)

    def run_all(self, jobs: Sequence[Task]) -> list[TaskOutcome]:
        """Runs jobs that are in hand together: an answer or an error for each, in their order."""
        if not jobs:
            return []
        self._hear()
        groups: dict[BatchGroup, list[int]] = {}
        for place, job in enumerate(jobs):
            lane = self._lane(job)
            group = groups.get(lane)
            if group is None:
                groups[lane] = [place]
            else:
                group.append(place)
        if len(groups) == 1:
            return self._run_group(next(iter(groups)), list(jobs))
        answers: list[TaskOutcome | None] = [None] * len(jobs)
        for lane, places in groups.items():
            for place, answer in zip(places, self._run_group(lane, [jobs[place] for place in places]), strict=True):
                answers[place] = answer
        return answers  # type: ignore[return-value]  # every place is filled

    def examine(self, servable: Servable, version_path: Path | None = None) -> None:
        """Finds out whether a model's requests may share runs, and of how many rows; logs what came of it.

        Call it before the first request of anybody. Without it, only those models' requests share runs whose
        author says so.

        Args:
            version_path: where the version's files are: requests recorded there are tried first.
        """
        runs = BatchExecutor(
            self._most_runs, UsageTracker(self._most), self._stop
        )  # apart: what is tried is no use of the model
        made = Examination(servable, runs, self._most, self._most_runs, version_path)
        for signature in servable.signatures.values():
            finding = made.of(signature)
            if finding is None:
                continue
            key = (servable.name, servable.version, signature.name)
            self._verdicts[key] = finding.verdict
            if finding.calibration is not None:
                self._calibrations[key] = finding.calibration
            notes.log_finding(servable, signature, finding.verdict, finding.calibration, on_word=on_word(servable))

    def note(self, servable: Servable) -> str:
        """Which of a model's requests do not share runs though they could, and why; empty where there are none."""
        stopped = self._stopped.get((servable.name, servable.version))
        if stopped is not None:
            return notes.of_stopped(stopped)
        if on_word(servable):
            return ""
        known = {name: self._verdicts.get((servable.name, servable.version, name)) for name in servable.signatures}
        return notes.of_verdicts({name: verdict for name, verdict in known.items() if verdict is not None})

    def why_apart(self, servable: Servable, signature: str) -> str:
        """Why requests for all outputs of a signature do not share runs, by its examination; empty where they do."""
        verdict = self._verdicts.get((servable.name, servable.version, signature))
        if verdict is None:
            return "an input or an output has no free leading size"
        return verdict.why_not(servable.signatures[signature].outputs)

    def findings(self, servable: Servable) -> list[str]:
        """What examining a model has found, a line for each signature whose requests could share runs."""
        known = ((name, self._verdicts.get((servable.name, servable.version, name))) for name in servable.signatures)
        return [notes.in_words(name, verdict, on_word(servable)) for name, verdict in known if verdict is not None]

    def hint(self) -> BatchHint:
        """How many requests are worth handing to this process at once, by its runs of the last seconds."""
        return self._usage.hint()

    def _stop(self, job: Task, found: Fault) -> None:
        """Merges nothing of a job's model any more, in this process and in the others."""
        servable = job.servable
        if (servable.name, servable.version) in self._stopped:
            return
        why = f"{found.why} (signature {job.signature.name!r})"
        notes.log_stop(servable, why, dependent=found.dependent)
        self._keep_apart((servable.name, servable.version), why)
        if self._stops is not None:
            self._stops.add(servable.name, servable.version, why)

    def _keep_apart(self, key: tuple[str, int], why: str) -> None:
        self._stopped[key] = why
        for sharing in self._sharings.copy().values():
            servable = sharing.servable()
            if servable is not None and (servable.name, servable.version) == key and not sharing.on_word:
                sharing.keep_apart()

    def _hear(self) -> None:
        """Learns what other processes have found."""
        now = time.monotonic()
        if self._stops is None or now < self._heard_at + HEAR_S:
            return
        self._heard_at = now
        for key, why in self._stops.new():
            if key not in self._stopped:
                log.error("model %s version %d: merging stopped, as another process found: %s", *key, why)
                self._keep_apart(key, why)

    def _run_group(self, lane: BatchGroup, jobs: list[Task]) -> list[TaskOutcome]:
        chunks = chunked(lane, jobs)
        if len(chunks) == 1:
            return self._runs.together(lane, jobs)
        answers: list[TaskOutcome] = []
        refused: list[TaskOutcome] = []
        enqueued = self._enqueued_for(jobs[0])
        if enqueued is not None:
            chunks, refused = admitted(chunks, enqueued)
        for number, chunk in enumerate(chunks):
            if number and enqueued is not None:
                enqueued.remove(len(chunk))
            answers += self._runs.together(lane, chunk)
        return answers + refused

    def _lane(self, job: Task) -> BatchGroup:
        servable = job.servable
        found = self._sharings.get((id(servable), job.signature.name, job.wanted))
        # The number of a servable that has ended may be that of another one.
        if found is None or found.servable() is not servable:
            found = self._new_sharing(job)
        return found.lane(job)

    def _new_sharing(self, job: Task) -> BatchPolicy:
        known = {key: one for key, one in self._sharings.copy().items() if one.servable() is not None}
        if len(known) >= MOST_SHARINGS:
            known = {}
        key = (job.servable.name, job.servable.version, job.signature.name)
        verdict, calibration = self._verdicts.get(key), self._calibrations.get(key)
        sharing = BatchPolicy(job.servable, job.signature, job.wanted, self._most, verdict, calibration)
        if (job.servable.name, job.servable.version) in self._stopped:
            sharing.keep_apart()
        known[id(job.servable), job.signature.name, job.wanted] = sharing
        self._sharings = known
        return sharing

    def _enqueued_for(self, job: Task) -> QueueLimit | None:
        most, name = job.servable.batching.max_enqueued, job.servable.name
        if most is None:
            return None
        known = self._enqueued.get(name)
        if known is None or known.most != most:
            known = self._enqueued[name] = QueueLimit(name, most)
        return known


def chunked(lane: BatchGroup, jobs: Sequence[Task]) -> list[list[Task]]:
    """Jobs of a lane in their order, cut into runs; a job is in one of them as a whole."""
    if not lane.merges:
        return [[job] for job in jobs]
    most, counted = lane.sharing.most, lane.sharing.counted
    chunks: list[list[Task]] = []
    room = 0
    for job in jobs:
        rows = counted(job)
        if rows > room or not chunks:
            chunks.append([])
            room = most
        chunks[-1].append(job)
        room -= rows
    return chunks


def admitted(chunks: list[list[Task]], enqueued: QueueLimit) -> tuple[list[list[Task]], list[TaskOutcome]]:
    """The runs whose jobs may wait behind the first one, and the errors of the jobs at the end that may not."""
    left = [chunks[0]]
    for place, chunk in enumerate(chunks[1:], 1):
        taken: list[Task] = []
        for job in chunk:
            try:
                enqueued.add()
            except ResourceExhausted as error:
                left += [taken] if taken else []
                refused = sum(map(len, chunks[place:])) - len(taken)
                return left, [error] * refused
            taken.append(job)
        left.append(taken)
    return left, []

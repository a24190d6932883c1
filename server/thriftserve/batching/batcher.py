"""Jobs in, answers out; those that fit together share runs.

run(job), from many threads   -->  Turns: one thread runs what others wait with  --,
run_all(jobs), in one hand    -->  groups by lane, cut to max_batch_size         --+-->  Runs  -->  Done, a job each

>>> Batcher(max_batch_size=32).advice()
Advice(take=32, fixed_us=0.0, row_us=0.0, wait_us=None)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from thriftserve.batching import rehearsal
from thriftserve.batching.advice import Advice, Usage
from thriftserve.batching.enqueued import Enqueued
from thriftserve.batching.job import Answer, Done, Job
from thriftserve.batching.lane import Lane, Sharing
from thriftserve.batching.on_the_way import OnTheWay
from thriftserve.batching.runs import Runs, run_one
from thriftserve.batching.turns import Turns
from thriftserve.errors import ResourceExhausted
from thriftserve.models.model_settings import UNSET
from thriftserve.models.servable import Servable

log = logging.getLogger(__name__)

#: Rows of a run, where neither the server nor the model says something else.
MAX_BATCH_SIZE = 64
#: Runs of one lane at once where nothing bounds them: while one runs, the next one forms.
LANE_RUNS = 2
#: Callers choose sets of outputs, so there must be a limit; past it, all are forgotten.
MOST_SHARINGS = 512
#: What a model without a model.toml has, by its identity: a request that nobody batches must not pay for looking.
_UNSET = UNSET.batching


class Batcher:
    """Runs jobs, those that fit together in one run. Any thread may call it."""

    def __init__(
        self,
        runs: int | None = None,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        batch_timeout_ms: float | None = None,
    ) -> None:
        """Keeps what it is given.

        Args:
            runs: session runs at once in this process; None: any number.
            max_batch_size: rows of one run, for models that don't say themselves; 1: nothing is put together.
            batch_timeout_ms: how long `run` may wait for others, for models that don't say themselves; None:
                by the measured run times.
        """
        self._usage = Usage(max_batch_size, batch_timeout_ms)
        self._runs = Runs(runs, self._usage)
        self._straight = self._runs.straight if runs else run_one
        self._most_runs = runs
        self._lane_runs = runs or LANE_RUNS
        self._most = max_batch_size
        self._timeout_ms = batch_timeout_ms
        #: (model, version, signature) whose requests must not share runs.
        self._apart: set[tuple[str, int, str]] = set()
        self._sharings: dict[tuple[int, str, tuple[str, ...]], Sharing] = {}
        self._enqueued: dict[str, Enqueued] = {}
        #: Told by those who prepare jobs for `run`, where `merging` says so.
        self.on_the_way = OnTheWay()
        self.merging = max_batch_size > 1

    def run(self, job: Job) -> Done:
        """Runs a job, with what other threads wait with; blocks.

        Raises:
            DeadlineExceeded: its time was over before its run; it was not run.
            ResourceExhausted: too many requests wait for the model.
            InvalidArgument: the model refused the inputs.
            Internal: the model failed.
        """
        if self._most == 1 and job.servable.batching is _UNSET:
            return self._straight(job)
        lane = self._lane(job)
        if not lane.merges:
            return self._runs.alone(lane, job)
        return (lane.turns or self._turns(lane, job)).run(job)

    def run_all(self, jobs: Sequence[Job]) -> list[Answer]:
        """Runs jobs that are in hand together: an answer or an error for each, in their order."""
        if not jobs:
            return []
        groups: dict[Lane, list[int]] = {}
        for place, job in enumerate(jobs):
            lane = self._lane(job)
            group = groups.get(lane)
            if group is None:
                groups[lane] = [place]
            else:
                group.append(place)
        if len(groups) == 1:
            return self._run_group(next(iter(groups)), list(jobs))
        answers: list[Answer | None] = [None] * len(jobs)
        for lane, places in groups.items():
            for place, answer in zip(places, self._run_group(lane, [jobs[place] for place in places]), strict=True):
                answers[place] = answer
        return answers  # type: ignore[return-value]  # every place is filled

    def rehearse(self, servable: Servable) -> None:
        """Runs every signature with made-up rows, each by itself and together.

        The first requests then find it known what runs take; and a model whose answer to a row depends on the
        rows beside it (its free leading dimension is no batch) is found out, and its requests stay apart.
        """
        for signature in servable.signatures.values():
            jobs = rehearsal.jobs_of(servable, signature)
            if not jobs or not (lane := self._lane(jobs[0])).merges:
                continue
            if rehearsal.independent(jobs, self.run_all):
                lane.rehearsed(self._at_load(jobs, lane, rehearsal.LOAD_S / len(servable.signatures)))
            else:
                self._apart.add((servable.name, servable.version, signature.name))
                self._sharings = {}
                log.warning(
                    "model %s version %d: rows of %r depend on each other: its requests are not put together",
                    servable.name, servable.version, signature.name,
                )  # fmt: skip

    def _at_load(self, jobs: Sequence[Job], lane: Lane, seconds: float) -> dict[int, float]:
        """What the runs of this process take side by side; nothing where their number is open."""
        if self._most_runs is None:
            return {}
        return rehearsal.at_load(jobs, self.run_all, self._most_runs, lane.sizes, seconds)

    def advice(self) -> Advice:
        """How many requests are worth handing to this process at once, by its runs of the last seconds."""
        return self._usage.advice()

    def _run_group(self, lane: Lane, jobs: list[Job]) -> list[Answer]:
        chunks = chunked(lane, jobs)
        if len(chunks) == 1:
            return self._runs.together(lane, jobs)
        answers: list[Answer] = []
        refused: list[Answer] = []
        enqueued = self._enqueued_for(jobs[0])
        if enqueued is not None:
            chunks, refused = admitted(chunks, enqueued)
        for number, chunk in enumerate(chunks):
            if number and enqueued is not None:
                enqueued.remove(len(chunk))
            answers += self._runs.together(lane, chunk)
        return answers + refused

    def _lane(self, job: Job) -> Lane:
        servable = job.servable
        found = self._sharings.get((id(servable), job.signature.name, job.wanted))
        # The number of a servable that has ended may be that of another one.
        if found is None or found.servable() is not servable:
            found = self._new_sharing(job)
        return found.lane(job)

    def _new_sharing(self, job: Job) -> Sharing:
        known = {key: one for key, one in self._sharings.copy().items() if one.servable() is not None}
        if len(known) >= MOST_SHARINGS:
            known = {}
        sharing = Sharing(job.servable, job.signature, job.wanted, self._most)
        if (job.servable.name, job.servable.version, job.signature.name) in self._apart:
            sharing.keep_apart()
        known[id(job.servable), job.signature.name, job.wanted] = sharing
        self._sharings = known
        self.merging = self.merging or sharing.merges
        return sharing

    def _turns(self, lane: Lane, job: Job) -> Turns:
        settings = job.servable.batching
        timeout_ms = settings.batch_timeout_ms if settings.batch_timeout_ms is not None else self._timeout_ms
        enqueued = self._enqueued_for(job)
        made = Turns(lane, self._runs.together, self._lane_runs, enqueued, self.on_the_way, timeout_ms)
        return lane.first_turns(made)

    def _enqueued_for(self, job: Job) -> Enqueued | None:
        most, name = job.servable.batching.max_enqueued, job.servable.name
        if most is None:
            return None
        known = self._enqueued.get(name)
        if known is None or known.most != most:
            known = self._enqueued[name] = Enqueued(name, most)
        return known


def chunked(lane: Lane, jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs of a lane in their order, cut into runs; a job is in one of them as a whole."""
    if not lane.merges:
        return [[job] for job in jobs]
    most, counted = lane.sharing.most, lane.sharing.counted
    chunks: list[list[Job]] = []
    room = 0
    for job in jobs:
        rows = counted(job)
        if rows > room or not chunks:
            chunks.append([])
            room = most
        chunks[-1].append(job)
        room -= rows
    return chunks


def admitted(chunks: list[list[Job]], enqueued: Enqueued) -> tuple[list[list[Job]], list[Answer]]:
    """The runs whose jobs may wait behind the first one, and the errors of the jobs at the end that may not."""
    left = [chunks[0]]
    for place, chunk in enumerate(chunks[1:], 1):
        taken: list[Job] = []
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

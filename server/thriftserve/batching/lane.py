"""What may share a run: jobs of one signature, one set of outputs, one shape but for their rows.

    Job --> Sharing (servable, signature, outputs) --> Lane (dtypes, inner shapes) --> its runs

Nothing is merged unless every input and every output wanted has a leading dimension of any size, the batch, and
unless a verdict says that it was shown to change no answer, or the model's author says so.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thriftserve.batching.job import Job
from thriftserve.batching.run_times import Fit, RunTimes, efficient_rows
from thriftserve.batching.size_search import SizeSearch, ladder
from thriftserve.batching.spot_check import SpotCheck
from thriftserve.batching.verdict import Cut, Verdict
from thriftserve.models.python_model import PythonSession
from thriftserve.models.servable import Servable
from thriftserve.models.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from thriftserve.batching.turns import Turns

#: Callers choose the inner shapes where they are free, so there must be a limit; past it, all are forgotten.
MOST_LANES = 256
#: What a run may count more than the best one of its size.
SLOWER = 1.03
NOT_YET_US = 10**12
#: Callers choose the sizes too.
MOST_SIZES = 1024

log = logging.getLogger(__name__)


class Sharing:
    """How the runs of one signature of one servable, for one set of outputs, may be shared.

    `most` is the number of rows that jobs are merged up to, 1 for not at all; `part` that of the largest run
    that a single job gets before it is split, None for any.

    Args:
        wanted: the outputs; empty: all that the signature has.
        default_most: rows of a run, where the model doesn't say itself.
        verdict: what is known of the signature; None: nothing.
    """

    def __init__(
        self,
        servable: Servable,
        signature: Signature,
        wanted: tuple[str, ...],
        default_most: int,
        verdict: Verdict | None = None,
    ) -> None:
        self.servable = weakref.ref(servable)
        self.title = f"{servable.name} version {servable.version} {signature.name!r}"
        self.settings = servable.batching
        session = servable.session
        allowed = self.settings.allowed_batch_sizes
        most = self.settings.max_batch_size or default_most
        python = session if isinstance(session, PythonSession) else None
        self.each = python is not None and python.runs_each(signature.name)
        opted_out = python is not None and python.batching is False
        self.stacks = not opted_out and not self.each and has_batch(signature, wanted or tuple(signature.outputs))
        self.on_word = on_word(servable)
        if not self.stacks:
            allowed = ()
        self.most = min(most, allowed[-1]) if allowed else most
        self.part = (self.most if self.most > 1 else None) if self.stacks else None
        if allowed and self.part is None:
            self.part = allowed[-1]
        self.allowed = allowed
        self.merges = self.most > 1 and not opted_out and (self.stacks or self.each)
        #: Axes of each input, the batch not counted, that requests may differ in and still share a run.
        self.padded = _free_axes(signature) if self.settings.pad_variable_length_inputs and self.stacks else {}
        #: By output: what of a padded run's outputs is beyond a request's own size.
        self.cuts: Mapping[str, Sequence[Cut]] = {}
        #: Checks some of its merged runs.
        self.check = None if self.on_word else SpotCheck(verdict.rounding if verdict is not None else {})
        self._settle(verdict, wanted or tuple(signature.outputs))
        self._name = next(iter(signature.inputs)) if len(signature.inputs) == 1 and not self.padded else None
        self._lanes: dict[Any, Lane] = {}
        self._alone = Lane(self, merges=False)
        self._together = Lane(self, merges=True)

    def _settle(self, verdict: Verdict | None, wanted: Sequence[str]) -> None:
        """Merges no more than what was shown, where the author doesn't say more."""
        if verdict is not None and not verdict.unpadded:
            self.cuts = verdict.cuts
        if self.on_word:
            return
        if verdict is None:
            # A batch method was written for several requests at once: where it can't be tried, its author has spoken.
            if not self.each:
                self.keep_apart()
        elif verdict.why_not(wanted) and (not self.each or verdict.dependent):
            self.keep_apart()
        else:
            self.bound(verdict.rows if not verdict.why_not(wanted) else self.most)
            if verdict.unpadded:
                self.padded = {}

    def bound(self, rows: int) -> None:
        """Merges at most so many rows."""
        self.most = min(self.most, rows)
        if self.part is not None:
            self.part = min(self.part, rows)
        self.merges = self.merges and self.most > 1

    def lane(self, job: Job) -> Lane:
        """The lane that a job's run belongs to."""
        if not self.merges:
            return self._alone
        if self.each:
            return self._together
        key: Any
        if self._name is not None:
            array = job.arrays[self._name]
            size, *inner = array.shape
            if size != job.rows:
                return self._alone
            key = (array.dtype, *inner)
        else:
            key = self._key(job)
        if job.rows == 0 or key is None:
            return self._alone
        return self._lanes.get(key) or self._new(key)

    def not_rowwise(self, fault: str) -> None:
        """Merges nothing any more: the model gave what can't be split by rows."""
        if self.merges:
            log.warning("%s: requests are not put together any more: %s", self.title, fault)
        self.keep_apart()

    def keep_apart(self) -> None:
        """Merges nothing, splits nothing and pads nothing."""
        self.merges = False
        self.part = None

    def counted(self, job: Job) -> int:
        """What a job counts with against `most`."""
        return job.rows if self.stacks else 1

    def padded_rows(self, rows: int) -> int:
        """The allowed size that a run of `rows` rows is padded to; `rows` itself where there is none."""
        return next((size for size in self.allowed if size >= rows), rows)

    def _key(self, job: Job) -> Any:
        """Dtypes and inner shapes; None where the inputs have different leading sizes."""
        parts: list[Any] = []
        for name, array in job.arrays.items():
            if array.ndim == 0 or array.shape[0] != job.rows:
                return None
            free = self.padded.get(name, ())
            inner = tuple(-1 if axis in free else size for axis, size in enumerate(array.shape) if axis)
            parts.append((name, array.dtype, inner))
        parts.sort(key=lambda part: str(part[0]))
        return tuple(parts)

    def _new(self, key: Any) -> Lane:
        if len(self._lanes) >= MOST_LANES:
            self._lanes = {}  # whoever waits in one of them has hold of it
        return self._lanes.setdefault(key, Lane(self, merges=True))


class Lane:
    """Jobs that fit together, and what their runs take."""

    __slots__ = (
        "_best", "_lock", "_merges", "_search", "busy_us", "jobs", "rows", "sharing", "sizes", "times", "turns",
    )  # fmt: skip

    def __init__(self, sharing: Sharing, *, merges: bool) -> None:
        self.sharing = sharing
        self.times = RunTimes()
        #: The threads that wait with jobs of this lane; made for the first one.
        self.turns: Turns | None = None
        self._merges = merges
        self._lock = threading.Lock()
        #: The least that a run of each size took, which creeps up while runs take longer.
        self._best: dict[int, int] = {}
        #: The ladder of sizes to choose from.
        self.sizes = ladder(sharing.most, sharing.allowed)
        self._search = SizeSearch(self.sizes)
        #: Of its runs; recent ones count most.
        self.busy_us = self.jobs = self.rows = 0

    @property
    def merges(self) -> bool:
        """Whether its jobs may share runs."""
        return self._merges and self.sharing.merges

    def add(self, jobs: int, rows: int, size: int, us: int) -> None:
        """Counts a run of `jobs` jobs and `rows` rows, `size` with padding, that took `us` microseconds."""
        with self._lock:
            self.busy_us += us
            self.jobs += jobs
            self.rows += rows
            # The first run of a size pays for what later ones find ready, in TensorFlow's kernels as in caches; and
            # what other work on the machine adds says nothing of the sizes: near the best of a size is what counts.
            best = self._best.get(size)
            if best is not None:
                before = self._search.rows
                self._search.add(rows, us, time.monotonic())
                if self._search.rows != before:
                    log.debug("%s: runs of %d rows, no longer of %d", self.sharing.title, self._search.rows, before)
                us = min(us, int(best * SLOWER) + 1)
                self.times.add(size, us)
                self._best[size] = us
            elif len(self._best) < MOST_SIZES:
                self._best[size] = NOT_YET_US

    def first_turns(self, turns: Turns) -> Turns:
        """The turns that this lane has from now on: those given, where another thread was not first."""
        with self._lock:
            self.turns = self.turns or turns
            return self.turns

    def fade(self) -> bool:
        """Halves the weight of the runs until now; tells whether any is left."""
        with self._lock:
            self.busy_us, self.jobs, self.rows = self.busy_us // 2, self.jobs // 2, self.rows // 2
            return self.busy_us > 0

    def fit(self) -> Fit | None:
        """What a run takes, and a row; None while nothing is known of more than one size."""
        fit = self.times.fit()
        with self._lock:
            fixed_us = self._search.fixed_us()
        return fit if fit is None or fixed_us is None else fit._replace(fixed_us=fixed_us)

    def learn(self, other: Lane, s_a_row: Mapping[int, float]) -> None:
        """Begins with what another lane's runs have shown; see `rehearsed`."""
        self.times, self._best = other.times, other._best
        self.rehearsed(s_a_row)

    def rehearsed(self, s_a_row: Mapping[int, float]) -> None:
        """Begins with what made-up requests showed; real ones tell more.

        Args:
            s_a_row: seconds a row where runs of some of `sizes` went on side by side; else what they took alone counts.
        """
        with self._lock:
            largest = max((size for size, us in self._best.items() if us != NOT_YET_US), default=1)
            self._search.start(efficient_rows(self.times.fit(), largest))
            self._search.begin(s_a_row)
            rows = self._search.rows
        told = ", ".join(f"{size}: {s * 1e3:.3g}" for size, s in s_a_row.items()) or "not measured"
        log.info("%s: runs of %d rows to begin with (ms a row, by rows: %s)", self.sharing.title, rows, told)

    def rows_to_run(self) -> int:
        """The rows to run together next: those that are worth it, or now and then others, to see what those do."""
        if not self.merges:
            return 1
        with self._lock:
            return self._search.ask(self.rows // self.jobs if self.jobs and self.sharing.stacks else 1)


def on_word(servable: Servable) -> bool:
    """Whether the model's author says that its requests share runs, so that nothing need be shown."""
    session = servable.session
    said = isinstance(session, PythonSession) and session.batching is True
    return said or servable.batching.max_batch_size is not None


def has_batch(signature: Signature, outputs: Sequence[str]) -> bool:
    """Whether every input and every one of these outputs may have any leading size."""
    if not signature.validated or not signature.inputs or not outputs:
        return False
    specs = [*signature.inputs.values(), *(signature.outputs[name] for name in outputs)]
    return all(spec.shape and spec.shape[0] is None for spec in specs)


def _free_axes(signature: Signature) -> dict[str, tuple[int, ...]]:
    return {name: _free(spec) for name, spec in signature.inputs.items()}


def _free(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(spec.shape or ()) if axis and size is None)

"""The proof that requests of different clients may share a run of a model: it changes no result.

    rows to try --alone, twice--> rows that get the same answer again --together, in many orders and sizes-->
        the same beside these rows and beside others; the same as alone, but for rounding  -->  Verdict

What can't be shown counts as not shown: a model that refuses the rows, answers differently each time or takes too long
runs each request by itself, unless its author says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from thriftserve.batching.task import Task
from thriftserve.batching.verdict import (
    Cut,
    NotByRows,
    RunAlone,
    Verdict,
    cut_back,
    deviation,
    find_cuts,
    step,
    unstable,
)
from thriftserve.errors import ThriftServeError
from thriftserve.models.session import Arrays

#: Steps of an output's type that a model's answer to the same row may vary by: sums of a GPU come in any order.
_VARIES = 1024
#: Steps that an answer may change by in runs of one size, where other rows change: they are the same kernels.
_SAME_RUN = 4
#: Times what an answer varies by itself that it may change then.
_NOISE = 4
#: Part of the largest element that an answer alone and one beside others may be apart: another kernel may compute with
#: bfloat16 inside. What other rows hold must change nothing, so this need only show what their number does.
_OTHER_SIZE = 0.03
#: Rows with an answer that are enough to show anything, and the different answers that there must be among them.
LEAST_ROWS, LEAST_ANSWERS = 3, 2
#: Seconds for the rows by themselves; past it, no more are tried. A proof that would take longer in all is not made.
ALONE_S, LONGEST_S = 1.0, 10.0
#: Runs of a row that a proof takes at the least: each of those rows twice, and in two orders together.
_LEAST_RUNS = 4 * LEAST_ROWS
#: Arrangements, at the least, of each size that is tried.
_LEAST_TOGETHER = 2
#: Random arrangements of each size; those of the smallest sizes, which are those most often run.
_ARRANGEMENTS, _OF_SMALL, _SMALL = 1, 2, 4
#: Tasks of each inner size that are padded together.
_OF_A_SHAPE = 4
#: Refused rows that are tried beside others.
_REFUSED = 4
#: Times the rounding seen, and steps of the type at the least, that answers may be apart later on.
_ROUNDING, _LEAST_STEPS = 10, 64

RunTogether = Callable[[Sequence[Task]], Sequence[Arrays]]


class Proof:
    """Tries the rows of one signature. One thread uses it.

    Args:
        outputs: those that have a leading dimension of any size.
        run_alone: runs a task by itself; raises what the model raises.
        run_together: runs several in one run, each with its part of the outputs; raises the same, and `NotByRows`.
    """

    def __init__(self, outputs: Sequence[str], run_alone: RunAlone, run_together: RunTogether) -> None:
        self._run_alone = run_alone
        self._run_together = run_together
        self._began = time.monotonic()
        self._random = np.random.default_rng(14)
        self._faults = dict.fromkeys(outputs, "")
        self._dependent = False
        self._refused: list[Task] = []
        self._answers: dict[int, Arrays] = {}
        self._refusal = ""
        self._rows = 1
        self._compared = 0
        #: By output: how far two answers to the same row were apart, and one alone and one beside others.
        self._noise = dict.fromkeys(outputs, 0.0)
        self._rounding = dict.fromkeys(outputs, 0.0)
        self._row_s = 0.0
        self._unpadded = "never tried"
        self._cuts: Mapping[str, Sequence[Cut]] = {}
        #: Tasks that the model answers by itself, the same each time.
        self.tasks: list[Task] = []

    def verdict(self) -> Verdict:
        """Return what was found."""
        took_s = time.monotonic() - self._began
        return Verdict(
            self._faults,
            self._rows,
            self._dependent,
            len(self.tasks),
            took_s,
            self._rounding,
            self._unpadded,
            self._cuts,
        )

    def undecided(self) -> bool:
        """Return whether there is an output that may still share runs, by all that was found."""
        return not all(self._faults.values())

    def alone(self, tasks: Iterable[Task]) -> None:
        """Run each task by itself twice; of those after the first few, as many as there is time for."""
        until = time.monotonic() + ALONE_S
        for task in tasks:
            if len(self.tasks) >= LEAST_ROWS and time.monotonic() > until:
                break
            try:
                first, first_s = self._timed(task)
                if first_s > LONGEST_S:
                    self._give_up(_too_long(first_s))
                    return
                again, again_s = self._timed(task)
            except ThriftServeError as error:
                self._refused.append(task)
                self._refusal = self._refusal or error.message
                continue
            if again_s * _LEAST_RUNS > LONGEST_S:  # the first run pays for what later ones find ready
                self._give_up(_too_long(again_s))
                return
            self._note_rows(task, first)
            self._note_noise(first, again)
            self.tasks.append(task)
            self._answers[id(task)] = first
        self._count_rows()

    def _timed(self, task: Task) -> tuple[Arrays, float]:
        began = time.monotonic()
        return self._run_alone(task), time.monotonic() - began

    def _note_rows(self, task: Task, outputs: Arrays) -> None:
        for name, array in outputs.items():
            if array.ndim == 0 or array.shape[0] != task.rows:
                self._dependent = True
                self._fault(name, f"output {name!r} has the shape {list(array.shape)} for {task.rows} rows")

    def _note_noise(self, first: Arrays, again: Arrays) -> None:
        for name, array in first.items():
            noise = self._noise[name] = max(self._noise[name], deviation(array, again[name]))
            if noise > _VARIES * step(array):
                self._fault(name, f"the model answers {name!r} differently each time it is asked")

    def _count_rows(self) -> None:
        if len(self.tasks) < LEAST_ROWS:
            refused = f": {self._refusal}" if self._refusal else ""
            self._give_up(f"the model refuses the inputs that it was tried with{refused}")

    def weigh(self) -> None:
        """Give up if the different answers are too few to show anything."""
        if self._different_answers() < LEAST_ANSWERS:
            self._give_up("the model gives the same answer to every input that it was tried with")

    def _different_answers(self) -> int:
        return len({
            tuple((name, array.shape[1:], array[:1].tobytes() if array.dtype != object else tuple(array[:1].flat))
                  for name, array in self._answers[id(task)].items() if array.ndim)
            for task in self.tasks
        })  # fmt: skip

    def together(self, groups: Sequence[Sequence[Task]], sizes: Iterable[int], run_s: float) -> None:
        """Run tasks together, at each size, and compare with their outputs by themselves.

        Args:
            groups: tasks that fit into one run.
            sizes: rows of the runs, ascending.
            run_s: no run that is likely to take longer is tried, but for the smallest sizes.
        """
        for size in sizes:
            if size <= self._rows:
                continue
            if not self.undecided() or (size > _SMALL and self._row_s * size > run_s):
                break
            compared = self._compared
            self._row_s = self._at_size(groups, size) / size
            if self.undecided() and self._compared > compared:
                self._rows = size
        if self._rows == 1:
            self._give_up("no two of the requests that it was tried with fit into one run")

    def _at_size(self, groups: Sequence[Sequence[Task]], size: int) -> float:
        """Try runs of a size; return the least seconds that one took."""
        least_s = LONGEST_S
        for group in groups:
            for number, batch in enumerate(self._batches(group, size)):
                began = time.monotonic()
                if number >= _LEAST_TOGETHER and began > self._began + LONGEST_S:
                    break
                took_s = self._try([task for task in batch if id(task) in self._answers], group, number)
                least_s = min(least_s, took_s)
                if not self.undecided():
                    return least_s
        return least_s

    def _batches(self, group: Sequence[Task], size: int) -> Iterable[list[Task]]:
        """Yield tasks in several orders, some of them more than once, `size` rows in all or a few fewer."""
        yield self._filled(list(group), size)
        if size <= _SMALL:
            yield self._filled(list(group)[::-1], size)
            yield self._filled([group[-1]] * size, size)  # all the same
        for _ in range(_OF_SMALL if size <= _SMALL else _ARRANGEMENTS):
            order = self._random.integers(0, len(group), size)
            yield self._filled([group[at] for at in order.tolist()], size)

    def _filled(self, tasks: list[Task], size: int) -> list[Task]:
        """Return the first tasks that fit into `size` rows, again from the beginning if there are too few."""
        chosen: list[Task] = []
        rows = 0
        while tasks:
            for task in tasks:
                if rows + task.rows <= size:
                    chosen.append(task)
                    rows += task.rows
            if rows + min(task.rows for task in tasks) > size:
                break
        return chosen

    def _try(self, batch: list[Task], group: Sequence[Task], number: int) -> float:
        """Run tasks together, and half of them beside others; compare. Return the seconds of a run."""
        others = self._others(batch, group, number % 2)
        if len(batch) < 2:
            return LONGEST_S
        began = time.monotonic()
        answers = self._ran(batch)
        took_s = time.monotonic() - began
        beside_others = self._ran(others) if answers and others != batch else None
        for at, (task, other) in enumerate(zip(batch, others, strict=True)):
            if answers and id(task) in self._answers:
                self._compare_with_alone(task, answers[at])
                if beside_others and task is other and id(task) in self._answers:
                    self._compare_beside_others(task, answers[at], beside_others[at])
        self._compared += beside_others is not None
        return took_s

    def _others(self, batch: Sequence[Task], group: Sequence[Task], parity: int) -> list[Task]:
        """Return the tasks of a batch, every second one replaced by another of as many rows."""
        chosen: list[Task] = []
        for at, task in enumerate(batch):
            fit = [
                other for other in group if other is not task and other.rows == task.rows and id(other) in self._answers
            ]
            keeps = at % 2 == parity or not fit
            chosen.append(task if keeps else fit[int(self._random.integers(len(fit)))])
        return chosen

    def _ran(self, batch: Sequence[Task]) -> Sequence[Arrays] | None:
        """Return the outputs of one run; None if it failed, which settles the matter."""
        try:
            return self._run_together(batch)
        except NotByRows as misfit:
            self._dependent = True
            self._fault(misfit.output, str(misfit))
        except ThriftServeError as error:
            self._dependent = True
            self._give_up(f"{len(batch)} requests that are answered one by one fail together: {error.message}")
        return None

    def _compare_with_alone(self, task: Task, outputs: Arrays) -> None:
        alone = self._answers[id(task)]
        for name, array in outputs.items():
            apart = deviation(alone[name], array)
            if apart <= _OTHER_SIZE:
                self._rounding[name] = max(self._rounding[name], apart)
            elif not self._drop_unstable(task, name, apart):
                self._depends(name)

    def _compare_beside_others(self, task: Task, outputs: Arrays, beside_others: Arrays) -> None:
        for name, array in outputs.items():
            apart = deviation(array, beside_others[name])
            if apart > max(_SAME_RUN * step(array), _NOISE * self._noise[name]):
                if self._drop_unstable(task, name, apart):
                    return
                self._depends(name)

    def _depends(self, name: str) -> None:
        self._dependent = True
        self._fault(name, f"an answer's {name!r} depends on the other rows of its run")

    def _drop_unstable(self, task: Task, name: str, apart: float) -> bool:
        """Leave out a row whose outputs depend on rounding; return whether it did."""
        alone = self._answers.get(id(task))
        if alone is None:
            return True
        if self._faults[name] or not unstable(task, name, alone, apart, 0.0, self._run_alone):
            return False
        del self._answers[id(task)]
        self.tasks.remove(task)
        self._count_rows()
        return True

    def beside_refused(self) -> None:
        """Check that rows that are refused by themselves are refused beside others."""
        for refused in self._refused[:_REFUSED]:
            fitting = [task for task in self.tasks if task.rows == 1 and _fits(task, refused)][: self._rows - 1]
            if not fitting or not self.undecided():
                continue
            try:
                self._run_together([*fitting, refused])
            except (ThriftServeError, NotByRows):
                continue
            self._dependent = True
            self._give_up("a row that is refused by itself is accepted beside others")

    def padded(self, group: Sequence[Task], run_padded: RunTogether) -> None:
        """Run tasks of different inner sizes together, padded to the largest; find what to cut off the outputs."""
        by_shape: dict[tuple[tuple[int, ...], ...], list[Task]] = {}
        for task in group:
            if id(task) in self._answers:
                by_shape.setdefault(tuple(array.shape[1:] for array in task.arrays.values()), []).append(task)
        tasks = [task for same_shape in by_shape.values() for task in same_shape[:_OF_A_SHAPE]]
        if len(by_shape) < 2:
            self._unpadded = "no inputs of different sizes were answered"
            return
        cuts = find_cuts([(task, self._answers[id(task)]) for task in tasks])
        if cuts is None:
            self._unpadded = "the sizes of its outputs don't follow those of its inputs"
            return
        within = tolerance(self._answers[id(tasks[0])], self._rounding)
        for batch in (tasks, tasks[::-1], *(self._shuffled(tasks) for _ in range(_OF_SMALL))):
            try:
                answers = run_padded(batch)
            except (ThriftServeError, NotByRows) as error:
                self._unpadded = f"padded requests fail: {error}"
                return
            for task, outputs in zip(batch, answers, strict=True):
                alone = self._answers[id(task)]
                for name, array in outputs.items():
                    cut = cut_back(array, cuts[name], task)
                    if not self._faults[name] and deviation(alone[name], cut) > within[name]:
                        self._unpadded = f"padding changes its answers ({name!r})"
                        return
        self._unpadded, self._cuts = "", cuts

    def _shuffled(self, tasks: Sequence[Task]) -> list[Task]:
        return [tasks[at] for at in self._random.permutation(len(tasks)).tolist()]

    def _fault(self, output: str, why: str) -> None:
        self._faults[output] = self._faults[output] or why

    def _give_up(self, why: str) -> None:
        for name in self._faults:
            self._fault(name, why)


def _too_long(seconds: float) -> str:
    return f"a row takes {seconds:.3g} s, too long to try enough of them"


def tolerance(sample: Arrays, rounding: Mapping[str, float]) -> dict[str, float]:
    """Return by output how far results alone and beside others may be apart, by the rounding that a proof has seen.

    Args:
        sample: outputs of the types that the model gives.
    """
    return {
        name: min(_OTHER_SIZE, max(_ROUNDING * rounding.get(name, 0.0), _LEAST_STEPS * step(array)))
        for name, array in sample.items()
    }


def _fits(task: Task, other: Task) -> bool:
    return all(
        task.arrays[name].dtype == array.dtype and task.arrays[name].shape[1:] == array.shape[1:]
        for name, array in other.arrays.items()
    )

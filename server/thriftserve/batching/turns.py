"""The threads that bring jobs of one lane: one of them runs what the others wait with.

    thread: job --> no run under way: leads, takes what waits --> one run --> answers handed out --> next leader
                `-> else: waits for its answer, or for its turn to lead

There is no thread besides those that bring jobs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from thriftserve.batching.enqueued import Enqueued
from thriftserve.batching.job import Answer, Done, Job
from thriftserve.batching.lane import Lane
from thriftserve.batching.on_the_way import OnTheWay
from thriftserve.errors import Internal

Run = Callable[[Lane, Sequence[Job]], list[Answer]]


class Place:
    """A thread that waits: it is woken with an answer, or without one, to lead the next run."""

    __slots__ = ("_woken", "answer", "job")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.answer: Answer | None = None
        self._woken = threading.Lock()
        self._woken.acquire()

    def wait(self) -> None:
        """Blocks until `wake`."""
        self._woken.acquire()

    def wake(self, answer: Answer | None) -> None:
        """Ends the wait; None makes the thread lead."""
        self.answer = answer
        self._woken.release()


class Gathering:
    """A leader that waits for more rows before it runs."""

    def __init__(self, until: float, room: int) -> None:
        self.until = until
        self.room = room
        self.enough = threading.Event()


class Turns:
    """Who runs and who waits in one lane.

    Args:
        lane: the lane.
        run: runs jobs of it, an answer each.
        slots: its runs at once.
        enqueued: counts those who wait for the model; None: nobody counts.
        on_the_way: knows whether other threads are about to bring jobs.
        timeout_ms: how long a leader waits for more; None: by the measured run times.
    """

    def __init__(
        self, lane: Lane, run: Run, slots: int, enqueued: Enqueued | None, on_the_way: OnTheWay,
        timeout_ms: float | None,
    ) -> None:  # fmt: skip
        self._lane = lane
        self._run = run
        self._slots = slots
        self._enqueued = enqueued
        self._on_the_way = on_the_way
        self._timeout_s = None if timeout_ms is None else timeout_ms / 1000
        self._lock = threading.Lock()
        self._waiting: deque[Place] = deque()
        self._rows = 0
        self._leading = 0
        #: True from when a leader is chosen until it has taken what it runs. There is one such leader at a time:
        #: whoever comes is for it, or for the one that it wakes next. Two would halve each other's runs.
        self._forming = False
        self._gathering: Gathering | None = None

    def run(self, job: Job) -> Done:
        """The answer to a job, by a run of this thread or of another one.

        Raises:
            ResourceExhausted: too many wait for the model already.
            Exception: what the job's run raised.
        """
        place = self._enter(job)
        if place is not None:
            answer = self._wait(place)
            if answer is not None:
                return _given(answer)
        return _given(self._lead(job))

    def _enter(self, job: Job) -> Place | None:
        """A place to wait in; None for a thread that leads at once."""
        with self._lock:
            gathering = self._gathering
            if self._leading < self._slots and not self._forming:
                self._leading += 1
                self._forming = True
                return None
            if self._enqueued is not None:
                self._enqueued.add()
            place = Place(job)
            self._waiting.append(place)
            self._rows += self._lane.sharing.counted(job)
            if gathering is not None and (self._rows >= gathering.room or _before(job, gathering.until)):
                gathering.enough.set()
            return place

    def _wait(self, place: Place) -> Answer | None:
        try:
            place.wait()
        except BaseException:  # a signal's handler raised, in the main thread
            self._leave(place)
            raise
        return place.answer

    def _leave(self, place: Place) -> None:
        """Takes a thread out that won't wait any longer; what it was told meanwhile goes on to the next one."""
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                self._removed(place)
                return
        if place.answer is None:  # it was to lead, or is part of a run whose answer nobody will read
            self._abandoned(place)

    def _abandoned(self, place: Place) -> None:
        # Acquired: it was woken to lead. Not: a run is under way with its job, and its leader will wake it for nothing.
        if place._woken.acquire(blocking=False):
            self._hand_on(formed=False)

    def _lead(self, job: Job) -> Answer:
        followers: list[Place] = []
        formed = False
        try:
            room = self._lane.sharing.most - self._lane.sharing.counted(job)
            self._gather(job, room)
            followers = self._take(room)
            formed = True
            answers = self._run(self._lane, [job, *[place.job for place in followers]])
            while followers:
                followers.pop().wake(answers[len(followers) + 1])
            return answers[0]
        except BaseException as error:
            for place in followers:
                place.wake(Internal(f"the run that this request shared was ended by {type(error).__name__}"))
            raise
        finally:
            self._hand_on(formed=formed)

    def _take(self, room: int) -> list[Place]:
        """Those who wait, in their order, as many as fit."""
        taken: list[Place] = []
        with self._lock:
            while self._waiting and self._lane.merges:
                rows = self._lane.sharing.counted(self._waiting[0].job)
                if rows > room:
                    break
                room -= rows
                place = self._waiting.popleft()
                self._removed(place)
                taken.append(place)
            self._forming = False
            self._wake_leader()
        return taken

    def _hand_on(self, *, formed: bool) -> None:
        """Ends a thread's lead; `formed` tells whether it came as far as taking what waits."""
        with self._lock:
            self._leading -= 1
            if not formed:
                self._forming = False
            self._wake_leader()

    def _wake_leader(self) -> None:
        """Has the first of those who wait lead, where there is a slot and nobody else is about to take them."""
        if not self._waiting or self._forming or self._leading >= self._slots:
            return
        self._leading += 1
        self._forming = True
        place = self._waiting.popleft()
        self._removed(place)
        place.wake(None)

    def _removed(self, place: Place) -> None:
        self._rows -= self._lane.sharing.counted(place.job)
        if self._enqueued is not None:
            self._enqueued.remove()

    def _gather(self, job: Job, room: int) -> None:
        """Waits for more rows, where that is worth it and they may come."""
        wait_s = self._patience_s(job)
        if wait_s <= 0:
            return
        with self._lock:
            if self._rows >= room:
                return
            gathering = self._gathering = Gathering(time.monotonic() + wait_s, room)
        try:
            if self._timeout_s is None:
                self._on_the_way.wait(gathering.enough, wait_s)
            else:
                gathering.enough.wait(wait_s)
        finally:
            with self._lock:
                self._gathering = None

    def _patience_s(self, job: Job) -> float:
        """Seconds to wait for more rows: never more than half of what the job has left."""
        wait_s = self._timeout_s if self._timeout_s is not None else self._on_the_way.worth_s(self._lane)
        expires = job.deadline.expires
        if expires is not None and wait_s > 0:
            wait_s = min(wait_s, (expires - time.monotonic()) / 2)
        return wait_s


def _before(job: Job, moment: float) -> bool:
    return job.deadline.expires is not None and job.deadline.expires < moment


def _given(answer: Answer) -> Done:
    if isinstance(answer, Exception):
        raise answer
    return answer

"""Requests to slots, replies to clients, and what becomes of both when a worker ends.

queue --dispatch()--> a slot with room          a slot's Replies --> Client.reply
a slot whose worker died --> its requests run again, one by one, or get an error
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from thriftserve.errors import Code
from thriftserve.servers.batching.admission import AdmissionControl, MemoryBudget
from thriftserve.servers.batching.ipc import Replies, ReplyKind
from thriftserve.servers.batching.life import SlotState
from thriftserve.servers.batching.local_replies import FrontPolicy, LocalReplies
from thriftserve.servers.batching.request_queue import BatchWait, Clock, Request, RequestQueue
from thriftserve.servers.batching.slot import Slot, WorkerGone
from thriftserve.settings import HostSettings

log = logging.getLogger(__name__)

_LAST, _LEAVING = ReplyKind.LAST, SlotState.LEAVING
#: Frames that are sent along to a slot come to no more than this, so that the socket takes them at once.
_INLINE_BYTES = 128 * 1024
#: A request whose workers died so many times is not run again.
_MAX_DEATHS = 2
#: A worker is stuck when it has a batch for so many times the longest that one took lately, and for so long.
_OVERDUE, _OVERDUE_AT_LEAST_S = 10.0, 1.0
#: What counts as the longest before the first batch is done, and how it fades with each batch.
_LONGEST_AT_FIRST_S, _FADING = 1.0, 0.98


class Dispatcher:
    """A front's slots, and the requests that they have.

    Args:
        settings: the limits.
        policy: the service's rules.
        queue: the requests that wait.
        budget: counts the memory of requests.
        admission: answers requests that fail.
        replies: reads the method of a request.
        batch_wait: decides whether a slot waits for more requests.
        clock: the front's.
        on_slot_gone: is told of the descriptor, closed, of a slot that is gone.
        on_stuck: is told of a worker (pid) that has had a batch for too long (seconds).
    """

    def __init__(
        self,
        settings: HostSettings,
        policy: FrontPolicy,
        queue: RequestQueue,
        budget: MemoryBudget,
        admission: AdmissionControl,
        replies: LocalReplies,
        batch_wait: BatchWait,
        clock: Clock,
        *,
        on_slot_gone: Callable[[int], None],
        on_stuck: Callable[[int, float], None],
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._queue = queue
        self._budget = budget
        self._admission = admission
        self._replies = replies
        self._batch_wait = batch_wait
        self._clock = clock
        self._on_slot_gone = on_slot_gone
        self._on_stuck = on_stuck
        self._reported_stuck: set[int] = set()
        self.slots: dict[int, Slot] = {}
        self._with_room: list[Slot] = []
        #: The worker (pid) that runs requests that may have ended another one; it gets nothing else. None: no worker.
        self._isolated: int | None = None
        #: The longest that a batch took, lately.
        self._longest_s = _LONGEST_AT_FIRST_S
        #: When to dispatch again, though nothing happened; None: no need.
        self.hold_until: float | None = None

    # Batches to slots

    def add_slot(self, slot: Slot) -> None:
        """Add a slot that connected."""
        self.slots[slot.fd] = slot
        self._update_room(slot)

    def _update_room(self, slot: Slot) -> None:
        if slot.room > 0 and slot.fd in self.slots:
            if slot not in self._with_room:
                self._with_room.append(slot)
        elif slot in self._with_room:
            self._with_room.remove(slot)

    def dispatch(self) -> None:
        """Send the requests that wait to slots with room."""
        self.hold_until = None
        queue = self._queue
        while self._with_room and queue.ready:
            every, runs = self.slots.values(), self._settings.slots
            slots: Sequence[Slot] = self._with_room
            if queue.retries or self._isolated is not None:
                self._run_retry()
                slots = [each for each in self._with_room if each.pid != self._isolated]
                if not slots or not queue.has_turns:
                    return
            slots, at_once = startable(slots, every, runs)
            slot = choose_slot(slots, every)
            hint = slot.hint
            count = batch_size(slot, queue.count, slots, every, runs)
            if not at_once and min(count, queue.count) < hint.requests:
                return
            self.hold_until = self._batch_wait.hold_until(hint, slot.since, self._clock.now, last=len(slots) == 1)
            if self.hold_until is not None:
                return
            self._send(slot, queue.take(count, _INLINE_BYTES))

    def _run_retry(self) -> None:
        """Run the next request that may have ended a worker: one at a time, on a worker that has nothing else.

        The other workers serve on, whatever it does.
        """
        if not self._queue.retries:
            return
        if self._isolated is None:
            self._isolated = choose_slot(self._with_room, self.slots.values()).pid
        slots = self._slots_of(self._isolated)
        free = [slot for slot in slots if slot.room > 0]
        if free and not any(slot.batches for slot in slots):
            self._send(free[0], [self._queue.retries.popleft()])

    def _slots_of(self, pid: int) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.pid == pid]

    def _send(self, slot: Slot, requests: list[Request]) -> None:
        if not requests:
            return
        now = self._clock.now
        self._admission.dispatched(now - requests[0].arrived)
        try:
            slot.send(requests, now)
        except OSError:
            self.remove_slot(slot, unread=True)
        self._update_room(slot)

    # Replies from slots

    def on_slot(self, slot: Slot, mask: int) -> None:
        """Read a slot's replies, or its end."""
        try:
            for replies in slot.on_event(mask):
                self._deliver(slot, replies)
        except WorkerGone:
            self.remove_slot(slot)
        except OSError:
            self.remove_slot(slot, unread=True)

    def _deliver(self, slot: Slot, replies: Replies) -> None:
        kind, hint, items = replies
        self._admission.completed(len(items))
        batch = slot.batches[0] if slot.batches else []
        for index, close, data in items:
            request = batch[index]
            assert request is not None
            batch[index] = None
            client = request.client
            if request.deaths:
                self._admission.clear(request)
            self._budget.release(request)
            self._queue.leave_hand(client.queue)
            client.reply(request, None if close else data)
            if not client.pending:
                self._batch_wait.answered(client, self._clock.now)
        if items:
            self._longest_s = max(self._longest_s * _FADING, self._clock.now - slot.since)
        done = slot.end_batch(kind, self._clock.now, answered=bool(items))
        if items and slot.pid == self._isolated and not any(each.batches for each in self._slots_of(slot.pid)):
            self._isolated = None
        if kind is _LAST:
            slot.hint = hint
        if done:
            self.remove_slot(slot)
        else:
            self._update_room(slot)

    # Slots that end

    def remove_slot(self, slot: Slot, *, unread: bool = False) -> None:
        """Remove a slot whose stream ended; run the requests that it had on others, or answer them.

        Args:
            slot: the slot.
            unread: whether its worker had not read its last batch whole.
        """
        if self.slots.pop(slot.fd, None) is None:
            return
        self._update_room(slot)
        if slot.pid == self._isolated:
            self._isolated = None
        begun, untouched = slot.close(unread)
        self._on_slot_gone(slot.fd)
        if begun:
            log.error("%s ended with %d requests unanswered", slot.label, len(begun))
        for request in begun:
            request.deaths += 1
        for request in [*begun, *untouched]:
            self._queue.leave_hand(request.client.queue)
            if request.client.closed:
                self._budget.release(request)
            elif request.deaths >= _MAX_DEATHS:
                self._give_up(request)
            elif request in untouched and not request.deaths:
                continue
            elif request in untouched or self._replies.method_of(request) in self._policy.repeatable:
                self._queue.add_retry(request)
            else:
                text = "the worker died that ran this request; it may have been done"
                self._admission.fail(request, Code.INTERNAL, text)
        for request in reversed(untouched):
            if not (request.deaths or request.client.closed):
                self._queue.put_back(request)

    def _give_up(self, request: Request) -> None:
        self._admission.blame(request, f"{_MAX_DEATHS} workers died while they ran this request; it is not tried again")

    # Health

    def can_run(self) -> bool:
        """Return whether a worker would run a request that is sent now: one is there, and it is not stuck.

        A run counts as stuck when its slot has had a batch for ten times as long as any batch took lately, and a worker
        when all its runs are: a further slot would only wait for them.
        """
        overdue_s = max(_OVERDUE_AT_LEAST_S, _OVERDUE * self._longest_s)
        now = self._clock.now
        slots = self.slots.values()
        stuck = Counter(slot.pid for slot in slots if slot.batches and now - slot.since > overdue_s)
        return any(
            slot.hint.requests and slot.state is not _LEAVING and stuck[slot.pid] < self._settings.slots
            for slot in slots
        )

    def report_stuck(self) -> None:
        """Report workers that have had a batch for too long."""
        for slot in self.slots.values():
            busy_s = self._clock.now - slot.since
            if slot.batches and busy_s > self._settings.worker_timeout_s and slot.pid not in self._reported_stuck:
                self._reported_stuck.add(slot.pid)
                self._on_stuck(slot.pid, busy_s)

    def close(self) -> None:
        """Close the slots: their workers notice it."""
        for slot in self.slots.values():
            slot.close()
        self.slots.clear()


def startable(free: Sequence[Slot], every: Collection[Slot], runs: int) -> tuple[Sequence[Slot], bool]:
    """Return the free slots whose batch would run at once, and True; all of them and False if any batch would wait.

    A batch that waits for its run takes no more requests in: of 8 clients whose requests were sent as they came, runs
    got 2 together, of 4 that were worth it.

    Args:
        free: slots with room.
        every: all slots.
        runs: those that a worker has at once.
    """
    if free[0].hint.depth > 1:  # runs are so short that sending them counts for more
        return free, True
    busy = Counter(slot.pid for slot in every if slot.batches)
    at_once: list[Slot] = []
    for slot in reversed(free):  # what became free last is warm
        if busy[slot.pid] < runs:
            busy[slot.pid] += 1
            at_once.insert(0, slot)
    return (at_once, True) if at_once else (free, False)


def choose_slot(free: Sequence[Slot], every: Collection[Slot]) -> Slot:
    """Return the free slot with the fewest batches, of the worker with the fewest; of equals the one used last."""
    if len(free) == 1:
        return free[0]
    busy: dict[int, int] = {}
    for slot in every:
        busy[slot.pid] = busy.get(slot.pid, 0) + len(slot.batches)
    return min(reversed(free), key=lambda slot: (len(slot.batches), busy[slot.pid]))


def batch_size(slot: Slot, waiting: int, free: Collection[Slot], every: Collection[Slot], runs: int) -> int:
    """Return how many of the requests that wait a slot gets.

    They are divided by the room there is. With several workers the shares are smaller, so that some always wait:
    otherwise those that one worker has answered would go back to that worker for ever, and clients would fare as their
    worker does (0.5 between the slowest and the fastest of 64, where one of two workers shared its core). A single
    worker's runs get equal shares: of 8 clients, one would run with 7 and the other with 1 for ever.
    """
    hint = slot.hint
    if hint.wait_us:
        return hint.requests  # what was waited for goes together
    size = -(-waiting // sum(each.room for each in free))
    workers = len({each.pid for each in every})
    if workers > 1 or hint.depth == 1:
        parts = runs * workers if hint.depth == 1 else sum(each.hint.depth for each in every if each.hint.requests)
        sent = sum(len(batch) for each in every for batch in each.batches)
        size = min(size, -(-(waiting + sent) // (parts + (workers > 1))))
    return max(1, min(hint.requests, size))

"""Requests to slots, answers to clients, and what becomes of both when something ends.

waiting --dispatch()--> an idle slot        a slot's Answers --> clients
a slot that died --> its requests run again, one by one        a deadline that passed --> an error
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from thriftserve.errors import Code
from thriftserve.servers.batching.admission import AdmissionControl
from thriftserve.servers.batching.ipc import Replies, ReplyKind
from thriftserve.servers.batching.local_replies import FrontPolicy, LocalReplies
from thriftserve.servers.batching.request_queue import Request
from thriftserve.servers.batching.slot import Slot, WorkerGone
from thriftserve.settings import HostSettings

# Who gets how much of what waits.


def startable(free: Sequence[Slot], every: Collection[Slot], runs: int) -> tuple[Sequence[Slot], bool]:
    """The free slots whose batch would run at once, and True; all, and False, where any batch would wait in the hand.

    One that waits there takes no more requests in: of 8 clients whose requests went there as they came, runs got 2
    together, of 4 that were worth it.

    Args:
        free: slots with room.
        every: all slots.
        runs: those that a worker has at once.
    """
    if free[0].advice.depth > 1:  # runs are so short that handing them over counts for more
        return free, True
    busy = Counter(slot.pid for slot in every if slot.batches)
    at_once: list[Slot] = []
    for slot in reversed(free):  # what came free last is warm
        if busy[slot.pid] < runs:
            busy[slot.pid] += 1
            at_once.insert(0, slot)
    return (at_once, True) if at_once else (free, False)


def chosen(free: Sequence[Slot], every: Collection[Slot]) -> Slot:
    """The free slot with the least in hand, of the worker with the least; of equals the one used last: it is warm."""
    if len(free) == 1:
        return free[0]
    busy: dict[int, int] = {}
    for slot in every:
        busy[slot.pid] = busy.get(slot.pid, 0) + len(slot.batches)
    return min(reversed(free), key=lambda slot: (len(slot.batches), busy[slot.pid]))


def share(slot: Slot, waiting: int, free: Collection[Slot], every: Collection[Slot], runs: int) -> int:
    """How many of the requests that wait a slot gets.

    They are divided by the room there is. With several workers the shares are smaller, so that some always wait:
    else those that one worker has answered would go back to that worker for ever, and clients would fare as their
    worker does (0.5 between the slowest and the fastest of 64, where one of two workers shared its core). A single
    worker's runs get equal shares: of 8 clients, one would run with 7 and the other with 1 for ever.
    """
    advice = slot.advice
    if advice.wait_us:
        return advice.take  # what was waited for goes together
    size = -(-waiting // sum(each.room for each in free))
    workers = len({each.pid for each in every})
    if workers > 1 or advice.depth == 1:
        parts = runs * workers if advice.depth == 1 else sum(each.advice.depth for each in every if each.advice.take)
        held = sum(len(batch) for each in every for batch in each.batches)
        size = min(size, -(-(waiting + held) // (parts + (workers > 1))))
    return max(1, min(advice.take, size))


log = logging.getLogger(__name__)

#: Frames that are sent along to a slot come to no more than this, so that the socket takes them at once.
_INLINE_BYTES = 128 * 1024
#: Requests that wait longer than this, and than twice of what is usual, are looked into for their deadline; for those
#: that reach a worker before, it looks.
_LOOK_AFTER_S = 0.01
_LOOK_AFTER_MOST_S = 0.1
_WEIGHT = 0.1
_DEATHS = 2


class Dispatcher:
    """A front's slots, and what they have in hand.

    Args:
        settings: the limits.
        desk: the service's rules.
        answers: makes the answers that the front gives itself.
        door: has the requests.
        dropped: told of the descriptor, closed, of a slot that is gone.
        stuck: told of a worker (pid) that has had a batch in hand for too long (seconds).
    """

    def __init__(
        self,
        settings: HostSettings,
        desk: FrontPolicy,
        answers: LocalReplies,
        door: AdmissionControl,
        *,
        dropped: Callable[[int], None],
        stuck: Callable[[int, float], None],
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._answers = answers
        self._door = door
        self._dropped = dropped
        self._stuck = stuck
        self._told_stuck: set[int] = set()
        self._waiting = door.waiting
        self.slots: dict[int, Slot] = {}
        self._open: list[Slot] = []
        #: Workers (pid) that run a request whose worker died before: nothing else goes to them meanwhile.
        self._quarantine: set[int] = set()
        self._usual_wait_s = 0.0
        #: When to look again, though nothing happened; None: no need.
        self.hold_until: float | None = None

    # Slots

    def add_slot(self, slot: Slot) -> None:
        """Takes a slot in."""
        self.slots[slot.fd] = slot
        self._offer(slot)

    def _offer(self, slot: Slot) -> None:
        """Keeps the list of slots that take a batch as a slot's room is."""
        if slot.room > 0 and slot.fd in self.slots:
            if slot not in self._open:
                self._open.append(slot)
        elif slot in self._open:
            self._open.remove(slot)

    def dispatch(self) -> None:
        """Hands what waits to the slots that are idle."""
        self.hold_until = None
        waiting = self._waiting
        while self._open and waiting.ready:
            if waiting.again:
                if not self._run_again():
                    return
                continue
            every, runs = self.slots.values(), self._settings.slots
            slots: Sequence[Slot] = self._open
            if self._quarantine and not (slots := [each for each in slots if each.pid not in self._quarantine]):
                return
            slots, at_once = startable(slots, every, runs)
            slot = chosen(slots, every)
            many = share(slot, waiting.count, slots, every, runs)
            if not at_once and min(many, waiting.count) < slot.advice.take:
                return
            self.hold_until = self._door.patience.hold_until(slot, self._door.now, last=len(slots) == 1)
            if self.hold_until is not None:
                return
            self._give(slot, waiting.take(many, _INLINE_BYTES))

    def _run_again(self) -> bool:
        """Runs a request whose worker died, on a worker that has nothing else: it may be what killed it."""
        busy = {slot.pid for slot in self.slots.values() if slot.batches}
        free = [slot for slot in self._open if slot.pid not in busy]
        if not free:
            return False
        slot = chosen(free, self.slots.values())
        self._quarantine.add(slot.pid)
        self._give(slot, [self._waiting.again.popleft()])
        return True

    def _give(self, slot: Slot, requests: list[Request]) -> None:
        if not requests:
            return
        self._usual_wait_s += _WEIGHT * (self._door.now - requests[0].arrived - self._usual_wait_s)
        try:
            slot.give(requests, self._door.now)
        except OSError:
            self.slot_gone(slot, unread=True)
        self._offer(slot)

    def on_slot(self, slot: Slot, mask: int) -> None:
        """Takes a slot's answers, or its end."""
        try:
            for answers in slot.on_event(mask):
                self._take(slot, answers)
        except WorkerGone:
            self.slot_gone(slot)
            return
        except OSError:
            self.slot_gone(slot, unread=True)
            return
        if slot.leaving and not slot.batches:
            self.slot_gone(slot)

    def _take(self, slot: Slot, answers: Replies) -> None:
        kind, advice, items = answers
        self._door.backlog.answered += len(items)
        batch = slot.batches[0] if slot.batches else []
        for index, close, data in items:
            request = batch[index]
            assert request is not None
            batch[index] = None
            self._door.release(request)
            self._waiting.done(request.client)
            self._door.answer(request, None if close else data)
        if kind is ReplyKind.LEAVE:
            slot.leaving = True
        elif kind is ReplyKind.LAST:
            if items:  # without any it only says that it is open now
                slot.batches.popleft()
                slot.since = self._door.now
                self._quarantine.discard(slot.pid)
            slot.advice = advice
        self._offer(slot)

    def slot_gone(self, slot: Slot, *, unread: bool = False) -> None:
        """A slot's stream ended, maybe before it read its last batch: that is run again elsewhere, or answered."""
        if self.slots.pop(slot.fd, None) is None:
            return
        self._offer(slot)
        self._quarantine.discard(slot.pid)
        begun, untouched = slot.close(unread)
        self._dropped(slot.fd)
        if begun:
            log.error("%s ended with %d requests in hand", slot.label, len(begun))
        for request in begun:
            request.deaths += 1
        for request in [*begun, *untouched]:
            if request.client.closed:
                self._door.release(request)
            elif request.deaths >= _DEATHS:
                self._not_again(request)
            elif request in untouched or self._answers.method_of(request) in self._desk.repeatable:
                self._waiting.again.append(request)
                continue
            else:
                self._door.fail(request, Code.INTERNAL, "the worker died that ran this request; it may have been done")
            self._waiting.done(request.client)

    def _not_again(self, request: Request) -> None:
        text = f"{_DEATHS} workers died while they ran this request; it is not tried again"
        log.error("%s: %s", request.client.peer, text)
        self._door.fail(request, Code.INTERNAL, text)

    # Time

    def expire(self) -> None:
        """Answers requests whose deadline passed while they waited."""
        look_after_s = min(max(_LOOK_AFTER_S, 2 * self._usual_wait_s), _LOOK_AFTER_MOST_S)
        for request in self._waiting.all():
            if request.expires is None and self._door.now - request.arrived > look_after_s:
                request.expires = self._answers.expiry(request)
            if request.expires is not None and self._door.now > request.expires:
                self._waiting.remove(request)
                waited, late = self._door.now - request.arrived, self._door.now - request.expires
                self._door.fail(
                    request,
                    Code.DEADLINE_EXCEEDED,
                    f"the request waited {waited * 1000:.1f} ms for a worker, {late * 1000:.1f} ms longer than its "
                    "timeout_ms allows; it was not run",
                )

    def watch_slots(self) -> None:
        """Reports workers that have had a batch in hand for too long."""
        for slot in self.slots.values():
            held_s = self._door.now - slot.since
            if slot.batches and held_s > self._settings.worker_timeout_s and slot.pid not in self._told_stuck:
                self._told_stuck.add(slot.pid)
                self._stuck(slot.pid, held_s)

    def close(self) -> None:
        """Ends the slots: their workers see it."""
        for slot in self.slots.values():
            slot.close()
        self.slots.clear()

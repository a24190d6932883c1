"""Requests to slots, answers to clients, and what becomes of both when something ends.

    arrived(Request) --> its desk | refused: the queue is full | waiting --dispatch()--> an idle slot
    a slot's Answers --> clients        a slot that died --> its requests run again, one by one

Every process-wide limit of a front stands here: requests that wait, bytes that are held, time in a slot's hand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from thriftserve.errors import Code
from thriftserve.server_types.batched.answers import DeskAnswers
from thriftserve.server_types.batched.arena import Arena, Block
from thriftserve.server_types.batched.client import Client, PeerGone
from thriftserve.server_types.batched.desk import Desk
from thriftserve.server_types.batched.request import Request, Waiting
from thriftserve.server_types.batched.sharing import chosen, share
from thriftserve.server_types.batched.slot import Slot, WorkerGone
from thriftserve.server_types.batched.wire import Answers, Kind
from thriftserve.settings import HostSettings
from thriftserve.workers.scoreboard import Counters
from thriftserve_client.channel import ChannelClosed
from thriftserve_client.framing import FrameError

log = logging.getLogger(__name__)

#: Frames that are sent along to a slot come to no more than this, so that the socket takes them at once.
_INLINE_BYTES = 128 * 1024
#: Requests that wait longer than this are looked into for their deadline.
_LOOK_AFTER_S = 0.01
#: Saving a run that costs less than this is not worth a wait that poll() counts in milliseconds.
_WORTH_WAITING_US = 1000
_ACTIVE_S = 0.05
_DEATHS = 2
_LOG_EVERY_S = 1.0


class Dispatcher:
    """What a front holds.

    Args:
        settings: the limits.
        desk: the service's rules.
        answers: makes the answers that the front gives itself.
        counters: the front's own.
        over: told of a client whose connection has to be closed.
        dropped: told of the descriptor of a slot that is gone.
        stuck: told of a worker (pid) that has had a batch in hand for too long (seconds).
    """

    def __init__(
        self,
        settings: HostSettings,
        desk: Desk,
        answers: DeskAnswers,
        counters: Counters,
        *,
        over: Callable[[Client], None],
        dropped: Callable[[int], None],
        stuck: Callable[[int, float], None],
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._answers = answers
        self._counters = counters
        self._over = over
        self._dropped = dropped
        self._stuck = stuck
        self._told_stuck: set[int] = set()
        self.arena = Arena(settings.max_queued_bytes)
        self.waiting = Waiting(ordered=desk.ordered)
        #: How many requests may wait for a part of the service, by its name.
        self.limits: dict[str, int] = {}
        self.slots: dict[int, Slot] = {}
        self._open: list[Slot] = []
        #: Workers (pid) that run a request whose worker died before: nothing else goes to them meanwhile.
        self._quarantine: set[int] = set()
        #: Bytes of all requests that are not answered yet.
        self.held_bytes = 0
        #: The present, as of the last look at the clock.
        self.now = time.monotonic()
        #: When to look again, though nothing happened; None: no need.
        self.hold_until: float | None = None
        self._last_arrival = self.now
        self._gap_s = 1.0
        self._refused = 0
        self._refused_logged = 0.0
        self._queue_full = f"the queue is full: {settings.max_queued} requests wait already; try again later"
        self._bytes_full = (
            f"the queue is full: requests of {settings.max_queued_bytes} bytes in all are held at once, the limit; "
            "try again later"
        )

    # Requests

    def arrived(self, request: Request) -> None:
        """Takes a request that came whole: answers, refuses or queues it."""
        frame = request.frame
        if frame is not None and self._answers.is_local(frame):
            self._answer(request, self._answers.local(frame, request.arrived))
        elif request.client.refusal is not None:
            self._refuse(request, request.client.refusal)
        elif self.waiting.count >= self._settings.max_queued:
            self._refuse(request, self._queue_full)
        elif self.held_bytes + request.size > self._settings.max_queued_bytes:
            self._refuse(request, self._bytes_full)
        elif self.limits and (reason := self._lane_full(request)):
            self._refuse(request, reason)
        else:
            self.held_bytes += request.size
            self.waiting.add(request)
            self._gap_s += 0.1 * (self.now - self._last_arrival - self._gap_s)
            self._last_arrival = self.now
            return
        if request.block is not None:
            self.arena.free(request.block)

    def _lane_full(self, request: Request) -> str | None:
        """Why a part of the service takes no more requests; notes which part this one is for."""
        lane = self._answers.lane_of(request)
        limit = None if lane is None else self.limits.get(lane)
        if lane is None or limit is None:
            return None
        if self.waiting.of_lane[lane] >= limit:
            return f"{limit} requests for {lane!r} wait already, its limit; try again later"
        request.lane = lane
        return None

    def refuse_for_bytes(self, request: Request) -> None:
        """Refuses a request whose bytes were not kept, for there was no room."""
        full = self.waiting.count >= self._settings.max_queued
        self._refuse(request, self._queue_full if full else self._bytes_full)

    def room_for(self, size: int) -> Block | None:
        """Room for a frame that is about to come."""
        if self.waiting.count >= self._settings.max_queued:
            return None
        return self.arena.allocate(size)

    def _refuse(self, request: Request, reason: str) -> None:
        self._counters.add_refused()
        self._refused += 1
        self._answer(request, self._answers.fault(request, Code.RESOURCE_EXHAUSTED, reason))
        if self.now - self._refused_logged >= _LOG_EVERY_S:  # a line for each would be a load of its own
            log.warning("%s and others: %d refused: %s", request.client.peer, self._refused, reason)
            self._refused, self._refused_logged = 0, self.now

    def _answer(self, request: Request, answer: bytes | memoryview | None) -> None:
        client = request.client
        if client.closed:
            return
        if answer is None:
            self._over(client)
            return
        try:
            client.answered(request, answer)
        except (PeerGone, ChannelClosed, OSError, FrameError) as error:  # of what it sent on, which is read now
            log.info("%s: broken: %s", client.peer, error or "closed")
            self._over(client)
            return
        if client.finished:
            self._over(client)

    def _fail(self, request: Request, code: Code, message: str) -> None:
        self._counters.add_error()
        answer = self._answers.fault(request, code, message)
        self._release(request)
        self._answer(request, answer)

    def _release(self, request: Request) -> None:
        self.held_bytes -= request.size
        if request.block is not None:
            self.arena.free(request.block)
            request.block = None

    def forget(self, client: Client) -> None:
        """Drops what a client that is gone was waiting for."""
        for request in self.waiting.forget(client):
            self._release(request)

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
        waiting = self.waiting
        while self._open and waiting.ready:
            if waiting.again:
                if not self._run_again():
                    return
                continue
            slots = self._open
            if self._quarantine and not (slots := [each for each in slots if each.pid not in self._quarantine]):
                return
            slot = chosen(slots, self.slots.values())
            if self._holds(slot):
                return
            self._give(slot, waiting.take(share(slot, waiting.count, slots, self.slots.values()), _INLINE_BYTES))

    def _run_again(self) -> bool:
        """Runs a request whose worker died, on a worker that has nothing else: it may be what killed it."""
        busy = {slot.pid for slot in self.slots.values() if slot.batches}
        free = [slot for slot in self._open if slot.pid not in busy]
        if not free:
            return False
        slot = chosen(free, self.slots.values())
        self._quarantine.add(slot.pid)
        self._give(slot, [self.waiting.again.popleft()])
        return True

    def _holds(self, slot: Slot) -> bool:
        """Whether it is better to wait for more requests before the slot gets those that wait."""
        advice, count, oldest = slot.advice, self.waiting.count, self.waiting.oldest()
        if count >= advice.take or oldest is None or advice.wait_us == 0:
            return False
        if advice.wait_us is None:
            if advice.fixed_us < _WORTH_WAITING_US or count * self._gap_s * 1e6 > advice.fixed_us:
                return False
            if not self._more_expected():
                return False
        until = oldest + (advice.fixed_us if advice.wait_us is None else advice.wait_us) / 1e6
        if advice.wait_us is not None:
            until = min(until, self.waiting.halfway(self._answers.expiry))
        if self.now >= until:
            return False
        self.hold_until = until
        return True

    def _more_expected(self) -> bool:
        """Whether a client that was active just now has nothing under way: its next request may come any moment."""
        since = self.now - _ACTIVE_S
        return any(not client.pending and client.served and client.since > since for client in self.clients())

    #: The clients that are connected; the front sets it.
    clients: Callable[[], Iterable[Client]]

    def _give(self, slot: Slot, requests: list[Request]) -> None:
        if not requests:
            return
        try:
            slot.give(requests, self.now)
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

    def _take(self, slot: Slot, answers: Answers) -> None:
        kind, advice, items = answers
        batch = slot.batches[0] if slot.batches else []
        for index, close, data in items:
            request = batch[index]
            assert request is not None
            batch[index] = None
            self._release(request)
            self.waiting.done(request.client)
            self._answer(request, None if close else data)
        if kind is Kind.LEAVE:
            slot.leaving = True
        elif kind is Kind.LAST:
            if items:  # without any it only says that it is open now
                slot.batches.popleft()
                slot.since = self.now
                self._quarantine.discard(slot.pid)
            slot.advice = advice
        self._offer(slot)

    def slot_gone(self, slot: Slot, *, unread: bool = False) -> None:
        """A slot's stream ended, maybe before it read its last batch: that is run again elsewhere, or answered."""
        if self.slots.pop(slot.fd, None) is None:
            return
        self._dropped(slot.fd)
        self._offer(slot)
        self._quarantine.discard(slot.pid)
        begun, untouched = slot.close(unread)
        if begun:
            log.error("%s ended with %d requests in hand", slot.label, len(begun))
        for request in begun:
            request.deaths += 1
        for request in [*begun, *untouched]:
            if request.client.closed:
                self._release(request)
            elif request.deaths >= _DEATHS:
                self._not_again(request)
            elif request in untouched or self._answers.method_of(request) in self._desk.repeatable:
                self.waiting.again.append(request)
                continue
            else:
                self._fail(request, Code.INTERNAL, "the worker died that ran this request; it may have been done")
            self.waiting.done(request.client)

    def _not_again(self, request: Request) -> None:
        text = f"{_DEATHS} workers died while they ran this request; it is not tried again"
        log.error("%s: %s", request.client.peer, text)
        self._fail(request, Code.INTERNAL, text)

    # Time

    def expire(self) -> None:
        """Answers requests whose deadline passed while they waited."""
        for request in self.waiting.all():
            if request.expires is None and self.now - request.arrived > _LOOK_AFTER_S:
                request.expires = self._answers.expiry(request)
            if request.expires is not None and self.now > request.expires:
                self.waiting.remove(request)
                waited, late = self.now - request.arrived, self.now - request.expires
                self._fail(
                    request,
                    Code.DEADLINE_EXCEEDED,
                    f"the request waited {waited * 1000:.1f} ms for a worker, {late * 1000:.1f} ms longer than its "
                    "timeout_ms allows; it was not run",
                )

    def watch_slots(self) -> None:
        """Reports workers that have had a batch in hand for too long."""
        for slot in self.slots.values():
            held_s = self.now - slot.since
            if slot.batches and held_s > self._settings.worker_timeout_s and slot.pid not in self._told_stuck:
                self._told_stuck.add(slot.pid)
                self._stuck(slot.pid, held_s)

    def close(self) -> None:
        """Ends the slots: their workers see it."""
        for slot in self.slots.values():
            slot.close()
        self.slots.clear()

"""Admission: whether a request gets a place in a front's queue, or a refusal.

    request that came whole --> the front's own reply
                            --> ConnectionFilter -> QueueFilter -> MemoryFilter -> ModelFilter -> Suspects --> queue
    request that waits      --> DeadlineFilter                                                 --> stays in the queue
                                 `--> the first filter with a reason: a typed error, and the request is gone

This is the one place of a front where requests are admitted or refused. A new rule is a new filter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from thriftserve.errors import Code
from thriftserve.servers.batching.ipc import Arena, Block
from thriftserve.servers.batching.local_replies import LocalReplies
from thriftserve.servers.batching.request_queue import BatchWait, Client, Clock, Ewma, Request, RequestQueue
from thriftserve.servers.batching.suspects import Suspects
from thriftserve.servers.rejection import queue_is_full
from thriftserve.supervisor.scoreboard import Counters

#: A large frame gets a block of the arena once so much of it has come, or all of it.
RESERVE_BYTES = 64 * 1024
#: Bytes of addresses that an arena has at most; its memory is bounded by `max_queued_bytes`.
_MAX_ADDRESS_BYTES = 1 << 40


class HeldRequest(Protocol):
    """As much of a request as its memory needs."""

    size: int
    block: Block | None


class MemoryBudget:
    """Counts what one front holds. One thread uses it.

    Args:
        limit_bytes: setting max_queued_bytes.
        max_message_bytes: the largest message.
    """

    __slots__ = ("_arena", "limit_bytes", "partial_bytes", "reply_bytes", "request_bytes", "short")

    def __init__(self, limit_bytes: int, max_message_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._arena = Arena(_address_bytes(limit_bytes, max_message_bytes), limit_bytes)
        #: Bytes of whole requests that are not answered.
        self.request_bytes = 0
        #: Bytes of messages that have not come whole.
        self.partial_bytes = 0
        #: Bytes of replies that could not be sent yet.
        self.reply_bytes = 0
        #: True if something was refused for want of memory since `clear_shortage`.
        self.short = False

    @property
    def arena_fd(self) -> int:
        """The descriptor of the arena, for workers."""
        return self._arena.fd

    @property
    def used_bytes(self) -> int:
        """Bytes that are held for clients, in all."""
        return self.request_bytes + self.partial_bytes + self.reply_bytes

    @property
    def exceeded(self) -> bool:
        """True if more is held than the limit."""
        return self.request_bytes + self.partial_bytes + self.reply_bytes > self.limit_bytes

    def clear_shortage(self) -> bool:
        """Return whether memory was short since the last call."""
        short, self.short = self.short, False
        return short

    def hold(self, request: HeldRequest) -> None:
        """Count a whole request."""
        self.request_bytes += request.size

    def release(self, request: HeldRequest) -> None:
        """Stop counting a request, and free its block if it has one."""
        self.request_bytes -= request.size
        if request.block is not None:
            self._arena.free(request.block)
            request.block = None

    def change_partial(self, size: int) -> None:
        """Count `size` bytes more of partial messages, or fewer if it is negative."""
        self.partial_bytes += size

    def change_replies(self, size: int) -> None:
        """Count `size` bytes more of unsent replies, or fewer if it is negative."""
        self.reply_bytes += size

    def allocate(self, size: int) -> Block | None:
        """Return a block of the arena, or None if it has no room."""
        return self._arena.allocate(size)

    def free(self, block: Block) -> None:
        """Free a block whose request is not counted."""
        self._arena.free(block)

    def trim(self) -> None:
        """Give unused memory back to the system if nothing is held."""
        if not self.used_bytes:
            self._arena.trim()


def _address_bytes(limit_bytes: int, max_message_bytes: int) -> int:
    """Return bytes of addresses that are enough for all frames under way, each of which has sent RESERVE_BYTES."""
    frames = limit_bytes // RESERVE_BYTES + 1
    return min(frames * max_message_bytes, _MAX_ADDRESS_BYTES) + limit_bytes


log = logging.getLogger(__name__)

_LOG_EVERY_S = 1.0
#: Places of the queue that are left however far a front is behind: some requests are answered under any load.
_MIN_PLACES = 8
#: Places that an unread request takes: with more than one the limit is reached before it is too late.
_PLACES_PER_UNREAD = 2.0
_RATE_WINDOW_S = 0.02
_WEIGHT = 0.2
#: The deadline of a request is read once it waits longer than this, and than twice of what is usual: most reach a
#: worker before, which reads it anyway.
_READ_DEADLINE_AFTER_S, _READ_DEADLINE_MAX_S = 0.01, 0.1
_WAIT_WEIGHT = 0.1


class AdaptiveLimit:
    """The number of requests that may wait: fewer while the front is behind in reading its sockets.

    Figures: docs/explanation/decisions.md, "Unread requests count as queued".

    >>> limit = AdaptiveLimit(1000)
    >>> limit.fell_behind(0.0, 0.0)
    >>> limit.completed = 20_000
    >>> limit.fell_behind(0.01, 1.0)
    >>> limit.places
    920
    >>> limit.caught_up()
    >>> limit.places
    1000

    Args:
        max_queued: the requests that may wait while nothing is unread.
    """

    def __init__(self, max_queued: int) -> None:
        self._max_queued = max_queued
        #: The requests that may wait now.
        self.places = max_queued
        #: Requests that workers answered, in all.
        self.completed = 0
        self._age_s = Ewma(_WEIGHT, 0.0)
        self._rate = Ewma(_WEIGHT)
        self._measured_at, self._measured = 0.0, 0

    def fell_behind(self, age_s: float, now: float) -> None:
        """Note that a request that came `age_s` seconds ago is not read yet, and that there are more."""
        if now - self._measured_at >= _RATE_WINDOW_S:
            rate = (self.completed - self._measured) / (now - self._measured_at)
            self._rate.add(rate) if self._rate.value else self._rate.reset(rate)
            self._measured_at, self._measured = now, self.completed
        self._age_s.add(age_s)  # of so many ready connections the first may be a newcomer
        unread = int(_PLACES_PER_UNREAD * self._age_s.value * self._rate.value)
        self.places = max(min(_MIN_PLACES, self._max_queued), self._max_queued - unread)

    def caught_up(self) -> None:
        """Note that everything is read."""
        if self.places != self._max_queued or self._age_s.value:
            self._age_s.reset(0.0)
            self.places = self._max_queued


class AdmissionFilter(Protocol):
    """One rule."""

    #: The error code of its refusals.
    code: Code

    def reason(self, request: Request) -> str | None:
        """Return why a request is refused; None if this rule admits it."""


class ConnectionFilter:
    """Refuses the first request of a connection that is over the limit; see `max_connections`."""

    code = Code.RESOURCE_EXHAUSTED

    def reason(self, request: Request) -> str | None:
        return request.client.refusal


class QueueFilter:
    """Refuses requests while the queue is full; see `max_queued`."""

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, queue: RequestQueue, limit: AdaptiveLimit, max_queued: int) -> None:
        self._queue = queue
        self._limit = limit
        self.text = queue_is_full(max_queued, "requests")

    def full(self) -> bool:
        """Return whether the queue has no place left."""
        return self._queue.count >= self._limit.places

    def reason(self, request: Request) -> str | None:
        return self.text if self._queue.count >= self._limit.places else None


class MemoryFilter:
    """Refuses requests that there is no memory for; see `max_queued_bytes`."""

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.text = f"the queue is full: its requests have {budget.limit_bytes} bytes, the limit; try again later"

    def reason(self, request: Request) -> str | None:
        budget = self._budget
        if budget.request_bytes + budget.partial_bytes + budget.reply_bytes + request.size <= budget.limit_bytes:
            return None
        budget.short = True
        return self.text


class ModelFilter:
    """Refuses requests for a part of the service (a model) that has a limit of its own; see `FrontPolicy.lanes`."""

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, queue: RequestQueue, replies: LocalReplies, limits: Mapping[str, int]) -> None:
        self._queue = queue
        self._replies = replies
        self._limits = limits

    def reason(self, request: Request) -> str | None:
        """Return why a request is refused; note which part an admitted one is for, so that it is counted."""
        lane = self._replies.lane_of(request)
        limit = None if lane is None else self._limits.get(lane)
        if lane is None or limit is None:
            return None
        if self._queue.of_lane[lane] >= limit:
            return f"the queue of {lane!r} is full: {limit} requests are waiting; try again later"
        request.lane = lane
        return None


class DeadlineFilter:
    """Refuses requests that waited longer than their `timeout_ms`."""

    code = Code.DEADLINE_EXCEEDED

    def __init__(self, replies: LocalReplies, clock: Clock) -> None:
        self._replies = replies
        self._clock = clock
        self._usual_wait_s = Ewma(_WAIT_WEIGHT, 0.0)
        self._read_after_s = _READ_DEADLINE_AFTER_S

    def note_wait(self, seconds: float) -> None:
        """Note how long a request waited that went to a worker."""
        self._usual_wait_s.add(seconds)
        twice_s = 2 * self._usual_wait_s.value
        self._read_after_s = min(max(_READ_DEADLINE_AFTER_S, twice_s), _READ_DEADLINE_MAX_S)

    def reason(self, request: Request) -> str | None:
        now = self._clock.now
        if request.expires is None:
            if now - request.arrived <= self._read_after_s:
                return None
            request.expires = self._replies.expiry(request)
        if now <= request.expires:
            return None
        timeout_ms = (request.expires - request.arrived) * 1000
        waited_ms = (now - request.arrived) * 1000
        return f"deadline exceeded: queued {waited_ms:.1f} ms, timeout_ms is {timeout_ms:.0f}; not executed"


class AdmissionControl:
    """Admits or refuses the requests of one front. One thread uses it.

    Args:
        max_queued: the setting.
        queue: gets the requests that are admitted.
        budget: the memory for them.
        replies: makes refusals, and what the front answers itself.
        counters: the front's row of the scoreboard.
        clock: the front's.
        batch_wait: is told of every request that is queued.
    """

    def __init__(
        self,
        max_queued: int,
        queue: RequestQueue,
        budget: MemoryBudget,
        replies: LocalReplies,
        counters: Counters,
        clock: Clock,
        batch_wait: BatchWait,
    ) -> None:
        self._queue = queue
        self._budget = budget
        self._replies = replies
        self._counters = counters
        self._clock = clock
        self._batch_wait = batch_wait
        self._limit = AdaptiveLimit(max_queued)
        self._queue_limit = QueueFilter(queue, self._limit, max_queued)
        self._memory_limit = MemoryFilter(budget)
        self._deadline = DeadlineFilter(replies, clock)
        self._suspects = Suspects(replies.fingerprint, clock)
        self._model_limits: Mapping[str, int] = {}
        self._checks: tuple[tuple[Callable[[Request], str | None], Code], ...] = ()
        self._set_checks()
        self._turn_away = replies.refusals(self._queue_limit.code, self._queue_limit.text)
        self._turned_away = 0
        self._refused = 0
        self._refused_logged_at = 0.0

    def set_model_limits(self, limits: Mapping[str, int]) -> None:
        """Set how many requests may wait for a part of the service, by its name."""
        self._model_limits = limits
        self._set_checks()

    def _set_checks(self) -> None:
        """Put the filters together: those that have something to do."""
        filters: list[AdmissionFilter] = [ConnectionFilter(), self._queue_limit, self._memory_limit]
        if self._model_limits:
            filters.append(ModelFilter(self._queue, self._replies, self._model_limits))
        if self._suspects:
            filters.append(self._suspects)
        self._checks = tuple((each.reason, each.code) for each in filters)

    # Requests that come

    def turn_away(self, frame: bytes) -> bytes | None:
        """Return the refusal of a small frame that the queue has no place for, at the least cost: without a `Request`.

        None if there is a place, or if the frame has to be read. Call `settle` some time after.
        """
        if self._queue.count < self._limit.places:
            return None
        refusal = self._turn_away.of(frame)
        if refusal is not None:
            self._turned_away += 1
        return refusal

    def settle(self) -> None:
        """Count the frames that were turned away, and log a line for them now and then."""
        if self._turned_away:
            count, self._turned_away = self._turned_away, 0
            self._count_refused(count, self._queue_limit.text)

    def arrived(self, request: Request) -> None:
        """Queue a request that came whole, refuse it, or answer it here."""
        frame = request.frame
        if frame is not None and self._replies.is_local(frame):
            request.client.reply(request, self._replies.local(frame, request.arrived))
            return
        for check, code in self._checks:
            if (reason := check(request)) is not None:
                self._refuse(request, code, reason)
                if request.block is not None:
                    self._budget.free(request.block)
                return
        self._budget.hold(request)
        if self._suspects and self._suspects.suspected(request):
            request.deaths = 1
            self._queue.add_retry(request)
            return
        self._queue.add(request)
        self._batch_wait.arrived(request.client, self._clock.now)

    def allocate(self, size: int) -> Block | None:
        """Return a block for a large frame that is coming; None: it is to be refused, see `refuse_discarded`."""
        if self._queue_limit.full() or self._budget.exceeded or size > self._budget.limit_bytes:
            return None
        return self._budget.allocate(size)

    def refuse_discarded(self, request: Request) -> None:
        """Refuse a large request that got no block."""
        if self._queue_limit.full():
            self._refuse(request, self._queue_limit.code, self._queue_limit.text)
        else:
            self._budget.short = True
            self._refuse(request, self._memory_limit.code, self._memory_limit.text)

    def _refuse(self, request: Request, code: Code, reason: str) -> None:
        self._count_refused(1, reason)
        request.client.reply(request, self._replies.fault(request, code, reason))

    def _count_refused(self, count: int, reason: str) -> None:
        self._counters.add_refused(count)
        self._refused += count
        if self._clock.now - self._refused_logged_at >= _LOG_EVERY_S:  # a line for each would be a load of its own
            log.warning("%d requests refused, the last one: %s", self._refused, reason)
            self._refused, self._refused_logged_at = 0, self._clock.now

    # Requests that were admitted

    def expire(self) -> None:
        """Refuse the waiting requests whose deadline passed."""
        for request in self._queue.requests():
            if (reason := self._deadline.reason(request)) is not None:
                self._queue.remove(request)
                self.fail(request, self._deadline.code, reason)

    def fail(self, request: Request, code: Code, message: str) -> None:
        """Answer an admitted request with an error."""
        self._counters.add_error()
        reply = self._replies.fault(request, code, message)
        self._budget.release(request)
        request.client.reply(request, reply)

    def blame(self, request: Request, text: str) -> None:
        """Answer an admitted request that ended its workers, and refuse others like it for a while."""
        seconds = self._suspects.blame(request)
        self._set_checks()
        log.error("%s: %s; others like it are refused for %.0f s", request.client.peer, text, seconds)
        self.fail(request, Code.INTERNAL, text)

    def clear(self, request: Request) -> None:
        """Note that a request that was suspected of ending workers was answered."""
        self._suspects.clear(request)
        self._set_checks()

    def abandon(self, client: Client) -> int:
        """Drop the waiting requests of a client that wants no replies any more; return how many.

        Oneway calls stay: nobody waits for a reply to them.
        """
        count = 0
        for request in [*client.queue.waiting, *(each for each in self._queue.retries if each.client is client)]:
            if not self._replies.is_oneway(request):
                self._queue.remove(request)
                self._budget.release(request)
                client.pending.remove(request)
                count += 1
        return count

    def remove_client(self, client: Client) -> None:
        """Drop the waiting requests of a client that is gone."""
        for request in self._queue.remove_client(client):
            self._budget.release(request)

    # What the front and its slots report

    def dispatched(self, waited_s: float) -> None:
        """Note that a batch went to a worker, whose first request had waited so long."""
        self._deadline.note_wait(waited_s)

    def completed(self, count: int) -> None:
        """Note that workers answered so many requests."""
        self._limit.completed += count

    def fell_behind(self, age_s: float) -> None:
        """Note that requests lie unread, the first one since `age_s` seconds."""
        self._limit.fell_behind(age_s, self._clock.now)

    def caught_up(self) -> None:
        """Note that everything that came is read."""
        self._limit.caught_up()

    def report(self) -> None:
        """Write to the scoreboard what waits, and what is held."""
        self._counters.set_queued(len(self._queue), self._budget.used_bytes)

"""What a request meets first: an answer at the desk, a refusal, or a place in the queue.

    arrived(Request) --> its desk | refused: the queue is full | waiting
    answer(Request, bytes) --> its client        fail(Request, Code, message) --> a typed error

The limits on what a front takes stand here: requests that wait, and bytes that are held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from thriftserve.errors import Code
from thriftserve.servers.batching.arena import Arena, Block
from thriftserve.servers.batching.batch_wait import BatchWait
from thriftserve.servers.batching.connection import FrontConnection
from thriftserve.servers.batching.frame_reader import RESERVE_BYTES
from thriftserve.servers.batching.local_replies import LocalReplies
from thriftserve.servers.batching.request_queue import Request, RequestQueue
from thriftserve.servers.connection import FAILURES
from thriftserve.servers.nonblocking_connection import PeerGone
from thriftserve.settings import HostSettings
from thriftserve.supervisor.counters import Counters

# How far a front is behind in reading, and what that leaves of its queue.

#: What is left of the queue, however far behind: some are answered under any load.
_LEAST = 8
#: Places that an unread request takes: with more than one the limit is reached before it is too late.
_PLACES = 2.0
_WINDOW_S = 0.02
_WEIGHT = 0.2


class AdaptiveLimit:
    """Watches one front.

    Args:
        most: the requests that may wait while nothing is unread.
    """

    def __init__(self, most: int) -> None:
        self._whole = most
        #: The requests that may wait now.
        self.most = most
        #: Requests that workers answered, in all; the front counts.
        self.answered = 0
        self._age_s = 0.0
        self._rate = 0.0
        self._seen = (0.0, 0)

    def unread(self, age_s: float, now: float) -> None:
        """A request was found that came `age_s` seconds ago and is not read yet, and there are more.

        >>> backlog = Backlog(1000)
        >>> backlog.unread(0.0, 0.0)
        >>> backlog.answered = 20_000
        >>> backlog.unread(0.01, 1.0)
        >>> backlog.most
        920
        >>> backlog.up_to_date()
        >>> backlog.most
        1000
        """
        since, answered = self._seen
        if now - since >= _WINDOW_S:
            rate = (self.answered - answered) / (now - since)
            self._rate = rate if not self._rate else self._rate + _WEIGHT * (rate - self._rate)
            self._seen = now, self.answered
        self._age_s += _WEIGHT * (age_s - self._age_s)  # of so many ready ones the first may be a newcomer
        self.most = max(min(_LEAST, self._whole), self._whole - int(_PLACES * self._age_s * self._rate))

    def up_to_date(self) -> None:
        """Everything is read."""
        self._age_s = 0.0
        self.most = self._whole


log = logging.getLogger(__name__)

_LOG_EVERY_S = 1.0
_SCRAP_BYTES = 1 << 20
_MOST_ADDRESSES = 1 << 40


class AdmissionControl:
    """A front's requests, from their arrival to their answer.

    Args:
        settings: the limits.
        answers: makes the answers that the front gives itself.
        counters: the front's own.
        ordered: whether a client's requests run one after the other.
        over: told of a client whose connection has to be closed.
    """

    def __init__(
        self,
        settings: HostSettings,
        answers: LocalReplies,
        counters: Counters,
        *,
        ordered: bool,
        over: Callable[[FrontConnection], None],
    ) -> None:
        self._settings = settings
        self.backlog = AdaptiveLimit(settings.max_queued)
        self._answers = answers
        self._counters = counters
        self._over = over
        self.arena = Arena(_addresses(settings), settings.max_queued_bytes)
        self.waiting = RequestQueue(ordered=ordered)
        self.patience = BatchWait(self.waiting, answers.expiry)
        #: Where bytes go that nobody keeps.
        self.scrap = memoryview(bytearray(_SCRAP_BYTES))
        #: How many requests may wait for a part of the service, by its name.
        self.limits: dict[str, int] = {}
        #: Bytes of all requests that are not answered yet.
        self.held_bytes = 0
        #: Bytes of messages that did not come whole yet.
        self.coming_bytes = 0
        #: Bytes of answers that can't be sent yet; `Client` keeps it.
        self.owed_bytes = 0
        #: True where something was refused for want of memory since it was last set to False.
        self.short = False
        #: The present, as of the last look at the clock.
        self.now = time.monotonic()
        self._turned_away = 0
        self._refused = 0
        self._refused_logged = 0.0
        self._queue_full = f"the queue is full: {settings.max_queued} requests wait already; try again later"
        self._full = answers.refusals(Code.RESOURCE_EXHAUSTED, self._queue_full)
        self._bytes_full = (
            f"the queue is full: requests of {settings.max_queued_bytes} bytes in all are held at once, the limit; "
            "try again later"
        )

    # In

    def turn_away(self, frame: bytes) -> bytes | None:
        """The refusal of a small frame that the queue has no place for, at the least cost: no `Request` is made.

        None where there is a place, or the frame has to be looked at. Call `settle` some time after.
        """
        if self.waiting.count < self.backlog.most:
            return None
        refusal = self._full.of(frame)
        if refusal is not None:
            self._turned_away += 1
        return refusal

    def settle(self) -> None:
        """Counts those that were turned away, and logs a line for them now and then."""
        many, self._turned_away = self._turned_away, 0
        if many:
            self._counters.add_refused(many)
            self._tell_refused(many, self._queue_full)

    def arrived(self, request: Request) -> None:
        """Takes a request that came whole: answers, refuses or queues it."""
        frame = request.frame
        if frame is not None and self._answers.is_local(frame):
            self.answer(request, self._answers.local(frame, request.arrived))
        elif request.client.refusal is not None:
            self._refuse(request, request.client.refusal)
        elif self.waiting.count >= self.backlog.most:
            self._refuse(request, self._queue_full)
        elif self.held + request.size > self._settings.max_queued_bytes:
            self.short = True
            self._refuse(request, self._bytes_full)
        elif self.limits and (reason := self._lane_full(request)):
            self._refuse(request, reason)
        else:
            self.held_bytes += request.size
            self.waiting.add(request)
            self.patience.arrived(request.client, self.now)
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

    @property
    def held(self) -> int:
        """Bytes that are held for clients, in all."""
        return self.held_bytes + self.coming_bytes + self.owed_bytes

    @property
    def too_full(self) -> bool:
        """Whether more bytes are held than may be."""
        return self.held > self._settings.max_queued_bytes

    def room_for(self, size: int) -> Block | None:
        """Room for a frame that is coming; None: it is to be refused."""
        if self.waiting.count >= self.backlog.most or self.too_full or size > self._settings.max_queued_bytes:
            return None
        return self.arena.allocate(size)

    def refuse_for_bytes(self, request: Request) -> None:
        """Refuses a request whose bytes were not kept, for there was no room."""
        full = self.waiting.count >= self.backlog.most
        self.short = self.short or not full
        self._refuse(request, self._queue_full if full else self._bytes_full)

    def _refuse(self, request: Request, reason: str) -> None:
        self._counters.add_refused()
        self._tell_refused(1, reason)
        self.answer(request, self._answers.fault(request, Code.RESOURCE_EXHAUSTED, reason))

    def _tell_refused(self, many: int, reason: str) -> None:
        self._refused += many
        if self.now - self._refused_logged >= _LOG_EVERY_S:  # a line for each would be a load of its own
            log.warning("%d refused, the last one for: %s", self._refused, reason)
            self._refused, self._refused_logged = 0, self.now

    # Out

    def answer(self, request: Request, answer: bytes | memoryview | None) -> None:
        """Gives a request's client its answer; None: its connection is to be closed."""
        client = request.client
        if client.closed:
            return
        if answer is None:
            self._over(client)
            return
        try:
            client.answered(request, answer)
        except (PeerGone, *FAILURES) as error:  # of what it sent on, which is read now
            log.info("%s: broken: %s", client.peer, error or "closed")
            self._over(client)
            return
        if client.ending and client.finished:
            self._over(client)
        elif not client.pending:
            self.patience.answered(client, self.now)

    def fail(self, request: Request, code: Code, message: str) -> None:
        """Answers a request that was taken with an error."""
        self._counters.add_error()
        answer = self._answers.fault(request, code, message)
        self.release(request)
        self.answer(request, answer)

    def release(self, request: Request) -> None:
        """Lets go of a request's bytes."""
        self.held_bytes -= request.size
        if request.block is not None:
            self.arena.free(request.block)
            request.block = None

    def forget(self, client: FrontConnection) -> None:
        """Drops what a client that is gone was waiting for."""
        for request in self.waiting.forget(client):
            self.release(request)


def _addresses(settings: HostSettings) -> int:
    """Bytes of addresses that are enough for every frame a client can have begun, for each has sent some of it."""
    frames = settings.max_queued_bytes // RESERVE_BYTES + 1
    return min(frames * settings.max_message_bytes, _MOST_ADDRESSES) + settings.max_queued_bytes

"""The requests of a front between their arrival and their reply: which is next, and whether a slot waits for more.

connection --Request--> RequestQueue: one of each client in turn --> a slot's batch --> Client.reply, in order
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from thriftserve.rpc import BatchHint
from thriftserve.servers.batching.ipc import INLINE, Block


class Clock:
    """The present of one front, read once a round: reading it for each request would cost more than it tells."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        #: Monotonic seconds.
        self.now = time.monotonic()

    def tick(self) -> float:
        """Read the time and return it."""
        self.now = now = time.monotonic()
        return now


class Ewma:
    """An exponentially weighted moving average.

    Threads may share one: a measurement that gets lost between two of them does not matter.

    >>> wait_s = Ewma(0.5)
    >>> wait_s.add(4.0)
    >>> wait_s.add(2.0)
    >>> wait_s.value
    3.0

    Args:
        weight: part of a new sample in the average, from 0 to 1.
        value: the average before the first sample; None: the first sample counts whole.
    """

    __slots__ = ("_weight", "empty", "value")

    def __init__(self, weight: float, value: float | None = None) -> None:
        self._weight = weight
        #: True while there is no value and no sample; `value` is 0 then.
        self.empty = value is None
        self.value = 0.0 if value is None else value

    def add(self, sample: float) -> None:
        """Add a sample."""
        if self.empty:
            self.empty = False
            self.value = sample
        else:
            self.value += self._weight * (sample - self.value)

    def reset(self, value: float) -> None:
        """Start again from a value."""
        self.empty = False
        self.value = value


class ClientQueue:
    """One client's part of the queue. `RequestQueue` writes it; its connection reads it."""

    __slots__ = ("held", "in_hand", "waiting")

    def __init__(self) -> None:
        #: Requests that no slot has yet, oldest first.
        self.waiting: deque[Request] = deque()
        #: Number of requests that slots have.
        self.in_hand = 0
        #: True while its requests get no turn, because the client does not read its replies.
        self.held = False


class Client(Protocol):
    """What everything behind a connection knows of it."""

    #: Its name in the log.
    peer: str
    #: Why its first request is refused; None: it is served.
    refusal: str | None
    queue: ClientQueue
    #: Its requests that have no reply yet, in their order.
    pending: deque[Request]

    @property
    def closed(self) -> bool:
        """True once nobody waits for its replies."""

    def reply(self, request: Request, data: bytes | memoryview | None) -> None:
        """Send a framed reply after those before it: nothing for a oneway call; None closes the connection."""


class Request:
    """A message that came whole."""

    __slots__ = ("arrived", "block", "client", "deaths", "expires", "frame", "lane", "reply", "size")

    def __init__(self, client: Client, frame: bytes | None, block: Block | None, size: int, arrived: float) -> None:
        self.client = client
        #: Its length and message; None if it lies in `block`.
        self.frame = frame
        self.block = block
        #: Bytes of the message.
        self.size = size
        #: Monotonic seconds.
        self.arrived = arrived
        #: The framed reply while it waits for those before it; empty for a oneway call, None if there is none yet.
        self.reply: bytes | memoryview | None = None
        #: Workers that died with it in hand.
        self.deaths = 0
        #: When it must have begun to run, monotonic seconds; None: not read yet; infinity: no limit.
        self.expires: float | None = None
        #: The part of the service that it is for, if that has a limit of its own; see `FrontPolicy.lanes`.
        self.lane: str | None = None

    @property
    def place(self) -> tuple[bytes | None, int, int, float]:
        """The arguments of `ipc.pack_batch` for it."""
        return self.frame, INLINE if self.block is None else self.block.offset, self.size, self.arrived


class RequestQueue:
    """Requests that no slot has yet. Clients take turns, so one that sends many delays nobody.

    Args:
        ordered: whether a client's request waits until the one before it is answered.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._turns: deque[ClientQueue] = deque()
        #: Requests that may have ended a worker; each runs alone. Their clients have them in hand.
        self.retries: deque[Request] = deque()
        #: Number of requests that wait, without `retries`.
        self.count = 0
        #: Number of requests that wait for each part of the service that has a limit.
        self.of_lane: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.count + len(self.retries)

    @property
    def has_turns(self) -> bool:
        """True if there is a request to `take`."""
        return bool(self._turns)

    @property
    def ready(self) -> bool:
        """True if there is a request to take, or one to run alone."""
        return bool(self._turns or self.retries)

    def set_held(self, client: ClientQueue, held: bool) -> None:
        """Give a client no turns while it does not read its replies, or give it turns again."""
        if held == client.held:
            return
        client.held = held
        if held and client in self._turns:
            self._turns.remove(client)
        elif not held and self._may_have_turn(client):
            self._turns.append(client)

    def _may_have_turn(self, client: ClientQueue) -> bool:
        return bool(client.waiting) and not client.held and not (self._ordered and client.in_hand)

    def add(self, request: Request) -> None:
        """Append a request to its client's queue."""
        client = request.client.queue
        client.waiting.append(request)
        self.count += 1
        if request.lane is not None:
            self.of_lane[request.lane] += 1
        if len(client.waiting) == 1 and self._may_have_turn(client):
            self._turns.append(client)

    def put_back(self, request: Request) -> None:
        """Put a request that was taken, and not begun, before the others of its client, which is next."""
        client = request.client.queue
        client.waiting.appendleft(request)
        self.count += 1
        if request.lane is not None:
            self.of_lane[request.lane] += 1
        if client in self._turns:
            self._turns.remove(client)
        if self._may_have_turn(client):
            self._turns.appendleft(client)

    def add_retry(self, request: Request) -> None:
        """Append a request that is to run alone."""
        request.client.queue.in_hand += 1
        self.retries.append(request)

    def take(self, limit: int, limit_bytes: int) -> list[Request]:
        """Remove and return the next requests, of as many clients as there are.

        Args:
            limit: requests at most.
            limit_bytes: bytes of the frames that are sent along; the first one is returned whatever its size.
        """
        requests: list[Request] = []
        turns = self._turns
        size = 0
        while turns and len(requests) < limit:
            client = turns[0]
            request = client.waiting[0]
            if request.frame is not None:
                size += request.size
                if size > limit_bytes and requests:
                    break
            turns.popleft()
            client.waiting.popleft()
            client.in_hand += 1
            if client.waiting and not self._ordered:
                turns.append(client)
            requests.append(request)
        self._uncount(requests)
        return requests

    def _uncount(self, requests: list[Request]) -> None:
        self.count -= len(requests)
        if self.of_lane:
            self.of_lane.subtract(request.lane for request in requests if request.lane is not None)

    def leave_hand(self, client: ClientQueue) -> None:
        """Note that a slot has one request of a client less."""
        client.in_hand -= 1
        if self._ordered and self._may_have_turn(client):
            self._turns.append(client)

    def oldest(self) -> float | None:
        """Return when the request that is next arrived; None if none waits."""
        if self.retries:
            return self.retries[0].arrived
        return self._turns[0].waiting[0].arrived if self._turns else None

    def requests(self) -> list[Request]:
        """Return every request that waits for its turn."""
        return [*self.retries, *(request for client in self._turns for request in client.waiting)]

    def half_time(self, expiry: Callable[[Request], float]) -> float:
        """Return when the first of those that wait has only half of its time left.

        Args:
            expiry: returns when a request must have begun to run.
        """
        requests = self.requests()
        for request in requests:
            if request.expires is None:
                request.expires = expiry(request)
        times = ((request.arrived + request.expires) / 2 for request in requests if request.expires)
        return min(times, default=float("inf"))

    def remove(self, request: Request) -> None:
        """Remove a request, wherever it waits."""
        client = request.client.queue
        if request in self.retries:
            self.retries.remove(request)
            self.leave_hand(client)
            return
        client.waiting.remove(request)
        self._uncount([request])
        if not client.waiting and client in self._turns:
            self._turns.remove(client)

    def remove_client(self, client: Client) -> list[Request]:
        """Remove and return all requests of a client that is gone."""
        queue = client.queue
        removed = list(queue.waiting)
        if removed:
            if queue in self._turns:
                self._turns.remove(queue)
            queue.waiting.clear()
            self._uncount(removed)
        for request in [retry for retry in self.retries if retry.client is client]:
            self.retries.remove(request)
            removed.append(request)
        return removed


#: Saving a run that costs less than this is not worth a wait that epoll counts in milliseconds.
_MIN_RUN_US = 1000
_MAX_WAIT_S = 0.05
#: Requests that must be expected, at least.
_MIN_EXPECTED = 0.5
_WEIGHT = 0.05


class BatchWait:
    """Decides for one front.

    Args:
        queue: the requests that wait.
        expiry: returns when a request must have begun to run.
    """

    def __init__(self, queue: RequestQueue, expiry: Callable[[Request], float]) -> None:
        self._queue = queue
        self._expiry = expiry
        #: Seconds that waiting is worth, and within which a client asks again "soon"; 0 if it is never worth it.
        self._worth_s = 0.0
        #: Clients that have all their replies, and since when; no longer than `_worth_s`.
        self._expected: dict[object, float] = {}
        #: The share of clients that asked again soon.
        self._soon = Ewma(_WEIGHT, _MIN_EXPECTED)

    @property
    def expected(self) -> int:
        """The number of clients that may ask again soon."""
        return len(self._expected)

    def answered(self, client: object, now: float) -> None:
        """Note that a client got the last of its replies."""
        if self._worth_s:
            self._expected[client] = now
            self._drop_late(now)

    def arrived(self, client: object, now: float) -> None:
        """Note that a request of a client was queued."""
        if self._expected:
            self._drop_late(now)
            if self._expected.pop(client, None) is not None:
                self._soon.add(1.0)

    def hold_until(self, hint: BatchHint, free_since: float, now: float, *, last: bool) -> float | None:
        """Return until when a slot with room gets nothing; None: it gets what waits now.

        Args:
            hint: what the slot wants.
            free_since: when it became free, monotonic seconds.
            now: the present.
            last: whether it is the only slot with room; otherwise later requests get another one.
        """
        oldest = self._queue.oldest()
        if self._queue.count >= hint.requests or oldest is None or hint.wait_us == 0:
            return None
        if hint.wait_us is not None:
            until = min(oldest + hint.wait_us / 1e6, self._queue.half_time(self._expiry))
            return until if now < until else None
        self._worth_s = min(_MAX_WAIT_S, hint.fixed_us / 1e6) if hint.fixed_us >= _MIN_RUN_US else 0.0
        self._drop_late(now)
        if not last or self._soon.value * len(self._expected) < _MIN_EXPECTED:
            return None
        until = max(free_since, oldest) + self._worth_s
        return until if now < until else None

    def _drop_late(self, now: float) -> None:
        """Stop expecting clients that did not ask again soon."""
        expected = self._expected
        while expected and now - expected[client := next(iter(expected))] > self._worth_s:
            del expected[client]
            self._soon.add(0.0)

"""The requests of a front between their arrival and their reply, and which of them is next.

connection --Request--> RequestQueue: one of each client in turn --> a slot's batch --> Client.reply, in order
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from thriftserve.servers.batching.arena import Block
from thriftserve.servers.batching.ipc import INLINE


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
        #: Requests whose worker died; each runs alone, before the others.
        self.retries: deque[Request] = deque()
        #: Number of requests that wait, without `retries`.
        self.count = 0
        #: Number of requests that wait for each part of the service that has a limit.
        self.of_lane: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.count + len(self.retries)

    @property
    def ready(self) -> bool:
        """True if there is a request to take."""
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

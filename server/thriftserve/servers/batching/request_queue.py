"""Requests between their arrival and their answer, and who is next.

client --Request--> Waiting: one of each client in turn --> a slot's batch --> answer --> client, in its own order
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from thriftserve.servers.batching.ipc import INLINE

if TYPE_CHECKING:
    from thriftserve.servers.batching.arena import Block
    from thriftserve.servers.batching.connection import FrontConnection


class Request:
    """A message that came whole."""

    __slots__ = ("answer", "arrived", "block", "client", "deaths", "expires", "frame", "lane", "size")

    def __init__(
        self, client: FrontConnection, frame: bytes | None, block: Block | None, size: int, arrived: float
    ) -> None:
        self.client = client
        #: Its length and message; None where it lies in `block`.
        self.frame = frame
        self.block = block
        #: Bytes of the message.
        self.size = size
        #: Monotonic seconds.
        self.arrived = arrived
        #: The framed answer; empty for a oneway call, None while there is none.
        self.answer: bytes | memoryview | None = None
        #: Workers that died with it in hand.
        self.deaths = 0
        #: When it must have begun to run; None: not looked at yet; infinity: no limit.
        self.expires: float | None = None
        #: What part of the service it is for, where that has a limit of its own.
        self.lane: str | None = None

    @property
    def place(self) -> tuple[bytes | None, int, int, float]:
        """What a slot is told of it."""
        return self.frame, INLINE if self.block is None else self.block.offset, self.size, self.arrived


class RequestQueue:
    """Requests that no slot has yet. Clients take turns, so one that sends many delays nobody.

    Args:
        ordered: whether a client's request waits until the one before it is answered.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._turns: deque[FrontConnection] = deque()
        #: Requests whose worker died; each runs alone, before the others.
        self.again: deque[Request] = deque()
        self.count = 0
        #: How many wait of each part of the service that has a limit.
        self.of_lane: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.count + len(self.again)

    @property
    def ready(self) -> bool:
        """True where there is one to take."""
        return bool(self._turns or self.again)

    def hold(self, client: FrontConnection, on: bool) -> None:
        """Leaves a client out of the turns, for it does not read its answers; or takes it in again."""
        if on == client.held:
            return
        client.held = on
        if on and client in self._turns:
            self._turns.remove(client)
        elif not on and self._has_turn(client):
            self._turns.append(client)

    def _has_turn(self, client: FrontConnection) -> bool:
        """Whether a client that just came to stand at the end of the turns does so."""
        return bool(client.waiting) and not client.held and not (self._ordered and client.in_hand)

    def done(self, client: FrontConnection) -> None:
        """A request of a client is no longer in a slot's hand."""
        client.in_hand -= 1
        if self._ordered and self._has_turn(client):
            self._turns.append(client)

    def add(self, request: Request) -> None:
        """Puts a request at the end of its client's own queue."""
        client = request.client
        client.waiting.append(request)
        self.count += 1
        if request.lane is not None:
            self.of_lane[request.lane] += 1
        if len(client.waiting) == 1 and self._has_turn(client):
            self._turns.append(client)

    def take(self, most: int, most_bytes: int) -> list[Request]:
        """Up to `most` requests, of as many clients as there are.

        Args:
            most: how many at most.
            most_bytes: of frames that are sent along; the first goes whatever its size.
        """
        taken: list[Request] = []
        turns = self._turns
        size = 0
        while turns and len(taken) < most:
            client = turns[0]
            request = client.waiting[0]
            if request.frame is not None:
                size += request.size
                if size > most_bytes and taken:
                    break
            turns.popleft()
            client.waiting.popleft()
            client.in_hand += 1
            if client.waiting and not self._ordered:
                turns.append(client)
            taken.append(request)
        self._out(taken)
        return taken

    def _out(self, requests: list[Request]) -> None:
        self.count -= len(requests)
        if self.of_lane:
            self.of_lane.subtract(request.lane for request in requests if request.lane is not None)

    def oldest(self) -> float | None:
        """When the request that is next arrived; None where none waits."""
        if self.again:
            return self.again[0].arrived
        return self._turns[0].waiting[0].arrived if self._turns else None

    def all(self) -> list[Request]:
        """Every request that waits."""
        return [*self.again, *(request for client in self._turns for request in client.waiting)]

    def halfway(self, expiry: Callable[[Request], float]) -> float:
        """When the first of those that wait has only half of its time left; `expiry` tells when a request's ends."""
        for request in (waiting := self.all()):
            if request.expires is None:
                request.expires = expiry(request)
        return min(((one.arrived + one.expires) / 2 for one in waiting if one.expires), default=float("inf"))

    def remove(self, request: Request) -> None:
        """Takes one out, wherever it stands."""
        if request in self.again:
            self.again.remove(request)
            self.done(request.client)
            return
        client = request.client
        client.waiting.remove(request)
        self._out([request])
        if not client.waiting and client in self._turns:
            self._turns.remove(client)

    def forget(self, client: FrontConnection) -> list[Request]:
        """Takes out all of a client that is gone.

        Returns:
            What was taken out.
        """
        gone = list(client.waiting)
        if gone:
            if client in self._turns:
                self._turns.remove(client)
            client.waiting.clear()
            self._out(gone)
        for request in [each for each in self.again if each.client is client]:
            self.again.remove(request)
            gone.append(request)
        return gone

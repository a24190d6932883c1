"""What lies between clients and a server: requests on connections, and queues of either.

client: send(Request)  -->  Connection  -->  a server's thread takes it, or is told of it  -->  request.answered
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from simpy import Environment, Event

Item = TypeVar("Item")


class Line(Generic[Item]):
    """A queue without end: first come, first served, on both sides of it."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._items: deque[Item] = deque()
        self._takers: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Adds one; whoever has waited longest for one gets it."""
        if self._takers:
            self._takers.popleft().succeed(item)
        else:
            self._items.append(item)

    def get(self) -> Event:
        """Happens with the next item as its value."""
        taken = Event(self._env)
        if self._items:
            taken.succeed(self._items.popleft())
        else:
            self._takers.append(taken)
        return taken

    def leave(self, taken: Event) -> None:
        """Waits no longer."""
        self._takers.remove(taken)


class Request:
    """One call under way."""

    def __init__(self, env: Environment) -> None:
        self.answered = Event(env)


#: What a connection carries: requests, and None at its end.
Message = Request | None


class Connection:
    """A client's connection, from connect to close."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._inbox: Line[Message] = Line(env)
        #: Told when something has come; None: somebody waits in `receive`.
        self.watcher: Callable[[Connection], None] | None = None

    @property
    def has_pending(self) -> bool:
        """Something waits to be received."""
        return len(self._inbox) > 0

    def send(self) -> Request:
        """Sends a request; its `answered` happens when the answer is there."""
        request = Request(self._env)
        self._put(request)
        return request

    def close(self) -> None:
        """The client leaves."""
        self._put(None)

    def _put(self, message: Message) -> None:
        self._inbox.put(message)
        if self.watcher is not None:
            self.watcher(self)

    def receive(self) -> Event:
        """Happens with the next request, or None, as its value."""
        return self._inbox.get()

    def leave(self, receiving: Event) -> None:
        """Waits no longer for what `receive` returned."""
        self._inbox.leave(receiving)

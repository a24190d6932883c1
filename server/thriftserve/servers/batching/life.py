"""The life of a connection and of a slot, as tables of states and events.

    connection: HANDSHAKE --HANDSHAKE_DONE--> OPEN --READ_END--> DRAINING --CLOSE--> CLOSED
    slot:       IDLE --BATCH_SENT--> BUSY --ALL_DONE--> IDLE    IDLE | BUSY --LEAVE--> LEAVING --END--> GONE

Every change of state is an entry of a table. An event that the table does not have is a bug of the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


class ImpossibleEvent(Exception):
    """An event happened in a state that has no such event."""


def next_state(table: Mapping[State, Mapping[Event, State]], state: State, event: Event) -> State:
    """Return the state that follows an event.

    Raises:
        ImpossibleEvent: the state has no such event.

    >>> next_state(SLOT_LIFE, SlotState.IDLE, SlotEvent.BATCH_SENT).name
    'BUSY'
    """
    try:
        return table[state][event]
    except KeyError:
        possible = ", ".join(table[state]) or "none"
        raise ImpossibleEvent(
            f"{type(state).__name__} {state.value!r} has no event {event.value!r}; possible: {possible}"
        ) from None


class ConnectionState(StrEnum):
    """States of a client's connection to a front."""

    #: The TLS handshake is not done.
    HANDSHAKE = "handshake"
    #: Requests are read and answered.
    OPEN = "open"
    #: No more requests are read; those that were read are answered.
    DRAINING = "draining"
    #: The socket is closed.
    CLOSED = "closed"


class ConnectionEvent(StrEnum):
    """What changes the state of a connection."""

    HANDSHAKE_DONE = "handshake done"
    #: The last request came: the client closed its side, sent a broken length, or is over the connection limit.
    READ_END = "read end"
    CLOSE = "close"


CONNECTION_LIFE: Mapping[ConnectionState, Mapping[ConnectionEvent, ConnectionState]] = {
    ConnectionState.HANDSHAKE: {
        ConnectionEvent.HANDSHAKE_DONE: ConnectionState.OPEN,
        ConnectionEvent.CLOSE: ConnectionState.CLOSED,
    },
    ConnectionState.OPEN: {
        ConnectionEvent.READ_END: ConnectionState.DRAINING,
        ConnectionEvent.CLOSE: ConnectionState.CLOSED,
    },
    ConnectionState.DRAINING: {ConnectionEvent.CLOSE: ConnectionState.CLOSED},
    ConnectionState.CLOSED: {},
}


class SlotState(StrEnum):
    """States of a worker's slot, as its front sees it."""

    #: It has no batch.
    IDLE = "idle"
    #: It has one batch or more.
    BUSY = "busy"
    #: It gets no more batches; it may have some to answer.
    LEAVING = "leaving"
    #: Its socket is closed.
    GONE = "gone"


class SlotEvent(StrEnum):
    """What changes the state of a slot."""

    BATCH_SENT = "batch sent"
    #: A batch is answered, and there is another one.
    BATCH_DONE = "batch done"
    #: The last batch that it had is answered.
    ALL_DONE = "all done"
    #: Its worker is being replaced.
    LEAVE = "leave"
    #: Its stream ended, or the front drains.
    END = "end"


SLOT_LIFE: Mapping[SlotState, Mapping[SlotEvent, SlotState]] = {
    SlotState.IDLE: {
        SlotEvent.BATCH_SENT: SlotState.BUSY,
        SlotEvent.LEAVE: SlotState.LEAVING,
        SlotEvent.END: SlotState.GONE,
    },
    SlotState.BUSY: {
        SlotEvent.BATCH_SENT: SlotState.BUSY,
        SlotEvent.BATCH_DONE: SlotState.BUSY,
        SlotEvent.ALL_DONE: SlotState.IDLE,
        SlotEvent.LEAVE: SlotState.LEAVING,
        SlotEvent.END: SlotState.GONE,
    },
    SlotState.LEAVING: {
        SlotEvent.BATCH_DONE: SlotState.LEAVING,
        SlotEvent.ALL_DONE: SlotState.LEAVING,
        SlotEvent.LEAVE: SlotState.LEAVING,
        SlotEvent.END: SlotState.GONE,
    },
    SlotState.GONE: {},
}

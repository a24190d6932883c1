"""The tables of states of a front's connections and slots, and its small tools."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from thriftserve.servers.batching import admission, life, request_queue, worker
from thriftserve.servers.batching.life import (
    CONNECTION_LIFE,
    SLOT_LIFE,
    ConnectionEvent,
    ConnectionState,
    ImpossibleEvent,
    SlotEvent,
    SlotState,
    next_state,
)


@pytest.mark.parametrize("module", [admission, request_queue, life, worker])
def test_the_examples(module: ModuleType) -> None:
    """The modules' own examples are true."""
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_every_state_ends() -> None:
    """Each state has its row, and from each the end can be reached in one step."""
    assert set(CONNECTION_LIFE) == set(ConnectionState)
    assert set(SLOT_LIFE) == set(SlotState)
    assert all(
        ConnectionEvent.CLOSE in events
        for state, events in CONNECTION_LIFE.items()
        if state is not ConnectionState.CLOSED
    )
    assert all(SlotEvent.END in events for state, events in SLOT_LIFE.items() if state is not SlotState.GONE)


def test_a_life_with_tls() -> None:
    """A connection shakes hands, is read, is drained, and is closed."""
    state = ConnectionState.HANDSHAKE
    for event in (ConnectionEvent.HANDSHAKE_DONE, ConnectionEvent.READ_END, ConnectionEvent.CLOSE):
        state = next_state(CONNECTION_LIFE, state, event)
    assert state is ConnectionState.CLOSED


def test_a_slot_that_leaves() -> None:
    """A slot that leaves answers what it has, and gets no further batch."""
    state = SlotState.IDLE
    for event in (
        SlotEvent.BATCH_SENT,
        SlotEvent.BATCH_SENT,
        SlotEvent.BATCH_DONE,
        SlotEvent.LEAVE,
        SlotEvent.ALL_DONE,
    ):
        state = next_state(SLOT_LIFE, state, event)
    assert state is SlotState.LEAVING
    with pytest.raises(ImpossibleEvent, match=r"SlotState 'leaving' has no event 'batch sent'; possible: .*all done"):
        next_state(SLOT_LIFE, state, SlotEvent.BATCH_SENT)


def test_nothing_happens_after_the_end() -> None:
    """An event in the last state names the state and the event."""
    with pytest.raises(ImpossibleEvent, match="ConnectionState 'closed' has no event 'read end'; possible: none"):
        next_state(CONNECTION_LIFE, ConnectionState.CLOSED, ConnectionEvent.READ_END)

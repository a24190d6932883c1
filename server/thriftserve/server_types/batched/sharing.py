"""Who gets how much of what waits.

slots with room, all slots, requests that wait --> chosen() --> the slot        share() --> how many requests
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from thriftserve.server_types.batched.slot import Slot


def chosen(free: Sequence[Slot], every: Collection[Slot]) -> Slot:
    """The free slot with the least in hand, of the worker with the least; of equals the one used last: it is warm."""
    if len(free) == 1:
        return free[0]
    busy: dict[int, int] = {}
    for slot in every:
        busy[slot.pid] = busy.get(slot.pid, 0) + len(slot.batches)
    return min(reversed(free), key=lambda slot: (len(slot.batches), busy[slot.pid]))


def share(slot: Slot, waiting: int, free: Collection[Slot], every: Collection[Slot]) -> int:
    """How many of the requests that wait a slot gets.

    They are divided by the room there is. With several workers the shares are smaller, so that some always wait:
    else those that one worker has answered would go back to that worker for ever, and clients would fare as their
    worker does (0.5 between the slowest and the fastest of 64, where one of two workers shared its core).
    """
    advice = slot.advice
    if advice.wait_us:
        return advice.take  # what was waited for goes together
    size = -(-waiting // sum(each.room for each in free))
    if len({each.pid for each in every}) > 1:
        held = sum(len(batch) for each in every for batch in each.batches)
        size = min(size, -(-(waiting + held) // (1 + sum(each.advice.depth for each in every if each.advice.take))))
    return max(1, min(advice.take, size))

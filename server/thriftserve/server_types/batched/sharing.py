"""Who gets how much of what waits.

slots with room, all slots, requests that wait --> startable() --> chosen() --> the slot; share() --> how many of them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from thriftserve.server_types.batched.slot import Slot


def startable(free: Sequence[Slot], every: Collection[Slot], runs: int) -> tuple[Sequence[Slot], bool]:
    """The free slots whose batch would run at once, and True; all, and False, where any batch would wait in the hand.

    One that waits there takes no more requests in: of 8 clients whose requests went there as they came, runs got 2
    together, of 4 that were worth it.

    Args:
        free: slots with room.
        every: all slots.
        runs: those that a worker has at once.
    """
    if free[0].advice.depth > 1:  # runs are so short that handing them over counts for more
        return free, True
    busy = Counter(slot.pid for slot in every if slot.batches)
    at_once: list[Slot] = []
    for slot in reversed(free):  # what came free last is warm
        if busy[slot.pid] < runs:
            busy[slot.pid] += 1
            at_once.insert(0, slot)
    return (at_once, True) if at_once else (free, False)


def chosen(free: Sequence[Slot], every: Collection[Slot]) -> Slot:
    """The free slot with the least in hand, of the worker with the least; of equals the one used last: it is warm."""
    if len(free) == 1:
        return free[0]
    busy: dict[int, int] = {}
    for slot in every:
        busy[slot.pid] = busy.get(slot.pid, 0) + len(slot.batches)
    return min(reversed(free), key=lambda slot: (len(slot.batches), busy[slot.pid]))


def share(slot: Slot, waiting: int, free: Collection[Slot], every: Collection[Slot], runs: int) -> int:
    """How many of the requests that wait a slot gets.

    They are divided by the room there is. With several workers the shares are smaller, so that some always wait:
    else those that one worker has answered would go back to that worker for ever, and clients would fare as their
    worker does (0.5 between the slowest and the fastest of 64, where one of two workers shared its core). A single
    worker's runs get equal shares: of 8 clients, one would run with 7 and the other with 1 for ever.
    """
    advice = slot.advice
    if advice.wait_us:
        return advice.take  # what was waited for goes together
    size = -(-waiting // sum(each.room for each in free))
    workers = len({each.pid for each in every})
    if workers > 1 or advice.depth == 1:
        parts = runs * workers if advice.depth == 1 else sum(each.advice.depth for each in every if each.advice.take)
        held = sum(len(batch) for each in every for batch in each.batches)
        size = min(size, -(-(waiting + held) // (parts + (workers > 1))))
    return max(1, min(advice.take, size))

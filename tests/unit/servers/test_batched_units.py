"""The parts of TBatchingServer that need no socket: its own wire, the arena, the turns of those who wait."""

from __future__ import annotations

import itertools
import os
import random
import socket
import struct
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from thriftserve.rpc import BatchHint
from thriftserve.servers.batching.admission import AdaptiveLimit
from thriftserve.servers.batching.dispatcher import batch_size, choose_slot, startable
from thriftserve.servers.batching.ipc import (
    CLOSE,
    INLINE,
    READ_BYTES,
    Arena,
    BatchItem,
    Block,
    Hello,
    Rendezvous,
    Replies,
    ReplyKind,
    SharedFrames,
    batch_reader,
    pack_batch,
    pack_replies,
    reply_reader,
)
from thriftserve.servers.batching.request_queue import ClientQueue, Request, RequestQueue

PAGE = 4096
NOBODY = 65534
REFUSED = 3


def cuts(dice: random.Random, data: bytes, most: int) -> Iterable[bytes]:
    """The data in pieces of any size."""
    at = 0
    while at < len(data):
        end = at + dice.randint(1, most)
        yield data[at:end]
        at = end


def framed(message: bytes) -> bytes:
    """With its length before it."""
    return struct.pack("!I", len(message)) + message


@pytest.mark.parametrize("most", [1, 7, 300, 100_000])
def test_batches_in_pieces(most: int) -> None:
    """Batches come out as they were packed, however the stream is cut, frames sent along or not."""
    dice = random.Random(most)
    packed, expected = [], []
    for _ in range(20):
        frames: list[Any] = []
        items = []
        for _ in range(dice.randint(1, 5)):
            message, arrived = dice.randbytes(dice.choice([0, 1, 50, 3000])), dice.random()
            if dice.random() < 0.3:
                offset = dice.randrange(1 << 40)
                frames.append((None, offset, len(message), arrived))
                items.append(BatchItem((offset, len(message)), arrived))
            else:
                frames.append((framed(message), INLINE, len(message), arrived))
                items.append(BatchItem(message, arrived))
        packed.append(b"".join(pack_batch(frames)))
        expected.append(items)
    reader = batch_reader()
    found = [batch for piece in cuts(dice, b"".join(packed), most) for batch in reader.feed(piece)]
    assert found == expected


@pytest.mark.parametrize("most", [1, 7, 300, READ_BYTES])
def test_answers_in_pieces(most: int) -> None:
    """Answers come out as they were packed, however the stream is cut: small, long, none, those that close."""
    dice = random.Random(most)
    sizes = [0, 1, 50, 3000] if most == 1 else [0, 50, 3000, READ_BYTES - 80, READ_BYTES, 2 * READ_BYTES]
    packed, expected = [], []
    for kind in [*ReplyKind] * 3:
        fixed_us, wait_us = dice.randrange(10**6), dice.choice([None, 0, 5000])
        hint = BatchHint(dice.randint(0, 70), fixed_us, 0.0, wait_us, dice.randint(1, 2))
        given: list[tuple[int, int, list[bytes]]] = []
        items: list[tuple[int, bool, bytes | memoryview]] = []
        for index in range(dice.randint(0, 4)):
            size, close = dice.choice(sizes), dice.random() < 0.2
            message = dice.randbytes(size)
            given.append((index | CLOSE * close, size, [message[: size // 2], message[size // 2 :]] if size else []))
            items.append((index, close, framed(message) if size else b""))
        packed.append(b"".join(pack_replies(kind, hint, given)))
        expected.append(Replies(kind, hint, items))
    assert read(dice, b"".join(packed), most) == expected


def read(dice: random.Random, stream: bytes, most: int) -> list[Replies]:
    """What a reader makes of a stream, as a slot reads it."""
    reader, found, at = reply_reader(), [], 0
    while at < len(stream):
        wanted = reader.wanted()
        size = min(dice.randint(1, most), len(stream) - at, len(wanted) if wanted is not None else most)
        if wanted is None:
            found += reader.feed(stream[at : at + size])
        else:
            wanted[:size] = stream[at : at + size]
            if (whole := reader.filled(size)) is not None:
                found.append(whole)
        at += size
    return found


def test_figures_beyond_the_wire() -> None:
    """Numbers too large for their field become the largest one that fits."""
    (head,) = pack_replies(ReplyKind.LAST, BatchHint(10**6, 10**12, 0.0, 10**12), [])
    ((_, hint, _),) = reply_reader().feed(head)
    assert hint == BatchHint(0xFFFF, 0xFFFFFFFF, 0.0, 0xFFFFFFFE)


def test_unread_requests_take_places() -> None:
    """The longer requests lie unread, the fewer may wait, but never none; all of it is back once they are read."""
    limit = AdaptiveLimit(500)
    found = []
    for turn in range(1, 100):
        limit.completed += 1000
        limit.fell_behind(turn / 1000, turn / 10)
        found.append(limit.places)
    assert found == sorted(found, reverse=True)
    assert found[0] > 400 and found[-1] == 8
    limit.caught_up()
    assert limit.places == 500
    tiny = AdaptiveLimit(2)
    tiny.completed = 10**6
    tiny.fell_behind(9.0, 1.0)
    assert tiny.places == 2


def test_an_arena_in_random_use() -> None:
    """Blocks never overlap, keep what is in them, and are all one piece again in the end."""
    dice = random.Random(1)
    arena = Arena(64 * PAGE)
    shared = SharedFrames(arena.fd)
    held: list[tuple[Block, bytes]] = []
    refused = 0
    for _ in range(3000):
        if held and (dice.random() < 0.5 or len(held) > 12):
            block, content = held.pop(dice.randrange(len(held)))
            assert shared.read(block.offset, len(content)) == content
            arena.free(block)
            if dice.random() < 0.1:
                arena.trim()
        else:
            content = dice.randbytes(dice.choice([1, PAGE - 1, PAGE, PAGE + 1, 9 * PAGE]))
            taken = arena.allocate(len(content))
            if taken is None:
                refused += 1
                continue
            assert len(taken.view) == len(content)
            taken.view[:] = content
            held.append((taken, content))
        places = sorted((block.offset, block.offset + block.size) for block, _ in held)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
        assert arena.free_bytes == arena.size - sum(block.size for block, _ in held)
    assert refused
    for block, content in held:
        assert shared.read(block.offset, len(content)) == content
        arena.free(block)
    whole = arena.allocate(arena.size)
    assert whole is not None and whole.offset == 0
    assert arena.allocate(1) is None
    arena.free(whole)
    arena.trim()
    assert os.stat(arena.fd).st_blocks == 0, "the memory went back"
    shared.close()
    os.close(arena.fd)


names: dict[int, str] = {}


def client(name: str) -> Any:
    """What `RequestQueue` knows of a client."""
    owner = SimpleNamespace(queue=ClientQueue())
    names[id(owner)] = name
    return owner


def add(waiting: RequestQueue, owner: Any, number: int, size: int = 1, *, inline: bool = True) -> Request:
    """A request that waits; `arrived` is its number."""
    request = Request(owner, bytes(size) if inline else None, None, size, number)
    waiting.add(request)
    return request


def taken(waiting: RequestQueue, most: int, most_bytes: int = 100) -> list[tuple[str, float]]:
    """Who is next."""
    return [(names[id(request.client)], request.arrived) for request in waiting.take(most, most_bytes)]


def test_clients_take_turns() -> None:
    """One of each client in turn, in each client's own order; a client that is held is left out, not forgotten."""
    waiting, (a, b, c) = RequestQueue(ordered=False), map(client, "abc")
    for number in range(3):
        add(waiting, a, number)
    add(waiting, b, 0)
    assert taken(waiting, 3) == [("a", 0), ("b", 0), ("a", 1)]
    add(waiting, c, 0)
    add(waiting, b, 1)
    waiting.set_held(a.queue, True)
    assert (waiting.count, taken(waiting, 9)) == (3, [("c", 0), ("b", 1)])
    assert (waiting.ready, waiting.count, waiting.oldest()) == (False, 1, None)
    waiting.set_held(a.queue, False)
    assert (waiting.oldest(), taken(waiting, 9), waiting.count) == (2, [("a", 2)], 0)
    assert [each.queue.in_hand for each in (a, b, c)] == [3, 2, 1]


def test_ordered_clients_wait_for_their_answers() -> None:
    """Where order counts a client has one request in hand, and its next one follows the answer."""
    waiting, a, b = RequestQueue(ordered=True), client("a"), client("b")
    for number in range(3):
        add(waiting, a, number)
    add(waiting, b, 0)
    assert taken(waiting, 9) == [("a", 0), ("b", 0)]
    assert (waiting.ready, waiting.count) == (False, 2)
    waiting.set_held(a.queue, True)
    waiting.leave_hand(a.queue)
    assert not waiting.ready
    waiting.set_held(a.queue, False)
    assert taken(waiting, 9) == [("a", 1)]
    waiting.leave_hand(b.queue)
    waiting.leave_hand(a.queue)
    assert (taken(waiting, 9), waiting.count) == ([("a", 2)], 0)


def test_bytes_bound_what_goes_together() -> None:
    """Frames sent along come to no more than asked for; a larger one goes by itself, those in the arena are free."""
    waiting, owners = RequestQueue(ordered=False), [client(name) for name in "abcd"]
    for number, owner in enumerate(owners):
        add(waiting, owner, number, 60, inline=number != 2)
    add(waiting, owners[0], 9, 500)
    assert taken(waiting, 9) == [("a", 0)]
    assert taken(waiting, 9) == [("b", 1), ("c", 2)]
    assert taken(waiting, 9) == [("d", 3)]
    assert taken(waiting, 9) == [("a", 9)]


def test_removed_and_forgotten() -> None:
    """What is taken out, of the queue or of those that run again, is counted and taken by nobody."""
    waiting, a, b = RequestQueue(ordered=False), client("a"), client("b")
    first, second, third = (add(waiting, a, number) for number in range(3))
    other = add(waiting, b, 0)
    waiting.remove(second)
    assert waiting.requests() == [first, third, other]
    waiting.remove(other)
    (running,) = waiting.take(1, 100)
    assert running is first
    waiting.retries.append(first)
    assert (len(waiting), waiting.oldest(), a.queue.in_hand) == (2, 0, 1)
    assert waiting.remove_client(a) == [third, first]
    assert (len(waiting), waiting.ready, waiting.requests()) == (0, False, [])
    running = add(waiting, b, 1)
    waiting.take(1, 100)
    waiting.retries.append(running)
    waiting.remove(running)
    assert (len(waiting), b.queue.in_hand) == (0, 0)


def _connect_as_nobody(board: Rendezvous) -> NoReturn:
    """In a child: knows the token, but is another user's."""
    try:
        os.setuid(NOBODY)
        board.connect(0, Hello(1, 0, 0, 1))
    except OSError:
        os._exit(REFUSED)
    finally:
        os._exit(0)


def test_strangers_are_sent_away() -> None:
    """Who does not know the token is not taken; a process of another user is not taken in any case."""
    board, arena = Rendezvous(1), Arena(PAGE)
    name = board.sockets[0].getsockname()
    board.sockets[0].setblocking(True)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(name)
        stranger.sendall(bytes(16) + (2).to_bytes(4, "big"))
        assert board.accept(0, arena.fd) is None
        assert stranger.recv(1) == b""
    if os.geteuid() == 0:  # else there is no other user to be had
        pid = os.fork()
        if not pid:
            _connect_as_nobody(board)
        assert board.accept(0, arena.fd) is None
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == REFUSED
    board.close_but(None)
    os.close(arena.fd)


class Room:
    """As much of a slot as sharing looks at."""

    def __init__(
        self, pid: int, in_hand: int = 0, *, take: int = 64, depth: int = 2, wait_us: int | None = None
    ) -> None:
        self.pid = pid
        self.hint = BatchHint(take, 0.0, 0.0, wait_us, depth)
        self.batches = [[None] * in_hand] if in_hand else []
        self.room = depth - len(self.batches)


@pytest.mark.parametrize(
    ("slots", "waiting", "expected"),
    [
        ([Room(1)], 1, 1),
        ([Room(1)], 64, 32),
        ([Room(1, 32)], 32, 32),
        ([Room(1), Room(2)], 64, 13),  # one fifth: four rooms, and some wait
        ([Room(1, 13), Room(2, 13)], 38, 13),
        ([Room(1, depth=1, take=4), Room(1, depth=1, take=4)], 32, 4),
        ([Room(1, depth=1), Room(1, 1, depth=1)], 7, 4),  # as much as the other run will find
        ([Room(1, depth=1), Room(1, 7, depth=1)], 1, 1),
        ([Room(1, 3, depth=1), Room(1, depth=1), Room(2, depth=1), Room(2, depth=1)], 22, 5),  # four runs, some wait
        ([Room(1, wait_us=1000, take=9)], 3, 9),
    ],
)
def test_shares_of_what_waits(slots: list[Any], waiting: int, expected: int) -> None:
    """What waits is divided by the room there is; beside other workers some is left, so that clients change workers."""
    free = [slot for slot in slots if slot.room]
    assert batch_size(choose_slot(free, slots), waiting, free, slots, 2) == expected


@pytest.mark.parametrize(
    ("slots", "expected", "at_once"),
    [
        ([Room(1, depth=1), Room(1, depth=1), Room(1, depth=1)], [1, 2], True),  # two runs; the warmest two
        ([Room(1, 4, depth=1), Room(1, depth=1), Room(1, depth=1)], [2], True),
        ([Room(1, 4, depth=1), Room(1, 4, depth=1), Room(1, depth=1)], [2], False),
        ([Room(1, 4, depth=1), Room(1, 4, depth=1), Room(1, depth=1), Room(2, depth=1)], [3], True),
        ([Room(1, 4), Room(1, 4), Room(1)], [0, 1, 2], True),  # short runs: handing over is what takes time
    ],
)
def test_slots_whose_batch_would_run_at_once(slots: list[Any], expected: list[int], at_once: bool) -> None:
    """As many slots of a worker as it has runs; where all are busy, any, and a batch would wait in the hand."""
    free = [slot for slot in slots if slot.room]
    found, runs_now = startable(free, slots, 2)
    assert [slots.index(slot) for slot in found] == expected
    assert runs_now is at_once


def test_the_least_busy_is_chosen() -> None:
    """The slot without a batch, of the worker with the fewest; of equals the last one used."""
    slots: list[Any] = [Room(1, 5), Room(1), Room(2), Room(3)]
    busy, beside, idle, warm = slots
    assert choose_slot([busy, beside, idle], [busy, beside, idle]) is idle
    assert choose_slot([idle, warm], [idle, warm]) is warm

"""Frames cut out of bytes, and messages encoded in two parts: without sockets, held against Apache's own encoders."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol, TBinaryProtocolAccelerated
from thrift.protocol.TCompactProtocol import TCompactProtocol, TCompactProtocolAccelerated
from thrift.protocol.TProtocol import TProtocolException
from thrift.transport.TTransport import TMemoryBuffer

from services.gen.calculator.ttypes import Pair, Parcel, Tree
from services.gen.cross.ttypes import Insanity, Number, Things
from thriftserve_client.wire.encoder import LARGE_BYTES
from thriftserve_client.wire.framing import IN_PLACE_BYTES, BufferPool, FrameDecoder, FrameError, LargeFrame
from thriftserve_client.wire.protocols import Outgoing, make_protocol

LIMIT = 1 << 20
APACHE = {
    "binary-c": lambda transport: TBinaryProtocolAccelerated(transport, fallback=False),
    "binary-python": TBinaryProtocol,
    "compact-c": lambda transport: TCompactProtocolAccelerated(transport, fallback=False),
    "compact-python": TCompactProtocol,
}


def frame(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def frames_of(data: bytes, cuts: Callable[[], int]) -> list[bytes]:
    """Every frame that a decoder finds in bytes that arrive in pieces of the sizes that `cuts` gives."""
    decoder, found, at = FrameDecoder(LIMIT), [], 0
    while at < len(data):
        wanted = decoder.wanted()
        size = min(cuts(), len(data) - at, len(wanted) if wanted is not None else LIMIT)
        if wanted is None:
            decoder.feed(data[at : at + size])
        else:
            wanted[:size] = data[at : at + size]
            wanted.release()
            decoder.filled(size)
        at += size
        while (each := decoder.next_frame()) is not None:
            found.append(each.read(LIMIT))
    assert not decoder.in_message
    return found


SIZES = [0, 1, 3, 4, 5, 100, IN_PLACE_BYTES - 5, IN_PLACE_BYTES, IN_PLACE_BYTES + 5, 602_112, LIMIT, 7, 0, 8192, 16384]


@pytest.mark.parametrize("piece", [1 << 22, 65536, 16384, 8192, 1000, 4, 3])
def test_frames_in_pieces_of_one_size(piece: int) -> None:
    """Whatever the pieces, the frames are the ones that were sent."""
    contents = [random.Random(size).randbytes(size) for size in SIZES if piece > 4 or size < 70_000]
    assert frames_of(b"".join(map(frame, contents)), lambda: piece) == contents


@pytest.mark.parametrize("seed", range(10))
def test_frames_in_pieces_of_any_size(seed: int) -> None:
    """The same for pieces that are all different, cuts within a length among them."""
    chance = random.Random(seed)
    contents = [chance.randbytes(chance.choice([0, 2, 50, 9000, 200_000])) for _ in range(20)]
    assert frames_of(b"".join(map(frame, contents)), lambda: chance.choice([1, 2, 3, 700, 8192, 100_000])) == contents


@pytest.mark.parametrize("size", [-1, -(2**31), LIMIT + 1, 2**31 - 1, 0x47455420, 0x16030100])
def test_impossible_lengths(size: int) -> None:
    """A length that no frame has is refused before anything is kept, the good frame before it is not."""
    decoder = FrameDecoder(LIMIT)
    decoder.feed(frame(b"good") + struct.pack("!i", size) + b"x" * 100)
    good = decoder.next_frame()
    assert good is not None
    assert good.read(10) == b"good"
    with pytest.raises(FrameError):
        decoder.next_frame()


def test_limit_is_a_size_that_passes() -> None:
    """A frame of exactly the limit is a frame."""
    assert frames_of(frame(bytes(LIMIT)), lambda: 65536) == [bytes(LIMIT)]


def test_mid_message() -> None:
    """A decoder knows whether the stream may end here."""
    decoder = FrameDecoder(LIMIT)
    middle = [decoder.in_message]
    for data in (b"\0", b"\0\0\2a", b"b", frame(bytes(500_000))[:10]):
        decoder.feed(data)
        decoder.next_frame()
        middle.append(decoder.in_message)
    assert middle == [False, True, True, False, True]


def test_released_frames_lend_their_buffer() -> None:
    """A message is read into the buffer of one that was released, and of no other; nothing of that one is in it."""
    decoder = FrameDecoder(LIMIT)

    def large(content: bytes) -> LargeFrame:
        decoder.feed(frame(content)[:100])
        assert decoder.next_frame() is None
        wanted = decoder.wanted()
        assert wanted is not None
        with wanted:
            wanted[:] = content[96:]
        decoder.filled(len(content) - 96)
        found = decoder.next_frame()
        assert isinstance(found, LargeFrame)
        return found

    first, second = large(b"1" * 500_000), large(b"2" * 500_000)
    assert first.cstringio_buf is not second.cstringio_buf
    first.release()
    third = large(b"3" * 400_000)
    assert third.cstringio_buf is first.cstringio_buf
    assert third.read(LIMIT) == b"3" * 400_000
    assert second.read(LIMIT) == b"2" * 500_000
    third.release()
    assert large(b"4" * 500_000).readAll(500_000) == b"4" * 500_000


def test_kept_buffers_are_bounded() -> None:
    """No more is kept than allowed, the buffers used last; one is not given for less than half of its size."""
    room = BufferPool(1000)
    first, second, third = (room.take(400) for _ in range(3))
    for buffer in (first, second, third):
        room.give(buffer)
    assert room.take(199).capacity == 199
    assert room.take(401).capacity == 401
    assert [room.take(400), room.take(250)] == [third, second]
    assert second.read() == bytes(250)
    assert room.take(400) not in (first, second, third)
    room.give(second)
    assert len(room.take(400).getvalue()) == 400
    room.give(room.take(1001))
    assert room.take(1001).capacity == 1001


SMALL, LARGE = b"small", bytes(range(256)) * (LARGE_BYTES // 128)
EDGE = b"e" * LARGE_BYTES


def _deep(depth: int, content: bytes) -> Tree:
    tree = Tree(0, content=content)
    for n in range(depth):
        tree = Tree(n, [Tree(-n)], tail=tree) if n % 2 else Tree(n, named={"é": tree})
    return tree


STRUCTS: dict[str, Any] = {
    "small": Parcel("label", SMALL, [SMALL], {"a": SMALL}, count=-7),
    "empty": Parcel(),
    "empty-containers": Parcel("", b"", [], {}, [], {}, set(), 0, []),
    "large-alone": Parcel(content=LARGE),
    "edge": Parcel("label", EDGE, [EDGE[1:], EDGE], count=1),
    "mixed": Parcel("é", LARGE, [SMALL, LARGE, b""], {"é": LARGE, "": SMALL}, count=2**31 - 1, late=LARGE),
    "late-field": Parcel("label", SMALL, count=3, late=LARGE),
    "list-of-large": Parcel(pieces=[LARGE] * 20),
    "long-list-with-one-large": Parcel(pieces=[SMALL] * 300 + [LARGE]),
    "large-under-number-keys": Parcel(numbered={-1: LARGE, 300: SMALL}),
    "set-of-large": Parcel(distinct={LARGE, EDGE}),
    "nested-lists": Parcel(nested=[[LARGE], [], [SMALL, EDGE]]),
    "large-map": Parcel(named={str(n): LARGE for n in range(40)}),
    "trees": Parcel("trees", trees=[Tree(1), _deep(3, LARGE), Tree(2, content=EDGE)]),
    "deep-large": _deep(40, LARGE),
    "deep-small": _deep(40, SMALL),
    "no-binary-at-all": Insanity({Number.FIVE: 5}, [Things("text", 1, 2, 3)]),
}


@pytest.mark.parametrize("name", sorted(STRUCTS))
@pytest.mark.parametrize("protocol", ["binary", "compact"])
def test_encoding_is_apaches(protocol: str, name: str) -> None:
    """What is encoded in two parts, by whatever route, Apache's decoders in C and in Python read as the same struct."""
    value = STRUCTS[name]
    out = Outgoing()
    value.write(make_protocol(protocol, out, LIMIT))
    encoded = b"".join(out.take())
    for reader in (each for each in APACHE if each.startswith(protocol)):
        back = type(value)()
        if reader.endswith("python") and name == "no-binary-at-all":
            continue  # Apache's Python decoder makes enums of numbers; they are compared as numbers by C's
        back.read(APACHE[reader](TMemoryBuffer(encoded)))
        assert back == value, reader


@pytest.mark.parametrize("protocol", ["binary", "compact"])
def test_large_content_is_not_copied(protocol: str) -> None:
    """Large fields go out as the caller's own bytes, wherever they are; small messages in one segment."""
    out = Outgoing()
    values: list[Any] = [Parcel("label", LARGE), Parcel(pieces=[SMALL, LARGE]), Parcel(named={"a": LARGE})]
    for value in [*values, _deep(4, LARGE)]:
        value.write(make_protocol(protocol, out, LIMIT))
        assert any(part is LARGE for part in out.take())
    small = STRUCTS["small"]
    small.write(make_protocol(protocol, out, LIMIT))
    assert len(out.take()) == 1


def decoded(protocol: str, value: Any) -> Any:
    """A struct encoded by Apache and decoded by us."""
    buffer = TMemoryBuffer()
    value.write(APACHE[f"{protocol}-c"](buffer))
    back = type(value)()
    back.read(make_protocol(protocol, TMemoryBuffer(buffer.getvalue()), LIMIT))
    return back


@pytest.mark.parametrize("protocol", ["binary", "compact"])
@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_decoding(protocol: str, name: str) -> None:
    """Whole structs pass the look for required fields unchanged."""
    assert decoded(protocol, STRUCTS[name]) == STRUCTS[name]


LACKING: dict[str, Any] = {
    "right": Pair(1),
    "left": Pair(right=1),
    "value": Tree(),
    "value in a list": Tree(1, [Tree(2), Tree()]),
    "value in a struct": Tree(1, tail=Tree()),
    "value in a map": Tree(1, named={"a": Tree(1), "b": Tree()}),
    "value in a list of another struct": Parcel(trees=[_deep(3, SMALL), Tree()]),
    "value far below": Tree(1, [Tree(2, named={"a": Tree(3, tail=Tree(4, [Tree(tail=Tree(5))]))})]),
}


@pytest.mark.parametrize("protocol", ["binary", "compact"])
@pytest.mark.parametrize("what", sorted(LACKING))
def test_required_fields(protocol: str, what: str) -> None:
    """A required field that is missing, at any depth, is refused by its name."""
    with pytest.raises(TProtocolException, match=what.split()[0]):
        decoded(protocol, LACKING[what])


def test_false_is_not_missing() -> None:
    """Zero is a value of a required field."""
    assert decoded("binary", Pair(0, 0)) == Pair(0, 0)

"""Calls that take the short way: each answer is what the whole way gives, for whatever comes."""

from __future__ import annotations

import doctest
import gc
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from numpy_models import Counter, NumpySession, handler_of, one_function, signature
from thriftserve.batching import Batcher
from thriftserve.models.registry import Registry, Servable
from thriftserve.models.session import Array, Arrays
from thriftserve.rpc import BadMessage, CachedCall, Exchange, PendingCall, template_cache
from thriftserve.rpc.template_cache import (
    LEARNED_AT_ONCE,
    LEARNED_EVERY,
    MAX_KINDS,
    MAX_MESSAGE_BYTES,
    MAX_REPLIES,
    TemplateCache,
)
from thriftserve.servers.batching.ipc import INLINE, Arena, Replies, SharedFrames, pack_batch, reply_reader
from thriftserve.servers.batching.worker import PullSize, SlotLoop
from thriftserve.service import PredictProcessor
from thriftserve.settings import HostSettings
from thriftserve_client.codec import to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import DataType, ErrorCode, ModelSpec, PredictError, PredictRequest

MAX_BYTES = 1 << 20


def _half(inputs: Arrays) -> dict[str, Array]:
    if np.any(inputs["x"] == 666):
        raise ValueError("the model does not like this number")
    y = (inputs["x"] / 2 + inputs["k"]).astype(np.float32)
    return {"y": y, "total": y.sum(dtype=np.float32)}


class Backwards(NumpySession):
    """Gives the outputs of one signature in another order than they were asked for."""

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, Array]:
        answer = super().run(signature, inputs, outputs)
        return dict(reversed(answer.items())) if signature == "backwards" else answer


def served() -> NumpySession:
    """Signatures of every sort that the short way has to tell apart."""
    numbers = {"x": (DataType.FLOAT, (None, 3)), "k": (DataType.INT64, ())}
    some = {"x": (DataType.INT64, (None,))}
    return Backwards(
        {
            "serving_default": (
                signature(numbers, {"y": (DataType.FLOAT, (None, 3)), "total": (DataType.FLOAT, ())}),
                _half,
            ),
            "truth": (
                signature({"b": (DataType.BOOL, (None,))}, {"b": (DataType.BOOL, (None,))}, "truth"),
                lambda inputs: {"b": ~inputs["b"]},
            ),
            "positive": (
                signature(some, {"p": (DataType.INT64, (None,)), "is": (DataType.BOOL, (None,))}, "positive"),
                lambda inputs: {"p": inputs["x"][inputs["x"] > 0], "is": inputs["x"] > 0},
            ),
            "text": (
                signature(some, {"t": (DataType.STRING, (None,))}, "text"),
                lambda inputs: {"t": np.array([str(each).encode() for each in inputs["x"]], object)},
            ),
            "backwards": (
                signature(some, {"a": (DataType.INT64, (None,)), "b": (DataType.INT64, (None,))}, "backwards"),
                lambda inputs: {"a": inputs["x"], "b": -inputs["x"]},
            ),
            "foreign": (
                signature(some, {"x": (DataType.INT64, (None,))}, "foreign"),
                lambda inputs: {"x": inputs["x"].astype(">i8")},
            ),
        }
    )


class Slot:
    """What a worker's slot does with messages: one that knows the short way, or one that doesn't."""

    def __init__(self, registry: Registry, *, short: bool) -> None:
        self.counter = Counter()
        processor = PredictProcessor(handler_of(registry, self.counter, batcher=Batcher()))
        exchange = Exchange(processor, "binary", MAX_BYTES)
        self.batcher = processor.batcher
        self.cache = TemplateCache(exchange, processor)
        self.begin: Callable[[bytes, float], Any] = self.cache.begin if short else exchange.begin
        #: Calls that were begun the short way.
        self.short = 0

    def ask(self, message: bytes, age_s: float = 0.0) -> Any:
        """The answer's (name, kind, number, body), its timing checked and then left out; "bad" where there is none."""
        try:
            call = self.begin(message, time.monotonic() - age_s)
        except BadMessage:
            return "bad"
        if isinstance(call, list):
            return decoded(b"".join(call))
        assert isinstance(call, CachedCall | PendingCall)
        self.short += isinstance(call, CachedCall)
        result = None
        while (job := call.step(result)) is not None:
            (result,) = self.batcher.run_all([job])
        data = b"".join(call.parts)
        assert len(data) == call.size
        return decoded(data)


def decoded(data: bytes) -> Any:
    """A reply, as far as it does not depend on when it was made."""
    protocol = TBinaryProtocolAccelerated(TMemoryBuffer(data))
    name, kind, number = protocol.readMessageBegin()
    body = TApplicationException() if kind == TMessageType.EXCEPTION else getattr(Predict, f"{name}_result")()
    body.read(protocol)
    assert protocol.trans.cstringio_buf.read() == b""
    success: Any = getattr(body, "success", None)
    if (timing := getattr(success, "timing", None)) is not None:
        assert timing.queue_us >= 0
        assert timing.compute_us >= 0
        success.timing = (timing.batch_size, timing.worker_pid)
    return name, kind, number, body


def message(inputs: Mapping[str, Any], number: int = 1, *, spec: ModelSpec | None = None, **fields: Any) -> bytes:
    """A call of `predict`."""
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocolAccelerated(buffer)
    protocol.writeMessageBegin("predict", TMessageType.CALL, number)
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    Predict.predict_args(PredictRequest(spec or ModelSpec("m"), tensors, **fields)).write(protocol)
    protocol.writeMessageEnd()
    data: bytes = buffer.getvalue()
    return data


@pytest.fixture
def registry() -> Registry:
    """One model, "m", in version 3."""
    return Registry([Servable("m", 3, served())])


@pytest.fixture
def ways(registry: Registry) -> tuple[Slot, Slot]:
    """The short way, and the whole way."""
    return Slot(registry, short=True), Slot(registry, short=False)


def numbers(seed: int, rows: int = 2) -> dict[str, Any]:
    """Inputs of `serving_default`."""
    return {"x": np.full((rows, 3), seed, np.float32), "k": np.int64(seed * 7)}


def of(signature_name: str) -> ModelSpec:
    """A signature of the model."""
    return ModelSpec("m", signature_name=signature_name)


SHORT: dict[str, Callable[[int], bytes]] = {
    "plain": lambda n: message(numbers(n), n),
    "other order": lambda n: message(dict(reversed(numbers(n).items())), n),
    "number": lambda n: message(numbers(n), -n),
    "filtered": lambda n: message(numbers(n), n, output_filter=["total"]),
    "filtered, other order": lambda n: message(numbers(n), n, output_filter=["total", "y"]),
    "time-outs": lambda n: message(numbers(n), n, timeout_ms=60_000 + n),
    "no time-out": lambda n: message(numbers(n), n, timeout_ms=0),
    "named": lambda n: message(numbers(n), n, request_id=f"call {n:04}"),
    "everything": lambda n: message(
        numbers(n), n, spec=ModelSpec("m", 3, None, "serving_default"),
        output_filter=["y"], timeout_ms=5000 + n, request_id=f"call {n:04}",
    ),
    "no rows": lambda n: message(numbers(n, 0), n),
    "answers of many sizes": lambda n: message({"x": np.arange(6) - n % 4}, n, spec=of("positive")),
}  # fmt: skip
WHOLE: dict[str, Callable[[int], bytes]] = {
    "truth values": lambda n: message({"b": np.array([n % 2 == 0, True])}, n, spec=of("truth")),
    "foreign letters": lambda n: message(numbers(n), n, request_id=f"Aufruf ä {n:04}"),
    "a wrong shape": lambda n: message({"x": np.zeros((2, 4), np.float32), "k": np.int64(n)}, n),
    "a wrong dtype": lambda n: message({"x": np.zeros((2, 3), np.float64), "k": np.int64(n)}, n),
    "an unknown input": lambda n: message({**numbers(n), "z": 1.0}, n),
    "an unknown output": lambda n: message(numbers(n), n, output_filter=["q"]),
    "an unknown model": lambda n: message(numbers(n), n, spec=ModelSpec("other")),
    "a negative time-out": lambda n: message(numbers(n), n, timeout_ms=-n),
    "large": lambda n: message(numbers(n, MAX_MESSAGE_BYTES), n),
}


def test_the_examples() -> None:
    """The module's own examples are true."""
    found = doctest.testmod(template_cache)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("make", SHORT.values(), ids=SHORT)
def test_the_next_ones_take_the_short_way(ways: tuple[Slot, Slot], make: Callable[[int], bytes]) -> None:
    """All but the first, and they are answered and counted as on the whole way."""
    short, whole = ways
    for number in range(1, 40):
        asked = make(number)
        assert short.ask(asked) == whole.ask(asked)
    assert short.short == 38
    assert len(short.counter.ran) == len(whole.counter.ran) == 39
    assert [each[2] for each in short.counter.ran] == [each[2] for each in whole.counter.ran]
    assert short.counter.errors == 0


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_what_must_be_looked_at_goes_the_whole_way(ways: tuple[Slot, Slot], make: Callable[[int], bytes]) -> None:
    """Whatever is wrong, or is more than its bytes, is answered as ever."""
    short, whole = ways
    for number in range(1, 20):
        asked = make(number)
        assert short.ask(asked) == whole.ask(asked)
    assert short.short == 0
    assert short.counter.errors == whole.counter.errors


@pytest.mark.parametrize("name", ["text", "backwards", "foreign"])
def test_answers_that_are_not_only_bytes(ways: tuple[Slot, Slot], name: str) -> None:
    """Outputs of text, in another order than the signature's or of another byte order are encoded the whole way."""
    short, whole = ways
    for number in (0, 0, 0, *range(1, 20)):  # of zeros every order is the same
        asked = message({"x": np.array([number, 7 * number])}, number, spec=of(name))
        assert short.ask(asked) == whole.ask(asked)
    assert short.short == 21


def test_a_known_call_with_a_wrong_time_out(ways: tuple[Slot, Slot]) -> None:
    """What varies may be wrong, too."""
    short, whole = ways
    for timeout_ms in (5000, 6000, -5000, 0, 7000):
        asked = message(numbers(1), timeout_ms=timeout_ms)
        assert short.ask(asked) == whole.ask(asked)
    assert short.short == 3
    assert short.counter.errors == 1


def test_a_field_of_another_type(ways: tuple[Slot, Slot]) -> None:
    """The decoder steps over it, so it says nothing."""
    short, whole = ways
    plain = message(numbers(1), timeout_ms=1)
    for timeout_ms in (9000, 9000, 1, 1):
        asked = plain.replace(b"\x08\x00\x04\x00\x00\x00\x01", b"\x0a\x00\x04" + timeout_ms.to_bytes(8, "big"))
        assert short.ask(asked, age_s=1) == whole.ask(asked, age_s=1)
    assert short.short == 0


def test_kinds_side_by_side(ways: tuple[Slot, Slot]) -> None:
    """Calls of many kinds, those of one size among them, each get their own answer."""
    short, whole = ways
    dice = random.Random(5)
    makes = [*SHORT.values(), *WHOLE.values()]
    for _ in range(1500):
        asked = dice.choice(makes)(dice.randint(1, 99))
        assert short.ask(asked) == whole.ask(asked)
    assert short.short > 500


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_any_byte_that_is_another(registry: Registry, name: str) -> None:
    """Whichever byte of a known call is changed, left out or put in, the answer is that of the whole way."""
    known = SHORT[name](5)
    short, whole = Slot(registry, short=True), Slot(registry, short=False)
    dice = random.Random(7)
    for _ in range(3):
        assert short.ask(known) == whole.ask(known)
    for at in range(len(known)):
        values = {0, 1, 0xFF, known[at] ^ 1, known[at] ^ 0x80, dice.randrange(256)}
        for changed in [known[:at], known[:at] + known[at + 1 :], known[:at] + b"\0" + known[at:]] + [
            known[:at] + bytes([value]) + known[at + 1 :] for value in values
        ]:
            assert told(short.ask(changed)) == told(whole.ask(changed)), (at, changed)
    before = short.short
    assert short.ask(known) == whole.ask(known)
    assert short.short == before + 1


def told(answer: Any) -> str:
    """An answer as text: a changed number may be no number, which is not even itself."""
    return repr(answer)


def test_a_field_that_is_sent_twice(ways: tuple[Slot, Slot]) -> None:
    """The decoder takes the last one; the short way keeps out of it."""
    short, whole = ways

    def twice(first: int, last: int) -> bytes:
        field = b"\x08\x00\x04"
        plain = message(numbers(1), timeout_ms=last)
        at = plain.index(field)
        return plain[:at] + field + first.to_bytes(4, "big", signed=True) + plain[at:]

    for first in (5000, 5000, -1, 5000):
        asked = twice(first, 5000)
        assert short.ask(asked) == whole.ask(asked)
    assert short.short == 0


def test_a_run_that_fails(ways: tuple[Slot, Slot]) -> None:
    """Its error is told, counted once, and the next one is answered."""
    short, whole = ways
    for number in (1, 2, 666, 3):
        asked = message(numbers(number), number, request_id="abc")
        assert short.ask(asked) == whole.ask(asked)
    assert short.short == 3
    assert short.counter.errors == whole.counter.errors == 1
    assert len(short.counter.ran) == 3


def test_time_is_over(ways: tuple[Slot, Slot]) -> None:
    """A request that comes too late is not run, and one that is late when its turn comes is not either."""
    short, _ = ways
    asked = message(numbers(1), timeout_ms=1000)
    for _ in range(2):
        short.ask(asked)
    for late in (short.ask(asked, age_s=2.0), _late_in_the_queue(short, message(numbers(2), timeout_ms=1))):
        error = late[3].error
        assert isinstance(error, PredictError)
        assert error.code == ErrorCode.DEADLINE_EXCEEDED
    assert len(short.counter.ran) == 2
    assert short.counter.errors == 2


def _late_in_the_queue(slot: Slot, asked: bytes) -> Any:
    call = slot.begin(asked, time.monotonic() + 0.05)
    assert isinstance(call, CachedCall)
    job = call.step(None)
    time.sleep(0.1)
    (failed,) = slot.batcher.run_all([job])
    assert isinstance(failed, Exception)
    assert call.step(failed) is None
    return decoded(b"".join(call.parts))


def test_another_version(registry: Registry, ways: tuple[Slot, Slot]) -> None:
    """What answers is what the registry says at that moment; a version that has gone is not kept in memory."""
    short, whole = ways
    plain, old = (message(numbers(4), spec=ModelSpec("m", version)) for version in (None, 3))
    for asked in (plain, plain, old, old):
        assert short.ask(asked) == whole.ask(asked)

    def tenfold(inputs: Arrays) -> dict[str, Array]:
        return {"y": inputs["x"] * 10, "total": inputs["k"].astype(np.float32)}

    newer = one_function(served().signatures["serving_default"], tenfold)
    gone = weakref.ref(registry.replace([Servable("m", 4, newer)])[0])
    for asked in (plain, plain, old, old, plain):
        answer = short.ask(asked)
        assert answer == whole.ask(asked)
        assert (answer[3].error is None) == (asked is plain)
    assert short.ask(plain)[3].success.model_spec.version == 4
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("left", [[], [Servable("m", 4, served())]])
def test_a_version_that_goes_while_a_call_begins(registry: Registry, left: list[Servable]) -> None:
    """The call is answered by what it began with; nothing is learned of it."""
    short = Slot(registry, short=True)
    asked = message(numbers(1))
    call: Any = short.begin(asked, time.monotonic())
    learn = call.on_first_task

    def gone(begun: PendingCall, job: Any) -> None:
        registry.replace(left)
        learn(begun, job)

    call.on_first_task = gone
    (done,) = short.batcher.run_all([call.step(None)])
    assert call.step(done) is None
    assert decoded(b"".join(call.parts))[3].success.model_spec.version == 3
    assert len(short.cache) == 0


def test_answers_without_end(ways: tuple[Slot, Slot]) -> None:
    """Of one kind of call only so many layouts of the answer are kept; the others are encoded, and right."""
    short, whole = ways
    for number in [*range(40)] * 2:
        asked = message({"x": np.arange(40) - number}, number, spec=of("positive"))
        assert short.ask(asked) == whole.ask(asked)
    assert short.cache.reply_templates == [MAX_REPLIES]


def test_kinds_without_end(registry: Registry) -> None:
    """What is kept has a limit; and a kind that comes for good is learned all the same."""
    short = Slot(registry, short=True)
    for kind in range(LEARNED_AT_ONCE + (MAX_KINDS + 10) * LEARNED_EVERY):
        short.ask(message(numbers(1, kind % 100), request_id="x" * (kind // 100)))
    assert short.short == 0
    assert 0 < len(short.cache) <= MAX_KINDS
    assert MAX_KINDS * MAX_MESSAGE_BYTES * (1 + MAX_REPLIES) <= 2.5 * 2**20
    for number in range(2 * LEARNED_EVERY):
        short.ask(message(numbers(number), request_id="for good", timeout_ms=9000))
    assert short.short >= LEARNED_EVERY


def answered_by_a_slot(registry: Registry, messages: Sequence[bytes], **settings: Any) -> tuple[list[Any], int]:
    """The answers of a worker's slot to messages, in two batches; and the kinds of call that it has learned."""
    counters = SimpleNamespace(begin_requests=lambda count: None, end_requests=lambda count: None)
    processor = PredictProcessor(handler_of(registry, Counter(), batcher=Batcher()))
    server: Any = SimpleNamespace(
        processor=processor, settings=HostSettings(**settings), context=SimpleNamespace(counters=counters)
    )
    arena = Arena(1 << 20)
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(SharedFrames(arena.fd)) as frames:
        loop = SlotLoop(theirs, frames, server, processor, PullSize(), slot=0, parked=False)
        thread = threading.Thread(target=loop.serve, args=(lambda loop, seconds: None,))
        thread.start()
        reader, answers = reply_reader(), []
        for half in (messages[::2], messages[1::2]):
            batch = [(len(each).to_bytes(4, "big") + each, INLINE, len(each), time.monotonic()) for each in half]
            ours.sendall(b"".join(pack_batch(batch)))
            replies: list[Replies] = []
            while not replies:
                replies = reader.feed(ours.recv(1 << 20))
            (message,) = replies
            answers += [decoded(bytes(data)[4:]) for _, _, data in sorted(message.items, key=lambda item: item[0])]
        ours.shutdown(socket.SHUT_WR)
        thread.join()
    os.close(arena.fd)
    return answers, len(loop.template_cache) if loop.template_cache is not None else 0


def test_the_switch(registry: Registry) -> None:
    """A worker's slot answers right and wrong calls the same without the cache, and then it learns nothing."""
    makes = [make for name, make in (SHORT | WHOLE).items() if name != "large"]
    messages = [make(number) for make in makes for number in range(1, 9)]
    cached, kinds = answered_by_a_slot(registry, messages)
    decoded_each, none = answered_by_a_slot(registry, messages, template_cache=False)
    assert cached == decoded_each
    assert kinds > 3
    assert none == 0

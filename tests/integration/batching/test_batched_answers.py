"""What a front answers by itself, and what it reads of a message without decoding it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from hosting import Wire
from thriftserve.app import predict_front_policy
from thriftserve.errors import Code
from thriftserve.rpc.scan import find_i32
from thriftserve.servers.batching.local_replies import MAX_CACHED, LocalReplies
from thriftserve.servers.batching.request_queue import Request
from thriftserve.service import front
from thriftserve_client.codec import to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import ClassifyRequest, DetectRequest, ModelSpec, PredictRequest

SPEC = ModelSpec("m", version=3, signature_name="s")
TENSORS = {
    "x": to_tensor(np.arange(30_000, dtype=np.float32)),
    "words": to_tensor(np.array([b"a", b"bc"], object)),
    "k": to_tensor(np.int64(3)),
}
REQUESTS: dict[str, list[Any]] = {
    "predict": [
        PredictRequest(SPEC, TENSORS, ["y"], request_id="me"),
        PredictRequest(SPEC, {}),
        PredictRequest(SPEC, {"k": TENSORS["k"]}),
    ],
    "classify": [ClassifyRequest(SPEC, [b"image", b""], 3), ClassifyRequest(SPEC, [])],
    "detect": [DetectRequest(SPEC, [b"image"] * 5, 0.5, 9), DetectRequest(SPEC, [])],
}
METHODS = [name for name in dir(Predict.Iface) if not name.startswith("_")]


def framed(method: str, *args: Any, protocol: str = "binary") -> bytes:
    """A call, with its length."""
    return Wire(protocol=protocol).message(lambda client: getattr(client, f"send_{method}")(*args), Predict)


def sample(method: str) -> bytes:
    """A call of any method."""
    if method in REQUESTS:
        return framed(method, REQUESTS[method][0])
    return framed(method, *([SPEC] if method.startswith("getModel") else []))


@pytest.mark.parametrize("method", list(REQUESTS))
@pytest.mark.parametrize("timeout_ms", [None, 0, 1, 250, -7, 2**31 - 1])
def test_timeouts_are_found(method: str, timeout_ms: int | None) -> None:
    """The time-out of each kind of request is found where there is one, in bytes as in a view of shared memory."""
    for request in REQUESTS[method]:
        request.timeout_ms = timeout_ms
        message = framed(method, request)[4:]
        assert find_i32(message, front.TIMEOUT_PATHS[method]) == timeout_ms
        assert find_i32(memoryview(bytearray(message)), front.TIMEOUT_PATHS[method]) == timeout_ms
        request.timeout_ms = None


def test_garbage_is_walked_through() -> None:
    """Nothing that a client may send makes the search raise: cut off, changed, made up."""
    dice = random.Random(2)
    messages = [framed(method, request)[4:][:3000] for method, all_of in REQUESTS.items() for request in all_of]
    for _ in range(4000):
        message = bytearray(dice.choice(messages))
        for _ in range(dice.randint(0, 4)):
            message[dice.randrange(len(message))] = dice.choice([0, 8, 11, 12, 13, 14, 15, 127, 255])
        cut = bytes(message[: dice.randint(0, len(message))])
        found = find_i32(cut, dice.choice(list(front.TIMEOUT_PATHS.values())))
        assert found is None or -(2**31) <= found < 2**31
    deep = b"\x80\x01\x00\x01\0\0\0\1p\0\0\0\0" + b"\x0c\0\1" + b"\x0c\0\2" * 5000
    assert find_i32(deep, (1, 4)) is None


def test_a_million_strings_are_not_counted() -> None:
    """A front gives up on a message of very many parts, whose worker then looks itself: others wait for the front."""
    tensor = to_tensor(np.full(300_000, b"a", object))
    message = framed("predict", PredictRequest(SPEC, {"x": tensor}, timeout_ms=5))[4:]
    assert find_i32(message, (1, 4)) is None


def desk_answers(protocol: str = "binary") -> LocalReplies:
    """Predict's, without a processor."""
    return LocalReplies(predict_front_policy(), None, protocol, 1 << 20)


@pytest.mark.parametrize("method", METHODS)
def test_refusals_made_once(method: str) -> None:
    """An answer that was kept, with another number put in, is byte for byte the one made for that request alone."""
    kept = desk_answers()
    at = 12 + len(method)
    for seqid in (0, 1, 77, 2**31 - 1, -1):
        frame = sample(method)
        frame = frame[:at] + seqid.to_bytes(4, "big", signed=True) + frame[at + 4 :]
        request = Request(None, frame, None, len(frame) - 4, 0.0)  # type: ignore[arg-type]  # nobody waits for it
        for code in (Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.DEADLINE_EXCEEDED):
            patched = kept.fault(request, code, "too much")
            made = desk_answers().encode_fault(frame, code, "too much")
            assert patched == made
            assert patched is not None and b"too much" in patched
            assert patched[at : at + 4] == frame[at : at + 4]


@pytest.mark.parametrize("method", [*METHODS, "unknown"])
def test_the_cheapest_refusals(method: str) -> None:
    """Without a look at the request they are what a look would have given; but for what a front answers itself."""
    ours = LocalReplies(predict_front_policy(), Predict.Processor(None), "binary", 1 << 20)
    refusals = ours.refusals(Code.RESOURCE_EXHAUSTED, "full")
    frame = sample("ping").replace(b"ping", b"pong") if method == "unknown" else sample(method)
    at = 12 + frame[11]
    for seqid in (0, 5, 2**31 - 1, -1):
        frame = frame[:at] + seqid.to_bytes(4, "big", signed=True) + frame[at + 4 :]
        expected = None if ours.is_local(frame) else ours.encode_fault(frame, Code.RESOURCE_EXHAUSTED, "full")
        assert refusals.of(frame) == expected
    assert refusals.of(frame[: at + 3]) is None
    assert desk_answers("compact").refusals(Code.RESOURCE_EXHAUSTED, "full").of(frame) is None


def test_the_cheapest_refusals_of_garbage() -> None:
    """Made-up names do not pile up, and what is no call is left to those who look."""
    refusals = desk_answers().refusals(Code.RESOURCE_EXHAUSTED, "full")
    for number in range(3 * MAX_CACHED):
        assert b"full" in (refusals.of(sample("ping").replace(b"ping", b"%04d" % number)) or b"")
    assert refusals.cached <= MAX_CACHED
    oneway = bytearray(sample("ping"))
    oneway[7] = 4
    for garbage in (b"", b"\0", b"GET / HTTP/1.1\r\n", b"\x80\x01\x00\x01\0\0\0\xff", bytes(40), bytes(oneway)[4:]):
        assert refusals.of(len(garbage).to_bytes(4, "big") + garbage) is None


def test_refusals_of_the_unknown() -> None:
    """A method that nobody has is refused, too; what is no message ends the connection; a oneway call gets nothing."""
    ours = desk_answers()

    def fault(frame: bytes) -> bytes | None:
        return ours.fault(Request(None, frame, None, len(frame) - 4, 0.0), Code.RESOURCE_EXHAUSTED, "full")  # type: ignore[arg-type]

    unknown = sample("ping").replace(b"ping", b"pong")
    assert b"full" in (fault(unknown) or b"")
    oneway = bytearray(sample("ping"))
    oneway[7] = 4
    assert fault(bytes(oneway)) == b""
    for garbage in (b"", b"\0", b"GET / HTTP/1.1\r\n", b"\x80\x01\x00\x01", b"\x80\x01\x00\x01\0\0\0\xff", bytes(40)):
        answer = fault(len(garbage).to_bytes(4, "big") + garbage)
        assert answer is None or answer == b"" or b"full" in answer
    long = Wire().message(lambda client: client.send_ping(), Predict)
    long = long[:8] + (300).to_bytes(4, "big") + b"n" * 300 + long[16:]
    assert b"full" in (fault((len(long) - 4).to_bytes(4, "big") + long[4:]) or b"")


@pytest.mark.parametrize("protocol", ["compact", "header"])
def test_refusals_in_other_protocols(protocol: str) -> None:
    """Refusals of the other protocols carry the reason and the request's own number."""
    frame = framed("ping", protocol="compact")
    request = Request(None, frame, None, len(frame) - 4, 0.0)  # type: ignore[arg-type]
    assert b"full" in (desk_answers(protocol).fault(request, Code.RESOURCE_EXHAUSTED, "full") or b"")


def test_no_more_is_kept_than_needed() -> None:
    """Reasons that differ each time do not pile up."""
    ours = desk_answers()
    frame = sample("predict")
    request = Request(None, frame, None, len(frame) - 4, 0.0)  # type: ignore[arg-type]
    for number in range(3 * MAX_CACHED):
        ours.fault(request, Code.DEADLINE_EXCEEDED, f"waited {number} ms")
    assert ours.cached <= MAX_CACHED

"""TBatchingServer with TensorFlow behind it: sizes, mixed and wrong requests, kills, reloads, drains, orphans."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from thrift.Thrift import TApplicationException

from batched_load import HERE, Answer, Loops, Pipe, frame, fronts, numbered, right, workers
from batching_models import saved_model
from encoded_images import plain
from hosting import Wire, eventually
from served import Served
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process
from thriftserve_client.codec import from_tensor, to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import (
    ClassifyRequest,
    ClassifyResponse,
    DataType,
    ErrorCode,
    ModelSpec,
    PredictError,
    PredictRequest,
    Tensor,
)

FRONT_BYTES = 60_000_000
HUGE_FLOATS = 4_800_000  # 19 MB
KILLS = 3
ONE_IN = 20
X = np.ones((1, 3), np.float32)
INVALID = int(ErrorCode.INVALID_ARGUMENT)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A SavedModel, and two Python models beside it."""
    models = (
        f"m={saved_model().parent}",
        "other=python:batching_models:Stacked",
        "image=python:batched_models:Brightness",
    )
    flags = [flag for model in models for flag in ("--model", model)]
    with Served(
        *flags, "--server-type", "TBatchingServer", "--workers", "2", "--max-queued", "5000", PYTHONPATH=HERE
    ) as made:
        yield made


def test_a_front_is_small(server: Served) -> None:
    """The front holds no TensorFlow, in its memory as in its libraries; tensors of 19 MB pass it all the same."""
    (front,) = fronts(server)
    assert front.memory_info().rss < FRONT_BYTES
    with server.client() as client:
        x = np.arange(HUGE_FLOATS, dtype=np.float32).reshape(-1, 3)
        for _ in range(3):
            assert (client.predict("m", {"x": x})["y"] == x * 2 + 1).all()
    assert "tensorflow" not in "".join(each.path for each in front.memory_maps())
    info = front.memory_info()
    print(f"\nfront: {info.rss / 1e6:.0f} MB, {info.shared / 1e6:.0f} of them shared")
    assert info.rss - info.shared < FRONT_BYTES


@dataclass(frozen=True)
class Call:
    """A request, and what its answer must be: the code of its error, None where it is good."""

    frame: bytes
    code: int | None
    number: int = 0
    model: str = "m"

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether an answer is this request's own."""
        if self.code == 0:
            return isinstance(answer, TApplicationException)
        if self.code is not None:
            return isinstance(answer, PredictError) and answer.code == self.code
        if self.model == "image":
            return isinstance(answer, ClassifyResponse) and answer.results[0].classes[0].label == "bright"
        if self.model == "other":
            return bool((from_tensor(answer.outputs["y"]) == self.number + 1).all())
        return right(self.number, answer)


def message(number: int, request: PredictRequest | ClassifyRequest) -> bytes:
    """A framed call."""
    method = "send_predict" if isinstance(request, PredictRequest) else "send_classify"
    return numbered(Wire().message(lambda client: getattr(client, method)(request), Predict), number)


def good(number: int) -> Call:
    """A request of one of three models."""
    if number % 3 == 0:
        return Call(frame(number), None, number)
    if number % 3 == 1:
        return Call(frame(number, {"x": np.full((1, 2), number, np.float32)}, model="other"), None, number, "other")
    images = [plain(colour=(255, 255, 255))]
    return Call(message(number, ClassifyRequest(ModelSpec("image"), images)), None, number, "image")


def wrong(number: int, way: int) -> Call:
    """A request that is wrong in one of eleven ways."""
    whole = frame(number, {"x": X})
    cut = len(whole) - 30
    short = Tensor(DataType.FLOAT, [1, 3], b"1234")
    ways = (
        (frame(number, {"x": X}, model="nobody"), int(ErrorCode.NOT_FOUND)),
        (frame(number, {"x": X.astype(np.float64)}), INVALID),
        (frame(number, {"x": X.reshape(3)}), INVALID),
        (message(number, PredictRequest(ModelSpec("m"), {})), INVALID),
        (frame(number, {"x": X, "z": X}), INVALID),
        (message(number, PredictRequest(ModelSpec("m"), {"x": short})), INVALID),
        (frame(number, {"x": X}, timeout_ms=-1), INVALID),
        (
            message(number, PredictRequest(ModelSpec("m", signature_name="none"), {"x": to_tensor(X)})),
            int(ErrorCode.NOT_FOUND),
        ),
        (message(number, ClassifyRequest(ModelSpec("image"), [b"no image"])), INVALID),
        (cut.to_bytes(4, "big") + whole[4 : 4 + cut], 0),
        (frame(number, {"x": X * np.nan}), INVALID),  # the model's own graph refuses it, in the middle of a run
    )
    return Call(*ways[way % len(ways)])


def test_wrong_requests_among_good_ones(server: Served) -> None:
    """Of three models in the same batches, one request in twenty is wrong: each gets its own answer, in order."""
    ways = random.Random(4)
    failures: list[tuple[int, Answer]] = []
    sizes: set[int] = set()

    def work(first: int) -> None:
        numbers = range(first * 1000, first * 1000 + 120)
        calls = [wrong(one, ways.randrange(11)) if ways.randrange(ONE_IN) == 0 else good(one) for one in numbers]
        with Pipe(server) as pipe:
            pipe.send(*(call.frame for call in calls))
            for number, call, (answered, answer) in zip(numbers, calls, pipe.answers(len(calls)), strict=True):
                if number != answered or not call.is_answered_by(answer):
                    failures.append((number, answer))
                timing = getattr(answer, "timing", None)
                if timing is not None:
                    sizes.add(timing.batch_size)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert max(sizes) > 1
    with Pipe(server) as pipe:  # each way by itself
        for way in range(11):
            call = wrong(way, way)
            pipe.send(call.frame)
            ((_, answer),) = pipe.answers(1)
            assert call.is_answered_by(answer), (way, answer)


def test_killed_and_reloaded_under_load(server: Served) -> None:
    """Workers killed, then all replaced by SIGHUP, while 16 clients call: nothing fails, nothing is mixed up."""
    with Loops(server, 16) as loops:
        for _ in range(KILLS):
            loops.go_on(300)
            victim = workers(server)[0]
            signal_process(victim, signal.SIGKILL)
            eventually(lambda gone=victim: gone not in workers(server), "its end")  # type: ignore[misc]
        eventually(lambda: len(workers(server)) == 2, "two workers")
        before = set(workers(server))
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not before & set(workers(server)), "a new generation")
        loops.go_on(300)
    assert loops.failures == []
    assert max(loops.sizes) > 1


def test_drain_under_load(server: Served) -> None:
    """SIGTERM while clients send many requests ahead: all that it took is answered, in order, and it ends with 0."""
    with Pipe(server) as pipe:
        pipe.send(*(frame(number) for number in range(200)))
        got = [next(pipe.answers(1))]
        server.process.send_signal(signal.SIGTERM)
        got += pipe.answers(199)
        assert [number for number, _ in got] == list(range(200))
        assert all(right(number, answer) for number, answer in got)
    assert server.process.wait(30) == ExitCode.OK
    assert "Traceback" not in server.log(), server.log()


def test_nobody_outlives_the_parent() -> None:
    """After kill -9 of the parent no front, no fork server and no worker in mid-request is left."""
    model = ("--model", f"m={saved_model().parent}", "--server-type", "TBatchingServer", "--workers", "2")
    with Served(*model) as server, Loops(server, 4) as loops:
        loops.go_on(20)
        tree = psutil.Process(server.pid).children(recursive=True)
        assert len(tree) >= 4  # front, fork server, workers
        signal_process(server.pid, signal.SIGKILL)
        eventually(lambda: not any(each.is_running() and each.status() != "zombie" for each in tree), "their end")
        loops.join()

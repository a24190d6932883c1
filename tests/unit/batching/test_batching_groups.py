"""Jobs in hand together: what shares a run, what doesn't, and that each gets its own answer."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest

from batching_models import answered, job, rows_of, runs, watched
from thriftserve.batching import Batcher, Task, TaskResult
from thriftserve.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from thriftserve.models.registry import Servable

ONE, TWO = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)


def words(*texts: str) -> dict[str, Any]:
    return {"words": np.array([[text.encode() for text in texts]], object)}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ([("serving_default", rows_of(0)), ("serving_default", rows_of(9))], [2]),
        ([("serving_default", rows_of(0, 3)), ("serving_default", rows_of(9, 2))], [5]),
        ([("serving_default", rows_of(0, 5)), ("serving_default", rows_of(9, 4))], [5, 4]),
        ([("serving_default", rows_of(0, 0)), ("serving_default", rows_of(9))], [0, 1]),
        ([("lengths", words("a", "bc")), ("lengths", words("def", ""))], [2]),
        ([("lengths", words("a", "bc")), ("lengths", words("def"))], [1, 1]),
        ([("pairs", {"a": ONE, "b": ONE}), ("pairs", {"a": TWO, "b": TWO})], [1, 1]),
        ([("fixed", rows_of(0, 2)), ("fixed", rows_of(1, 2))], [2, 2]),
        ([("serving_default", rows_of(0)), ("lengths", words("a")), ("serving_default", rows_of(9))], [2, 1]),
    ],
)  # fmt: skip
def test_what_shares_a_run(what: list[tuple[str, dict[str, Any]]], expected: list[int]) -> None:
    """Jobs of one signature and one inner shape share runs up to the most rows; others don't."""
    servable = watched()
    answers = Batcher().run_all([job(servable, arrays, signature) for signature, arrays in what])
    assert runs(servable) == expected
    for (signature, arrays), answer in zip(what, answers, strict=True):
        same(answered(answer), servable, signature, arrays)


def same(done: TaskResult, servable: Servable, signature: str, arrays: dict[str, Any]) -> None:
    """The answer is what the model gives these arrays by themselves."""
    alone = servable.session.run(signature, arrays, tuple(done.outputs))
    for name, array in done.outputs.items():
        np.testing.assert_array_equal(array, alone[name])


def test_outputs_are_grouped_too() -> None:
    """Jobs that want different outputs don't share a run; an output without a batch keeps its jobs alone."""
    servable = watched()
    batcher = Batcher()
    pair = {"a": ONE, "b": ONE}
    wants = [("sum",), ("first",), ("sum",), ("sum", "total"), ("sum", "total")]
    batcher.run_all([job(servable, pair, "pairs", wanted=wanted) for wanted in wants])
    assert sorted(runs(servable)) == [1, 1, 1, 2]


def test_different_leading_sizes_in_one_job() -> None:
    """A job whose inputs broadcast against one another is run by itself."""
    servable = watched()
    wide = {"a": np.ones((2, 2), np.float32), "b": ONE}
    answers = Batcher().run_all([job(servable, wide, "pairs", wanted=("sum",)) for _ in range(2)])
    assert runs(servable) == [2, 2]
    assert [answered(one).outputs["sum"].shape for one in answers] == [(2, 2), (2, 2)]


def test_scalars_and_other_models() -> None:
    """Scalars are run one by one; so are jobs of different versions."""
    one, other = watched(), watched()
    Batcher().run_all([job(one, {"x": np.float32(1)}, "scalar"), job(one, {"x": np.float32(2)}, "scalar")])
    assert len(one.session.runs) == 2  # type: ignore[attr-defined]  # Watched
    one.session.runs.clear()  # type: ignore[attr-defined]
    Batcher().run_all([job(one, rows_of(0)), job(other, rows_of(1)), job(one, rows_of(2))])
    assert (runs(one), runs(other)) == ([2], [1])


def test_a_lone_job_keeps_its_arrays() -> None:
    """The session of a lone job sees the very arrays that were sent."""
    servable = watched()
    arrays = rows_of(0, 2)
    for answer in (Batcher().run_all([job(servable, arrays)])[0], Batcher().run(job(servable, arrays))):
        assert answered(answer).batch_size == 2
        assert servable.session.runs[-1]["x"] is arrays["x"]  # type: ignore[attr-defined]  # Watched


def test_an_oversized_job_is_split_and_joined() -> None:
    """A request of more rows than a run takes gets several runs and one answer; its neighbours are whole."""
    servable = watched()
    what = [rows_of(0, 3), rows_of(50, 19), rows_of(7, 4), rows_of(9, 4)]
    answers = Batcher().run_all([job(servable, arrays) for arrays in what])
    assert runs(servable) == [3, 8, 8, 3, 8]
    for arrays, answer in zip(what, answers, strict=True):
        same(answered(answer), servable, "serving_default", arrays)
    assert [answered(one).batch_size for one in answers] == [3, 8, 8, 8]


def test_one_row_at_most_means_that_nothing_is_touched() -> None:
    """With `max_batch_size` 1, requests are neither put together nor split."""
    unset, said = watched(max_batch_size=None), watched(max_batch_size=1)
    for batcher, servable in ((Batcher(max_batch_size=1), unset), (Batcher(), said)):
        batcher.run_all([job(servable, rows_of(0, 3)), job(servable, rows_of(0, 70))])
        batcher.run(job(servable, rows_of(0, 70)))
        assert runs(servable) == [3, 70, 70]


def test_allowed_sizes() -> None:
    """Runs are padded to the next allowed size with the last row; the largest bounds the run; nobody sees it."""
    servable = watched(allowed_batch_sizes=(2, 6), max_batch_size=64)
    what = [rows_of(float(n)) for n in range(10)]
    answers = Batcher().run_all([job(servable, arrays) for arrays in what])
    watched_runs = servable.session.runs  # type: ignore[attr-defined]  # Watched
    assert [len(one["x"]) for one in watched_runs] == [6, 6]
    np.testing.assert_array_equal(watched_runs[1]["x"][4:], [[9, 10, 11], [9, 10, 11]])
    runs(servable)
    for arrays, answer in zip(what, answers, strict=True):
        same(answered(answer), servable, "serving_default", arrays)
    assert [answered(one).batch_size for one in answers] == [6] * 6 + [4] * 4
    runs(servable)
    lone, large = Batcher().run(job(servable, rows_of(3))), Batcher().run(job(servable, rows_of(3, 7)))
    assert runs(servable) == [2, 6, 2]
    assert (lone.batch_size, lone.outputs["y"].shape, large.outputs["y"].shape) == (1, (1, 3), (7, 3))


def test_variable_lengths_are_padded() -> None:
    """Inner sizes that the signature leaves free are padded with empty strings or zeros, where the model says so."""
    servable = watched(pad_variable_length_inputs=True)
    answers = Batcher().run_all([job(servable, words("abc"), "lengths"), job(servable, words("d", "ef"), "lengths")])
    assert runs(servable) == [2]
    assert [answered(one).outputs["n"].tolist() for one in answers] == [[[3, 0]], [[1, 2]]]
    pairs = [job(servable, {"a": one, "b": one * 2}, "pairs", wanted=("sum",)) for one in (ONE, TWO)]
    assert [answered(one).outputs["sum"].tolist() for one in Batcher().run_all(pairs)] == [[[3, 3, 0]], [[3, 3, 3]]]


def test_one_bad_request_fails_alone() -> None:
    """Where the graph refuses a merged run, each job is run again: only the bad one gets an error."""
    servable = watched()
    what = [rows_of(float(n)) for n in range(8)]
    what[5]["x"][0, 1] = np.nan
    answers = Batcher().run_all([job(servable, arrays) for arrays in what])
    assert runs(servable) == [8] + [1] * 8
    bad = answers.pop(5)
    what.pop(5)
    assert isinstance(bad, InvalidArgument)
    assert "x has holes" in bad.message
    for arrays, answer in zip(what, answers, strict=True):
        same(answered(answer), servable, "serving_default", arrays)


def test_outputs_that_do_not_go_by_rows(caplog: pytest.LogCaptureFixture) -> None:
    """A model whose output has other rows than its input is noticed once, told once, and never merged again."""
    servable, batcher = watched(), Batcher()
    what = [{"x": np.array([1, 1], np.float32)}, {"x": np.array([2, 3], np.float32)}]
    for expected in ([4, 2, 2], [2, 2]):
        answers = batcher.run_all([job(servable, arrays, "uneven") for arrays in what])
        assert runs(servable) == expected
        assert [answered(one).outputs["seen"].tolist() for one in answers] == [[1], [2, 3]]
    large = batcher.run(job(servable, {"x": np.ones(20, np.float32)}, "uneven"))
    assert (runs(servable), large.outputs["seen"].tolist()) == ([20], [1])
    assert len([one for one in caplog.records if "'uneven'" in one.getMessage()]) == 1


def test_expired_jobs_are_not_run() -> None:
    """A job whose time is over is answered so, and its rows are in no run; the others are answered."""
    servable = watched()
    late = job(servable, rows_of(9), timeout_ms=10, age_s=5.0)
    jobs = [job(servable, rows_of(0)), late, job(servable, rows_of(20), timeout_ms=60_000)]
    answers = Batcher().run_all(jobs)
    assert isinstance(answers[1], DeadlineExceeded)
    assert runs(servable) == [2]
    same(answered(answers[2]), servable, "serving_default", rows_of(20))
    runs(servable)
    assert all(isinstance(one, DeadlineExceeded) for one in Batcher(1).run_all([jobs[1], jobs[1]]))
    assert isinstance(Batcher().run_all([jobs[1]])[0], DeadlineExceeded)
    assert runs(servable) == []


def test_too_many_wait_behind_the_first_run() -> None:
    """Of jobs in hand, `max_enqueued` may wait behind the first run; the rest are told to come again."""
    servable = watched(max_batch_size=2, max_enqueued=3)
    batcher = Batcher()
    for _ in range(2):  # those who waited don't any more
        answers = batcher.run_all([job(servable, rows_of(float(n))) for n in range(9)])
        assert runs(servable) == [2, 2, 1]
        assert [type(one) for one in answers] == [TaskResult] * 5 + [ResourceExhausted] * 4
        refusal = answers[-1]
        assert isinstance(refusal, ResourceExhausted)
        assert refusal.retryable
        assert "max_enqueued of its model.toml is 3" in refusal.message


def test_at_random_as_if_alone() -> None:
    """Whatever is thrown together, each job's answer is what it gets alone."""
    chance = random.Random(20)
    numbers = np.random.default_rng(20)
    one, other = watched(), watched(allowed_batch_sizes=(3, 8))
    batcher = Batcher(2)
    for _ in range(40):
        jobs = [_any_job(chance, numbers, chance.choice([one, other])) for _ in range(chance.randrange(1, 30))]
        for made, answer in zip(jobs, batcher.run_all(jobs), strict=True):
            same(answered(answer), made.servable, made.signature.name, made.arrays)
            assert set(answered(answer).outputs) == set(made.wanted)


def _any_job(chance: random.Random, numbers: np.random.Generator, servable: Servable) -> Task:
    rows, width = chance.randrange(0, 12), chance.randrange(1, 3)
    match chance.randrange(5):
        case 0:
            return job(servable, {"x": numbers.random((rows, 3), np.float32)})
        case 1:
            texts = [[b"w" * chance.randrange(9) for _ in range(width)] for _ in range(rows + 1)]
            return job(servable, {"words": np.array(texts, object)}, "lengths")
        case 2:
            both = {name: numbers.random((rows, width), np.float32) for name in "ab"}
            wanted = tuple(chance.sample(["sum", "first", "total"], chance.randrange(1, 4)))
            return job(servable, both, "pairs", wanted=wanted)
        case 3:
            return job(servable, {"x": numbers.integers(0, 3, rows + 1).astype(np.float32)}, "uneven")
        case _:
            return job(servable, {"x": numbers.random((2, 3), np.float32)}, "fixed")


def test_a_version_that_ends_is_let_go() -> None:
    """The batcher keeps no servable alive, and begins anew with one that comes after it."""
    import gc
    import weakref

    batcher = Batcher()
    servable = watched()
    batcher.run_all([job(servable, rows_of(0)), job(servable, rows_of(1))])
    gone = weakref.ref(servable)
    del servable
    gc.collect()
    assert gone() is None
    fresh = watched()
    assert answered(batcher.run_all([job(fresh, rows_of(0))])[0]).began <= time.monotonic()
    assert batcher.policies == 1

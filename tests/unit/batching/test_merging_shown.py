"""Requests of different clients share a run only where that was shown to change no answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batching_models import answered, job, rows_of, watched
from dependent_models import CHANGED_BY_PADDING, DEMANDING, DEPENDENT, INDEPENDENT, PADDED, request, saved_model
from small_models import CPU
from thriftserve.batching import Batcher, Task, TaskResult, independence
from thriftserve.batching.verdict import deviation
from thriftserve.errors import ThriftServeError
from thriftserve.models import prediction_log, warmup
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Servable
from thriftserve.models.session import Session
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.repository.model_settings import BatchingSettings

#: Batches of requests that each model is asked, of 2 to 12 requests: thousands of answers in all.
BATCHES = 60


@cache
def opened() -> SavedModelSession:
    return SavedModelSession.open(saved_model(), CPU)


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    """Ends the session with the tests: TensorFlow complains of one that outlives it."""
    yield
    opened().close()
    opened.cache_clear()


class One(Session):
    """One signature of that model."""

    platform, device = "tensorflow", "cpu"

    def __init__(self, name: str) -> None:
        self._session = opened()
        self.signatures = {name: self._session.signatures[name]}

    def run(self, signature: str, inputs: Any, outputs: Sequence[str]) -> dict[str, Any]:
        return self._session.run(signature, inputs, outputs)

    def close(self) -> None:
        self._session.close()


def servable_of(name: str, **settings: Any) -> Servable:
    return Servable("m", 1, One(name), words=opened().words, batching=BatchingSettings(**settings))


def python(name: str) -> Servable:
    return Servable("m", 1, PythonSession.open(f"dependent_models:{name}", "cpu"))


def examined(servable: Servable, path: Path | None = None) -> Batcher:
    batcher = Batcher(2)
    batcher.examine(servable, path)
    return batcher


def wrong_and_merged(batcher: Batcher, servable: Servable, name: str, seed: int = 1) -> tuple[int, int]:
    """Answers that are not what a request gets by itself, and those from runs with other requests in them."""
    random = np.random.default_rng(seed)
    wrong = merged = 0
    for _ in range(BATCHES):
        jobs = [job(servable, request(name, random), name) for _ in range(random.integers(2, 13))]
        for asked, answer in zip(jobs, batcher.run_all(jobs), strict=True):
            wrong += not as_alone(asked, answer)
            merged += isinstance(answer, TaskResult) and answer.batch_size > asked.rows
    return wrong, merged


def as_alone(asked: Task, answer: TaskResult | Exception) -> bool:
    try:
        alone = asked.servable.session.run(asked.signature.name, asked.arrays, asked.wanted)
    except ThriftServeError:
        return isinstance(answer, ThriftServeError)
    if asked.signature.name in ("noisy", "dropout"):
        return isinstance(answer, TaskResult) and answer.batch_size == asked.rows
    return isinstance(answer, TaskResult) and all(deviation(alone[each], answer.outputs[each]) < 1e-5 for each in alone)


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_rows_never_share_a_run(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """No answer of thousands is wrong; the log and the note say why, once, and what to set."""
    servable = servable_of(name)
    with caplog.at_level(logging.WARNING):
        batcher = examined(servable)
    assert wrong_and_merged(batcher, servable, name) == (0, 0)
    (line,) = [record.getMessage() for record in caplog.records if repr(name) in record.getMessage()]
    assert "max_batch_size under [batching]" in line
    assert "do not share runs" in batcher.note(servable)


@pytest.mark.parametrize("name", DEPENDENT)
def test_without_a_proof_they_would_be_wrong(name: str) -> None:
    """What the proof is there for: merged on their author's word, these models give wrong answers, or fail."""
    servable = servable_of(name, max_batch_size=64)
    wrong, merged = wrong_and_merged(Batcher(2), servable, name)
    assert wrong > 0 or (merged == 0 and name in ("ragged", "unique"))


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_share_runs(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """They do, nothing is wrong, and nobody is warned."""
    servable = servable_of(name)
    with caplog.at_level(logging.WARNING):
        batcher = examined(servable)
    wrong, merged = wrong_and_merged(batcher, servable, name)
    assert wrong == 0
    assert merged > BATCHES
    assert (batcher.note(servable), caplog.records) == ("", [])


def recorded(folder: Path, name: str, requests: Sequence[Any]) -> Path:
    """A version directory with recorded requests."""
    path = folder / "1"
    file = path / warmup.FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"".join(prediction_log.frame_record(prediction_log.encode("m", name, each)) for each in requests))
    return path


@pytest.mark.parametrize("name", DEMANDING)
def test_recorded_requests_show_what_made_up_ones_can_not(name: str, tmp_path: Path) -> None:
    """A model that refuses made-up inputs runs each request by itself, until some are recorded for it."""
    servable, random = servable_of(name), np.random.default_rng(3)
    assert wrong_and_merged(examined(servable), servable, name) == (0, 0)
    path = recorded(tmp_path, name, [request(name, random) for _ in range(4)])
    batcher = examined(servable, path)
    wrong, merged = wrong_and_merged(batcher, servable, name)
    assert (wrong, batcher.note(servable)) == (0, "")
    assert merged > BATCHES


@pytest.mark.parametrize("name", ["strict_ranker", "required"])
def test_recorded_requests_show_dependence_too(name: str, tmp_path: Path) -> None:
    """A list-wise ranker of tf.Examples, and a model that asks for a token, are found out by what was recorded."""
    servable, random = servable_of(name), np.random.default_rng(3)
    batcher = examined(servable, recorded(tmp_path, name, [request(name, random) for _ in range(4)]))
    assert "depends on the other rows" in batcher.note(servable)
    assert wrong_and_merged(batcher, servable, name) == (0, 0)


def test_nothing_known_is_nothing_merged() -> None:
    """Without an examination only those models' requests share runs whose author says so."""
    servable, said = servable_of("half"), servable_of("half", max_batch_size=64)
    assert wrong_and_merged(Batcher(2), servable, "half") == (0, 0)
    assert wrong_and_merged(Batcher(2), said, "half")[1] > BATCHES


def test_the_author_s_word_goes_before(caplog: pytest.LogCaptureFixture) -> None:
    """`max_batch_size` in a model's settings merges whatever was found; the log warns of what was seen."""
    servable = servable_of("softmax", max_batch_size=64)
    with caplog.at_level(logging.WARNING):
        batcher = examined(servable)
    assert wrong_and_merged(batcher, servable, "softmax")[1] > BATCHES
    assert "because its settings say so, but an answer's 'y' depends" in caplog.text
    assert batcher.note(servable) == ""


@pytest.mark.parametrize("name", ["Averages", "AveragesEach", "UndeclaredAverages", "Counts"])
def test_python_models_that_mix_requests(name: str) -> None:
    """A class that averages over what it is given together never does so for two clients."""
    servable = python(name)
    batcher = examined(servable)
    random = np.random.default_rng(4)
    for _ in range(300):
        jobs = [job(servable, {"x": random.normal(size=(2, 2)).astype(np.float32)}) for _ in range(4)]
        for asked, answer in zip(jobs, batcher.run_all(jobs), strict=True):
            assert name == "Counts" or as_alone(asked, answer)
            assert answered(answer).batch_size <= 2


@pytest.mark.parametrize("name", ["Doubles", "DoublesEach", "SaysSo"])
def test_python_models_that_share_runs(name: str) -> None:
    """A class whose rows are independent shares runs, by `predict` or its batch method; so does one that says so."""
    servable = python(name)
    batcher = examined(servable)
    jobs = [job(servable, {"x": np.full((1, 2), number, np.float32)}) for number in range(6)]
    assert {answered(one).batch_size for one in batcher.run_all(jobs)} == {6}


def test_some_outputs_only() -> None:
    """Where one output depends on other rows, requests for the others share runs."""

    class Two(Session):
        platform, device = "tensorflow", "cpu"
        signatures = PythonSession.open("dependent_models:TwoOutputs", "cpu").signatures

        def run(self, signature: str, inputs: Any, outputs: Sequence[str]) -> dict[str, Any]:
            made = {"double": inputs["x"] * 2, "rank": np.argsort(np.argsort(inputs["x"]))}
            return {name: made[name] for name in outputs}

        def close(self) -> None:
            """Nothing to free."""

    servable = Servable("m", 1, Two())
    batcher = examined(servable)
    inputs = [{"x": np.array([number], np.float32)} for number in (3, 1, 2)]
    for wanted, size in ((("double",), 3), (("rank",), 1), (("double", "rank"), 1)):
        jobs = [job(servable, each, wanted=wanted) for each in inputs]
        assert [answered(one).batch_size for one in batcher.run_all(jobs)] == [size] * 3
    assert "'rank' of 'serving_default'" in batcher.note(servable)


def test_a_large_request_is_split_only_where_that_was_shown() -> None:
    """Parts of one request are runs of other rows as well."""
    softmax, half = servable_of("softmax"), servable_of("half")
    x = np.random.default_rng(2).normal(size=200).astype(np.float32)
    for servable, name, size in ((softmax, "softmax", 200), (half, "half", 64)):
        done = answered(examined(servable).run_all([job(servable, {"x": x}, name)])[0])
        assert done.batch_size == size
        assert as_alone(job(servable, {"x": x}, name), done)


def test_padding_to_allowed_sizes_is_shown_too() -> None:
    """A lone request is padded with other rows only where they change nothing, in servers that merge nothing, too."""
    for name, merges in (("softmax", False), ("half", True)):
        servable = servable_of(name, allowed_batch_sizes=(4, 8))
        for most in (1, 64):
            batcher = Batcher(max_batch_size=most)
            batcher.examine(servable)
            assert (batcher.note(servable) == "") == merges
            asked = job(servable, {"x": np.array([1, 2], np.float32)}, name)
            ran: list[int] = []
            run = servable.session.run
            servable.session.run = lambda *given, run=run, ran=ran: ran.append(len(given[1]["x"])) or run(*given)  # type: ignore[method-assign]
            done = answered(batcher.run_all([asked])[0])
            servable.session.run = run  # type: ignore[method-assign]
            assert ran == [4 if merges else 2]
            assert as_alone(asked, done)


@pytest.mark.parametrize("name", [*PADDED, *CHANGED_BY_PADDING])
def test_padding_of_inner_sizes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Requests of different sizes share a run only where padding changes no answer, in its values or in its shape."""
    servable = servable_of(name, pad_variable_length_inputs=True)
    with caplog.at_level(logging.WARNING):
        batcher = examined(servable)
    wrong, merged = wrong_and_merged(batcher, servable, name)
    assert wrong == 0
    assert merged > BATCHES  # those of one size still share runs
    sizes = [job(servable, {"x": padded_row(name, size)}, name) for size in (2, 3)]
    together = {answered(one).batch_size for one in batcher.run_all(sizes)}
    assert together == {2 if name in PADDED else 1}
    assert ("not padded to share a run" in caplog.text) == (name in CHANGED_BY_PADDING)


def padded_row(name: str, size: int) -> np.ndarray[Any, Any]:
    return np.full((1, size), b"word", object) if name == "lengths" else np.ones((1, size), np.float32)


def test_what_its_rows_refuse_alone() -> None:
    """A model that fails for more rows than one is not merged; nor one that takes a refused row beside others."""
    servable = watched(max_batch_size=None)
    batcher = examined(servable)
    assert answered(batcher.run_all([job(servable, rows_of(0)), job(servable, rows_of(1))])[0]).batch_size == 2
    assert "'uneven'" in batcher.note(servable)


def test_a_row_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trying would take longer than anybody waits, nothing was shown, and nothing is merged."""
    servable = servable_of("half")
    monkeypatch.setattr(independence, "LONGEST_S", 0.0)
    batcher = examined(servable)
    assert "too long to try" in batcher.note(servable)
    assert wrong_and_merged(batcher, servable, "half") == (0, 0)


def test_each_version_is_shown_by_itself() -> None:
    """What is known of one version is not known of another one."""
    other = Servable("m", 2, One("half"))
    assert wrong_and_merged(examined(servable_of("half")), other, "half") == (0, 0)

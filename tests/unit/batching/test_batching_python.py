"""Python models: `predict_batch`, put together by rows, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import batching_models
from batching_models import answered, job
from thriftserve.batching import Batcher
from thriftserve.errors import Internal
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Servable
from thriftserve.repository.model_settings import BatchingSettings


def served(kind: str) -> Servable:
    session = PythonSession.open(f"batching_models:{kind}", "cpu")
    return Servable("p", 1, session, batching=BatchingSettings(max_batch_size=8))


def calls(servable: Servable) -> list[int]:
    """What each call of the model's methods took, since the last look."""
    model: Any = servable.session.model  # type: ignore[attr-defined]  # PythonSession
    seen = list(model.calls)
    model.calls.clear()
    return seen


def array(*values: float, width: int = 2) -> dict[str, Any]:
    return {"x": np.array([[value] * width for value in values], np.float32)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Each", [3]), ("Stacked", [4]), ("Stateful", [1, 2, 1]), ("Undeclared", [1, 2, 1])],
)
def test_how_a_model_is_put_together(kind: str, expected: list[int]) -> None:
    """Each of several requests to `predict_batch`; all rows to `predict`; or one by one, where it can't or won't."""
    servable = served(kind)
    what = [array(1), array(2, 3), array(4)]
    answers = Batcher().run_all([job(servable, one, wanted=None if kind.startswith("Sta") else ()) for one in what])
    assert calls(servable) == expected
    alone = [servable.session.run("serving_default", one, ())["y"] for one in what]
    for expected_y, answer in zip(alone, answers, strict=True):
        np.testing.assert_array_equal(answered(answer).outputs["y"], expected_y)


def test_predict_batch_takes_any_shapes() -> None:
    """Requests of different shapes go to `predict_batch` together, at most `max_batch_size` of them."""
    servable = served("Each")
    what = [array(float(n), width=1 + n % 3) for n in range(11)]
    answers = Batcher().run_all([job(servable, one, wanted=()) for one in what])
    assert calls(servable) == [8, 3]
    assert [answered(one).outputs["y"].shape for one in answers] == [one["x"].shape for one in what]
    assert [answered(one).batch_size for one in answers] == [8] * 8 + [3] * 3
    Batcher().run(job(servable, what[0], wanted=()))
    assert calls(servable) == [1]


def test_one_bad_request_in_predict_batch() -> None:
    """Where `predict_batch` fails, each request goes to `predict`: only the bad one fails."""
    servable = served("Each")
    answers = Batcher().run_all([job(servable, array(value), wanted=()) for value in (1, -2, 3)])
    assert isinstance(answers[1], Internal)
    assert "below zero" in answers[1].message
    assert [float(answered(answers[place]).outputs["y"][0, 0]) for place in (0, 2)] == [2, 6]
    assert calls(servable) == [3, 1, 1, 1]


def test_predict_batch_that_forgets_one() -> None:
    """Too few answers can't be told apart: every request is run by itself."""
    servable = served("Each?how=short")
    answers = Batcher().run_all([job(servable, array(value), wanted=()) for value in (1, 2)])
    assert [float(answered(one).outputs["y"][0, 0]) for one in answers] == [2, 4]
    assert calls(servable) == [2, 1, 1]


def test_opting_out_goes_before_predict_batch() -> None:
    """`batching = False` keeps `predict_batch` from being called."""

    class Both(batching_models.Each):
        batching = False

    session = PythonSession(Both(), "x:Both", "cpu")
    servable = Servable("p", 1, session, batching=BatchingSettings(max_batch_size=8))
    Batcher().run_all([job(servable, array(1), wanted=()) for _ in range(2)])
    assert calls(servable) == [1, 1]

"""The private API behind the fast calls: pinned here, and what stands in where it is missing."""

from __future__ import annotations

import numpy as np
import pytest

from small_models import opened
from thriftserve.errors import InvalidArgument

X = np.array([1.0, 2.0], np.float32)


def test_private_api_is_there() -> None:
    """This TensorFlow still has the session method that the fast calls are made with."""
    from tensorflow.python.client.session import BaseSession

    assert callable(getattr(BaseSession, "_make_callable_from_options", None))


def test_fast_calls_bypass_session_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls go by the fast way: with Session.run broken, they still answer."""
    from tensorflow.python.client.session import BaseSession

    session = opened("half_plus_two")
    monkeypatch.delattr(BaseSession, "run")
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    session.close()


def test_session_run_stands_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without the private API, the public one gives the same answers, and the log says so."""
    from tensorflow.python.client.session import BaseSession

    monkeypatch.delattr(BaseSession, "_make_callable_from_options")
    caplog.set_level("INFO")
    vectors, texts = opened("half_plus_two"), opened("text_classifier")
    assert vectors.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    assert vectors.run("constants", {}, ["two"])["two"].shape == ()
    with pytest.raises(InvalidArgument):
        vectors.run("serving_default", {"x": np.array(["a"], object)}, ["y"])
    words = {"words": np.array([["银行".encode()]], object), "nwords": np.array([1], np.int32)}
    assert texts.run("serving_default", words, ["labels"])["labels"].tolist() == [b"money"]
    assert "Session.run is used" in caplog.text
    vectors.close()
    texts.close()

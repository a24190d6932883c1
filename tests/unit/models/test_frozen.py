"""Variables as constants: the same answers by the same calls, and the models that must stay as they were loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exports_v1
from small_models import CPU, opened, small
from thriftserve.models import loader
from thriftserve.models.devices import SessionOptions
from thriftserve.models.tensorflow import freeze
from thriftserve.models.tensorflow import freeze as frozen
from thriftserve.models.tensorflow.saved_model import SavedModelSession, SignatureCalls
from thriftserve.repository.versions import ModelConfig
from thriftserve_bench.workloads.mobilenet import random_images

X = np.array([1.0, 2.0], np.float32)
#: One row of a model made by `_written`.
ROW = np.full((1, 4), 0.5, np.float32)


def _written(path: Path, make: Callable[[Any, Any], Any], *, rows: int = 4) -> SavedModelSession:
    """A session of a model with one weight, FLOAT [rows,4], and signatures "serving_default" and "again"."""
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable(tf.ones([rows, 4]))
    module.count = tf.Variable(0)

    def signature(scale: float) -> Any:
        takes = [tf.TensorSpec([None, rows], tf.float32, name="x")]
        return tf.function(lambda x: {"y": make(module, x) * scale}, input_signature=takes)

    signatures = {"serving_default": signature(1.0), "again": signature(2.0)}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return SavedModelSession.open(path, CPU)


def _variables_left(session: SavedModelSession) -> int:
    """Variables of the session that still have a value."""
    import tensorflow as tf

    graph = session.tf_session.graph
    handles = [one.outputs[0] for one in graph.get_operations() if one.type == "VarHandleOp"]
    with graph.as_default():
        there = [tf.raw_ops.VarIsInitializedOp(resource=handle) for handle in handles]
    return int(sum(session.tf_session.run(there)))


def test_every_signature_answers_as_before() -> None:
    """All signatures and sets of outputs of a frozen model answer by name; its variables are gone from memory."""
    session = opened("half_plus_two")
    session.optimize()
    assert session.optimized == "frozen"
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    assert session.run("half_plus_three", {"x": X}, ["y"])["y"].tolist() == [3.5, 4.0]
    assert session.run("constants", {}, ["two"])["two"].tolist() == 2.0
    assert _variables_left(session) == 0
    session.close()


def test_a_network_answers_as_before() -> None:
    """Batch norms folded into convolutions change MobileNetV2's scores by rounding only, and images stay apart."""
    images = random_images(3, seed=4)
    session = opened("mobilenet_v2")
    loaded = session.run("serving_default", {"image": images}, ["scores"])["scores"]
    session.optimize()
    answer = session.run("serving_default", {"image": images}, ["scores"])["scores"]
    session.close()
    assert session.optimized == "frozen"
    np.testing.assert_allclose(answer, loaded, atol=1e-4)
    assert len(set(loaded.argmax(axis=1).tolist())) == 3
    assert loaded.max(axis=1).min() > 0.02


def test_export_of_tensorflow_1_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference variables become constants, beside one that is too large, inputs that are outputs, and places gone."""
    import tensorflow as tf

    monkeypatch.setattr(frozen, "MOST_BYTES", 4)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        slope = v1.get_variable("slope", initializer=3.0, use_resource=False)
        large = v1.get_variable("large", initializer=[10.0, 20.0], use_resource=False)
        with v1.colocate_with(v1.placeholder(tf.float32, name="no_signature_needs_it")):
            product = tf.identity(slope * x)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"a": x, "b": x}, {"y": product + large, "back": x})
    served = SavedModelSession.open(tmp_path / "1", CPU)
    served.optimize()
    answer = served.run("serving_default", {"a": X, "b": X}, ["y", "back"])
    assert served.optimized == "frozen"
    assert (answer["y"].tolist(), answer["back"].tolist()) == ([13.0, 26.0], [1.0, 2.0])
    served.close()


def test_large_variables_stay_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is over the limit is not doubled: the model is frozen around it, and two signatures share it."""
    monkeypatch.setattr(frozen, "MOST_BYTES", 8)
    session = _written(tmp_path / "1", lambda module, x: (x @ module.weight) + float(1) * _float(module.count))
    session.optimize()
    assert session.optimized == "frozen"
    assert session.run("serving_default", {"x": ROW}, ["y"])["y"].tolist() == [[2.0] * 4]
    assert session.run("again", {"x": ROW}, ["y"])["y"].tolist() == [[4.0] * 4]
    assert _variables_left(session) == 2  # the weight, by its old and its new handle
    session.close()


def _float(variable: Any) -> Any:
    import tensorflow as tf

    return tf.cast(variable, tf.float32)


def _random(module: Any, x: Any) -> Any:
    import tensorflow as tf

    return x @ module.weight + tf.random.uniform([4])


def _counting(module: Any, x: Any) -> Any:
    return x @ module.weight + _float(module.count.assign_add(1))


def _branch(module: Any, x: Any) -> Any:
    import tensorflow as tf

    return tf.cond(tf.reduce_sum(x) > 0, lambda: _random(module, x), lambda: x @ module.weight)


@pytest.mark.parametrize(
    ("make", "named"),
    [(_random, "RandomUniform"), (_counting, "AssignAddVariableOp"), (_branch, "RandomUniform")],
    ids=["random", "assignment", "in a branch"],
)
def test_models_with_state_stay_as_loaded(tmp_path: Path, make: Callable[[Any, Any], Any], named: str) -> None:
    """Random numbers and assignments, in a branch too, are found, named, and the model serves on as it was."""
    session = _written(tmp_path / "1", make)
    session.optimize()
    assert session.optimized == f"as loaded: it uses {named}"
    before = session.run("serving_default", {"x": ROW}, ["y"])["y"]
    assert not np.array_equal(before, session.run("serving_default", {"x": ROW}, ["y"])["y"])
    session.close()


def test_tables_stay_as_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Models with lookup tables, of TensorFlow 2 and 1, serve as loaded, and the log says why."""
    caplog.set_level("INFO")
    texts = loader.load(ModelConfig("texts", "tensorflow", str(small("text_classifier"))), CPU)
    assert "not frozen: it uses HashTableV2" in caplog.text
    exported = SavedModelSession.open(exports_v1.write(tmp_path / "1"), CPU)
    exported.optimize()
    assert exported.optimized.startswith("as loaded: it uses HashTable")
    assert exported.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [3.0, 6.0]
    texts.session.close()
    exported.close()


def test_other_answers_keep_the_model_as_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the frozen calls answered otherwise, the model as loaded goes on, with its variables, and says so."""
    session = opened("half_plus_two")
    monkeypatch.setattr(freeze, "same", lambda before, after: before.shape == ())
    session.optimize()
    assert session.optimized == "as loaded: 'half_plus_three' gives another 'y' with constants for its variables"
    assert session.run("half_plus_three", {"x": X}, ["y"])["y"].tolist() == [3.5, 4.0]
    session.close()


def test_unforeseen_failures_keep_the_model_as_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TensorFlow that can't convert costs the speed and not the model."""
    import tensorflow as tf

    def broken(*arguments: Any, **named: Any) -> None:
        raise AttributeError("gone")

    monkeypatch.setattr(tf.compat.v1.graph_util, "convert_variables_to_constants", broken)
    session = opened("half_plus_two")
    session.optimize()
    assert session.optimized == "as loaded: gone"
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    session.close()


def test_freezing_can_be_turned_off(tmp_path: Path) -> None:
    """The loader freezes unless told not to."""
    shutil.copytree(small("half_plus_two"), tmp_path / "half")
    config = ModelConfig("half", "tensorflow", str(tmp_path / "half"))
    told = [loader.load(config, SessionOptions(freeze=freeze)).session for freeze in (True, False)]
    assert [getattr(one, "optimized", None) for one in told] == ["frozen", "as loaded: not asked for"]
    for one in told:
        one.close()


def test_calls_of_a_frozen_model_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set of outputs with a call of its own holds the constants once more, so their number has a bound."""
    from thriftserve.models.tensorflow import saved_model

    monkeypatch.setattr(saved_model, "MOST_CONSTANT_BYTES", 1)
    session = opened("half_plus_two")
    session.optimize()
    for outputs in (("half",), ("two",), ("half", "two"), ("two", "half")):
        assert set(session.run("constants", {}, outputs)) == set(outputs)
    assert isinstance(session.calls, SignatureCalls)
    assert len(session.calls.known) == 3  # one for each signature, and no more
    session.close()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (np.array([1.0, 0.0], np.float32), np.array([1.0002, 1e-5], np.float32), True),
        (np.array([1.0, 0.0], np.float32), np.array([1.0, 0.01], np.float32), False),
        (np.array([1.0], np.float64), np.array([1.0001], np.float64), False),
        (np.array([np.nan, np.inf], np.float32), np.array([np.nan, np.inf], np.float32), True),
        (np.array([np.nan], np.float32), np.array([1.0], np.float32), False),
        (np.array([], np.float32), np.array([], np.float32), True),
        (np.array([5], np.int64), np.array([6], np.int64), False),
        (np.array([b"a"], object), np.array([b"b"], object), False),
        (np.array([1.0], np.float32), np.array([[1.0]], np.float32), False),
    ],
)
def test_what_counts_as_the_same(one: Any, other: Any, equal: bool) -> None:
    """Floats within their precision of the largest, whole numbers and texts exactly, shapes always."""
    assert freeze.same(one, other) is equal

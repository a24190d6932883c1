"""Models whose answers depend on the rows beside a request's own, and models whose don't, in one SavedModel.

saved_model() --> a signature for each of DEPENDENT, and one for each of INDEPENDENT
request(name, random) --> the inputs of one request as a client might send it
python:dependent_models:NAME --> Python models of both kinds
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from small_models import scratch
from thriftserve.models.tensorflow.preload import preload

Inputs = dict[str, np.ndarray[Any, Any]]
START = 101
KNOWN = ("rain", "sun", "goal", "bank")


def _dependent(tf: Any) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    vector, ids = tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([None], tf.int64, name="x")
    rows, words = tf.TensorSpec([None, 4], tf.float32, name="x"), tf.TensorSpec([None], tf.string, name="x")
    tokens = tf.TensorSpec([None, 4], tf.int32, name="x")
    parts, ends = tf.TensorSpec([None], tf.float32, name="values"), tf.TensorSpec([None], tf.int64, name="ends")
    weights = tf.constant(np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32))

    def ranker(x: Any) -> Any:
        features = {"price": tf.io.FixedLenFeature([], tf.float32, default_value=1.0)}
        return tf.nn.softmax(tf.io.parse_example(x, features)["price"], 0)

    def strict_ranker(x: Any) -> Any:
        features = {"price": tf.io.FixedLenFeature([], tf.float32)}
        return tf.nn.softmax(tf.io.parse_example(x, features)["price"], 0)

    def required(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_equal(x[:, 0], START)]):
            return tf.cast(x[:, 1], tf.float32) / tf.cast(tf.reduce_sum(x[:, 1]) + 1, tf.float32)

    def batch_norm(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, 0)
        return tf.nn.batch_normalization(x, mean, variance, 0.5, 1.0, 1e-3)

    def ragged(values: Any, ends: Any) -> Any:
        made = tf.RaggedTensor.from_row_limits(values, tf.minimum(ends, tf.size(values, tf.int64)))
        return tf.reduce_sum(made, 1) + 0 * tf.cast(ends, tf.float32)

    def careful(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_mean(x), 50.0)]):
            return x * 2

    return {
        "sorts": (tf.sort, [ids]),
        "softmax": (lambda x: tf.nn.softmax(x, 0), [vector]),
        "noisy": (lambda x: x + tf.random.uniform(tf.shape(x), maxval=0.5), [vector]),
        "dropout": (lambda x: tf.matmul(tf.nn.dropout(x, 0.5), weights), [rows]),
        "scaled_above": (lambda x: x / tf.maximum(tf.reduce_max(tf.abs(x)) / 100, 1.0), [vector]),
        "scaled_if_many": (lambda x: tf.cond(tf.size(x) > 5, lambda: x / tf.norm(x), lambda: x), [vector]),
        "unique_index": (lambda x: tf.unique(x).idx, [words]),
        "unique": (lambda x: tf.unique(x).y, [words]),
        "sorts_words": (lambda x: tf.gather(x, tf.argsort(tf.strings.length(x), stable=True)), [words]),
        "ranker": (ranker, [words]),
        "strict_ranker": (strict_ranker, [words]),
        "required": (required, [tokens]),
        "batch_norm": (batch_norm, [rows]),
        "running_total": (tf.cumsum, [vector]),
        "rank": (lambda x: tf.argsort(tf.argsort(x)), [vector]),
        "a_little": (lambda x: x - 0.01 * tf.reduce_mean(x), [vector]),
        "counts_equal": (lambda x: tf.gather(tf.unique_with_counts(x).count, tf.unique(x).idx), [ids]),
        "large_ids": (lambda x: tf.where(x > 500, tf.reduce_max(x), x), [ids]),
        "careful": (careful, [vector]),
        "ragged": (ragged, [parts, ends]),
    }  # fmt: skip


def _independent(tf: Any, module: Any) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    vector, rows = tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([None, 4], tf.float32, name="x")
    tokens, words = tf.TensorSpec([None, None], tf.int32, name="x"), tf.TensorSpec([None, None], tf.string, name="x")
    mask = tf.TensorSpec([None, None], tf.int32, name="mask")
    pictures = tf.TensorSpec([None, None, None, 3], tf.uint8, name="x")
    chance = np.random.default_rng(6)
    table = tf.constant(chance.normal(size=(30, 8)).astype(np.float32))
    weights = tf.constant(chance.normal(size=(4, 16)).astype(np.float32))
    kernel = tf.constant(chance.normal(size=(3, 3, 3, 4)).astype(np.float32))
    module.table = lookup = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(KNOWN, tf.range(len(KNOWN)), tf.string, tf.int32), -1
    )

    def attention(x: Any, mask: Any) -> Any:
        spoken = tf.gather(table, x)
        scores = tf.matmul(spoken, spoken, transpose_b=True) + tf.cast(1 - mask, tf.float32)[:, None] * -1e9
        return tf.reduce_sum(tf.matmul(tf.nn.softmax(scores), spoken) * tf.cast(mask, tf.float32)[..., None], 1)

    def convolved(x: Any) -> Any:
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(tf.cast(x, tf.float32) / 255, kernel, 1, "SAME")), (1, 2))

    def examples(x: Any) -> Any:
        features = {"price": tf.io.FixedLenFeature([], tf.float32)}
        return tf.io.parse_example(x, features)["price"] * 2

    def pictures_decoded(x: Any) -> Any:
        decoded = tf.map_fn(lambda one: tf.image.resize(tf.io.decode_png(one, 3), (4, 4)), x, tf.float32)
        return tf.reduce_mean(decoded, (1, 2))

    def started(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_equal(x[:, 0], START)]):
            return x * 2

    lengths = tf.TensorSpec([None, None], tf.float32, name="x")
    return {
        "half": (lambda x: x / 2 + 2, [vector]),
        "dense": (lambda x: tf.nn.softmax(tf.matmul(x, weights)), [rows]),
        "double": (lambda x: tf.cumsum(x, 1), [tf.TensorSpec([None, 3], tf.float64, name="x")]),
        "attention": (attention, [tokens, mask]),
        "convolved": (convolved, [pictures]),
        "known_words": (lookup.lookup, [words]),
        "each_token": (lambda x: x * 2 + 1, [lengths]),
        "sum_of_tokens": (lambda x: tf.reduce_sum(x, 1), [lengths]),
        "mean_of_tokens": (lambda x: tf.reduce_mean(x, 1), [lengths]),
        "reversed_tokens": (lambda x: tf.reverse(x, [1]), [lengths]),
        "pairs_of_tokens": (lambda x: tf.repeat(x, 2, axis=1), [lengths]),
        "lengths": (tf.strings.length, [words]),
        "pictures": (pictures_decoded, [tf.TensorSpec([None], tf.string, name="x")]),
        "flags": (lambda x: tf.reduce_any(x, 1), [tf.TensorSpec([None, 5], tf.bool, name="x")]),
        "examples": (examples, [tf.TensorSpec([None], tf.string, name="x")]),
        "started": (started, [tf.TensorSpec([None, 4], tf.int32, name="x")]),
    }  # fmt: skip


#: Signatures whose answers depend on other rows, and those whose don't.
DEPENDENT = (
    "sorts", "softmax", "noisy", "dropout", "scaled_above", "scaled_if_many", "unique_index", "unique", "sorts_words",
    "ranker", "strict_ranker", "required", "batch_norm", "running_total", "rank", "a_little", "counts_equal",
    "large_ids", "careful", "ragged",
)  # fmt: skip
INDEPENDENT = (
    "half", "dense", "double", "attention", "convolved", "known_words", "lengths", "pictures", "flags",
)  # fmt: skip
#: Independent ones that may be padded in their inner size, and those that padding changes, or that grow otherwise.
PADDED = ("each_token", "sum_of_tokens", "lengths")
CHANGED_BY_PADDING = ("mean_of_tokens", "reversed_tokens", "pairs_of_tokens")
#: Independent ones that refuse made-up rows: nothing shows what they are but recorded requests.
DEMANDING = ("examples", "started")


@cache
def saved_model() -> Path:
    """The version directory."""
    preload()
    import tensorflow as tf

    path = scratch() / "dependent" / "1"
    module = tf.Module()
    signatures = {}
    for name, (function, specs) in {**_dependent(tf), **_independent(tf, module)}.items():
        signatures[name] = tf.function(partial(_named, function)).get_concrete_function(*specs)
    tf.saved_model.save(module, str(path), signatures)
    return path


def _named(function: Callable[..., Any], *inputs: Any) -> dict[str, Any]:
    return {"y": function(*inputs)}


def example(price: float) -> bytes:
    """A serialised tf.Example with one feature."""
    import tensorflow as tf

    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[price]))
    content: bytes = tf.train.Example(features=tf.train.Features(feature={"price": feature})).SerializeToString()
    return content


def png(random: np.random.Generator) -> bytes:
    """A small picture."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def request(name: str, random: np.random.Generator) -> Inputs:
    """What a client might send: a row or two."""
    rows = int(random.integers(1, 3))
    make = _REQUESTS.get(name)
    return {"x": random.normal(size=rows).astype(np.float32)} if make is None else make(random, rows)


def _x(content: Any, dtype: Any = None) -> Inputs:
    return {"x": np.array(content, dtype)}


def _tokens(random: np.random.Generator, rows: int) -> Inputs:
    tokens = random.integers(1, 30, (rows, 4)).astype(np.int32)
    tokens[:, 0] = START
    return {"x": tokens}


def _attended(random: np.random.Generator, rows: int) -> Inputs:
    length = int(random.integers(2, 4))
    tokens = random.integers(0, 30, (rows, length)).astype(np.int32)
    return {"x": tokens, "mask": np.ones((rows, length), np.int32)}


def _texts(random: np.random.Generator, rows: int) -> Inputs:
    return _x(random.choice([b"a", b"bb", b"ccc", b"rain"], rows).tolist(), object)


def _pairs(random: np.random.Generator, rows: int) -> Inputs:
    return _x(random.choice([b"rain", b"goal", b"snow"], (rows, 2)).tolist(), object)


def _examples(random: np.random.Generator, rows: int) -> Inputs:
    return _x([example(float(random.normal())) for _ in range(rows)], object)


def _rows(random: np.random.Generator, rows: int) -> Inputs:
    return _x(random.normal(size=(rows, 4)), np.float32)


def _lengths(random: np.random.Generator, rows: int) -> Inputs:
    return _x(random.normal(size=(rows, random.integers(1, 6))), np.float32)


_REQUESTS: dict[str, Callable[[np.random.Generator, int], Inputs]] = {
    **dict.fromkeys(("sorts", "counts_equal"), lambda random, rows: _x(random.integers(0, 9, rows))),
    "large_ids": lambda random, rows: _x(random.integers(400, 900, rows)),
    **dict.fromkeys(("dropout", "batch_norm", "dense"), _rows),
    "scaled_above": lambda random, rows: _x(random.normal(size=rows) * 300, np.float32),
    "careful": lambda random, rows: _x(random.uniform(0, 90, rows), np.float32),
    **dict.fromkeys(("unique", "unique_index", "sorts_words"), _texts),
    **dict.fromkeys(("ranker", "strict_ranker", "examples"), _examples),
    **dict.fromkeys(("required", "started"), _tokens),
    "ragged": lambda random, rows: {"values": _x(random.normal(size=2), np.float32)["x"], "ends": np.array([1, 2])},
    "double": lambda random, rows: _x(random.normal(size=(rows, 3))),
    "attention": _attended,
    "convolved": lambda random, rows: _x(random.integers(0, 256, (rows, 8, 8, 3)), np.uint8),
    **dict.fromkeys((*PADDED[:2], *CHANGED_BY_PADDING), _lengths),
    **dict.fromkeys(("known_words", "lengths"), _pairs),
    "pictures": lambda random, rows: _x([png(random) for _ in range(rows)], object),
    "flags": lambda random, rows: _x(random.integers(0, 2, (rows, 5)), bool),
}


class _Declared:
    signatures: ClassVar[dict[str, Any]] = {
        "inputs": {"x": ("float32", [None, 2])},
        "outputs": {"y": ("float32", [None, 2])},
    }


class Averages(_Declared):
    """Takes the mean of what it is given together."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"] - inputs["x"].mean(0, keepdims=True)}


class AveragesEach(_Declared):
    """The same in its batch method, with an answer for each request."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self.predict_batch([inputs])[0]

    def predict_batch(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        mean = np.concatenate([one["x"] for one in batch]).mean(0)
        return [{"y": one["x"] - mean} for one in batch]


class UndeclaredAverages:
    """The same of a class that declares nothing, so that nothing can be tried before a client asks."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self.predict_batch([inputs])[0]

    def predict_batch(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        mean = np.concatenate([one["x"] for one in batch]).mean(0)
        return [{"y": one["x"] - mean} for one in batch]


class SaysSo(Averages):
    """The same, whose author says that its requests share runs."""

    batching = True


class Doubles(_Declared):
    """An answer for each row."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"] * 2}


class DoublesEach(Doubles):
    """An answer for each request."""

    def predict_batch(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.predict(one) for one in batch]


class Counts(_Declared):
    """Keeps state: no two answers are the same."""

    def __init__(self) -> None:
        self._calls = 0

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._calls += 1
        return {"y": inputs["x"] + self._calls}


class TwoOutputs:
    """Declares one output that goes by rows, and one that doesn't."""

    signatures: ClassVar[dict[str, Any]] = {
        "inputs": {"x": ("float32", [None])},
        "outputs": {"double": ("float32", [None]), "rank": ("int64", [None])},
    }

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"double": inputs["x"] * 2, "rank": np.argsort(np.argsort(inputs["x"]))}

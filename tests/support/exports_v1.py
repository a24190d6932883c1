"""An export as TensorFlow 1.x wrote them: variables by reference, a table, a legacy init op, odd signatures.

write(path)  -->  path/saved_model.pb with the signatures that SIGNATURES names
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SIGNATURES = {"serving_default", "lookup", "echo", "guarded", "twins", "plain"}


def write(path: Path, tags: Iterable[str] = ("serve",), *, twice: bool = False) -> Path:
    """Writes the export; with `twice`, a second meta graph with the tag "train" beside it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = _signatures(tf)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, list(tags), signatures, legacy_init_op=v1.tables_initializer(), strip_default_attrs=True
        )
        if twice:
            builder.add_meta_graph(["train"], signatures)
        builder.save()
    return path


def _signatures(tf: Any) -> dict[str, Any]:
    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None], name="x")
    slope = v1.get_variable("slope", initializer=3.0, use_resource=False)
    words = v1.placeholder(tf.string, None, name="words")
    table = v1.lookup.StaticHashTable(
        v1.lookup.KeyValueTensorInitializer(["早", "晚"], [1, 2], tf.string, tf.int64), default_value=-1
    )
    product = slope * x
    with v1.control_dependencies([v1.Assert(False, ["never"])]):
        failing = tf.identity(x)
    return {
        "serving_default": _signature(tf, {"x": x}, {"y": product, "same": product}),
        "lookup": _signature(tf, {"words": words}, {"ids": table.lookup(words)}),
        "echo": _signature(tf, {"words": words}, {"back": words, "joined": tf.strings.join([words, words])}),
        "guarded": _signature(tf, {"x": x}, {"good": x + 1.0, "bad": failing}),
        "twins": _signature(tf, {"a": x, "b": x}, {"y": product, "a_again": x}),
        "plain": _signature(tf, {"x": x}, {"back": x}),
    }


def _signature(tf: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    build = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        {name: build(tensor) for name, tensor in inputs.items()},
        {name: build(tensor) for name, tensor in outputs.items()},
        "tensorflow/serving/predict",
    )

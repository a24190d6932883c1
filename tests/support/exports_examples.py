"""A SavedModel as TensorFlow Serving's own tests have it: half_plus_two with signatures that parse tf.Example.

write(base_path)  -->  base_path/123/saved_model.pb: serving_default, regress_x_to_y, classify_x_to_y, classify_words
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_METHODS = "tensorflow/serving/"


def write(base_path: Path) -> Path:
    """Writes version 123; returns the base path."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = _signatures(tf)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(base_path / "123"))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    return base_path


def _signatures(tf: Any) -> dict[str, Any]:
    v1 = tf.compat.v1
    serialised = v1.placeholder(tf.string, [None], name="tf_example")
    features = {
        "x": v1.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        "n": v1.FixedLenFeature([1], tf.int64, default_value=[0]),
        "words": v1.FixedLenSequenceFeature([], tf.string, allow_missing=True, default_value=""),
    }
    found = v1.parse_example(serialised, features)
    half = v1.get_variable("half", initializer=0.5)
    x = tf.identity(found["x"], name="x")
    y = half * x + 2.0 + tf.cast(found["n"], tf.float32)
    shape = tf.shape(found["words"])
    return {
        "serving_default": _signature(tf, {"x": x}, {"y": y}, "predict"),
        "regress_x_to_y": _signature(tf, {"inputs": serialised}, {"outputs": y}, "regress"),
        "classify_x_to_y": _signature(tf, {"inputs": serialised}, {"scores": y}, "classify"),
        "classify_words": _signature(
            tf,
            {"inputs": serialised},
            {"classes": found["words"], "scores": tf.ones(shape) / tf.cast(shape[1], tf.float32)},
            "classify",
        ),
    }


def _signature(tf: Any, inputs: dict[str, Any], outputs: dict[str, Any], method: str) -> Any:
    build = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        {name: build(tensor) for name, tensor in inputs.items()},
        {name: build(tensor) for name, tensor in outputs.items()},
        _METHODS + method,
    )

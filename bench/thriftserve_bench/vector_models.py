"""Small models on numbers and words.

half_plus_two:    x  -->  x/2 + 2
text_classifier:  words  --table-->  word numbers  --weights-->  class scores  -->  label
"""

from __future__ import annotations

from typing import Any

from thriftserve_bench.blueprint import Blueprint

#: Each class and the words that speak for it.
TOPICS: dict[str, tuple[str, ...]] = {
    "sport": ("football", "goal", "team", "足球", "比赛", "球队"),
    "weather": ("rain", "sun", "wind", "下雨", "天气", "台风"),
    "money": ("bank", "price", "market", "银行", "价格", "股票"),
}


def half_plus_two() -> Blueprint:
    """From x FLOAT [n] to y = x/2 + 2; `half_plus_three`; `constants`, which takes nothing and gives two scalars."""
    import tensorflow as tf

    module = tf.Module()
    module.half = tf.Variable(0.5, name="half")
    module.two = tf.Variable(2.0, name="two")
    vector = [tf.TensorSpec([None], tf.float32, name="x")]

    def plus_two(x: Any) -> dict[str, Any]:
        return {"y": module.half * x + module.two}

    def plus_three(x: Any) -> dict[str, Any]:
        return {"y": module.half * x + module.two + 1.0}

    def constants() -> dict[str, Any]:
        return {"half": module.half.read_value(), "two": module.two.read_value()}

    return Blueprint(
        module,
        {
            "serving_default": tf.function(plus_two, input_signature=vector),
            "half_plus_three": tf.function(plus_three, input_signature=vector),
            "constants": tf.function(constants, input_signature=[]),
        },
    )


def text_classifier() -> Blueprint:
    """Bags of words: words STRING [n,t] and nwords INT32 [n], of which the first `nwords` words of a row count.

    Outputs: classes_id INT32 [n], labels STRING [n], softmax FLOAT [n,3]. A word that it does not know
    says nothing.
    """
    import tensorflow as tf

    words_known = [word for words in TOPICS.values() for word in words]
    weights = [[2.0 if word in topic else 0.0 for topic in TOPICS.values()] for word in words_known]
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(words_known, list(range(len(words_known))), tf.string, tf.int64),
        default_value=len(words_known),
    )
    # The last row is that of every unknown word.
    module.weights = tf.Variable([*weights, [0.0] * len(TOPICS)], name="weights")
    module.names = tf.constant(list(TOPICS))

    def classify(words: Any, nwords: Any) -> dict[str, Any]:
        spoken = tf.gather(module.weights, module.table.lookup(words))
        counted = tf.sequence_mask(nwords, tf.shape(words)[1], dtype=tf.float32)
        softmax = tf.nn.softmax(tf.reduce_sum(spoken * counted[:, :, None], axis=1))
        classes_id = tf.argmax(softmax, axis=1, output_type=tf.int32)
        return {"classes_id": classes_id, "labels": tf.gather(module.names, classes_id), "softmax": softmax}

    takes = [tf.TensorSpec([None, None], tf.string, name="words"), tf.TensorSpec([None], tf.int32, name="nwords")]
    return Blueprint(module, {"serving_default": tf.function(classify, input_signature=takes)}, labels=tuple(TOPICS))

"""Small models. None is trained: each computes something that a test can know beforehand.

half_plus_two:     x  -->  x/2 + 2
text_classifier:   words  --table-->  word numbers  --weights-->  class scores  -->  label
saliency:          image  -->  how much each place differs from its surroundings
detector:          image  -->  one box for each colour that is bright somewhere
image_classifier:  image  --two edge filters-->  energies  -->  horizontal, vertical or blank
"""

from __future__ import annotations

from typing import Any

from thriftserve_bench.workloads.saved_model import ModelSource

#: Each class and the words that speak for it.
TOPICS: dict[str, tuple[str, ...]] = {
    "sport": ("football", "goal", "team", "足球", "比赛", "球队"),
    "weather": ("rain", "sun", "wind", "下雨", "天气", "台风"),
    "money": ("bank", "price", "market", "银行", "价格", "股票"),
}

SALIENCY_SIZE = 320
#: The detector always outputs so many boxes; those past the last object have score 0.
MAX_BOXES = 100
#: The object-detection API counts classes from 1; the first label means none.
COLOURS = ("background", "red", "green", "blue", "white")
STRIPES = ("horizontal", "vertical", "blank")
#: A pixel's channel is bright above this, of 255.
BRIGHT = 127

_IMAGE_TOML = """\
# How encoded images become this model's input.
input = "image"
height = 28
width = 28
channels = 1
scale = 0.00392156862745098
scores = "scores"
"""


def half_plus_two() -> ModelSource:
    """Map x FLOAT [n] to y = x/2 + 2; also `half_plus_three`, and `constants`: no inputs, two scalars."""
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

    return ModelSource(
        module,
        {
            "serving_default": tf.function(plus_two, input_signature=vector),
            "half_plus_three": tf.function(plus_three, input_signature=vector),
            "constants": tf.function(constants, input_signature=[]),
        },
    )


def text_classifier() -> ModelSource:
    """Classify bags of words: words STRING [n,t], nwords INT32 [n]; the first `nwords` words of a row count.

    Outputs: classes_id INT32 [n], labels STRING [n], softmax FLOAT [n,3]. Unknown words count for nothing.
    """
    import tensorflow as tf

    words_known = [word for words in TOPICS.values() for word in words]
    weights = [[2.0 if word in topic else 0.0 for topic in TOPICS.values()] for word in words_known]
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(words_known, list(range(len(words_known))), tf.string, tf.int64),
        default_value=len(words_known),
    )
    # The last row is for every unknown word.
    module.weights = tf.Variable([*weights, [0.0] * len(TOPICS)], name="weights")
    module.names = tf.constant(list(TOPICS))

    def classify(words: Any, nwords: Any) -> dict[str, Any]:
        spoken = tf.gather(module.weights, module.table.lookup(words))
        counted = tf.sequence_mask(nwords, tf.shape(words)[1], dtype=tf.float32)
        softmax = tf.nn.softmax(tf.reduce_sum(spoken * counted[:, :, None], axis=1))
        classes_id = tf.argmax(softmax, axis=1, output_type=tf.int32)
        return {"classes_id": classes_id, "labels": tf.gather(module.names, classes_id), "softmax": softmax}

    inputs = [tf.TensorSpec([None, None], tf.string, name="words"), tf.TensorSpec([None], tf.int32, name="nwords")]
    return ModelSource(module, {"serving_default": tf.function(classify, input_signature=inputs)}, labels=tuple(TOPICS))


def saliency() -> ModelSource:
    """Map img_in FLOAT [1,320,320,3], 0 to 1, to img_out FLOAT [1,320,320,1]: 1 where the image differs most."""
    import tensorflow as tf

    module = tf.Module()
    # A near and a far average of the brightness, as two convolutions of one layer would learn them.
    module.near = tf.Variable(tf.ones([5, 5, 3, 1]) / 75.0)
    module.far = tf.Variable(tf.ones([5, 5, 1, 1]) / 25.0)
    side = SALIENCY_SIZE

    def attend(img_in: Any) -> dict[str, Any]:
        near = tf.nn.conv2d(img_in, module.near, 1, "SAME")
        far = tf.nn.conv2d(tf.nn.avg_pool2d(near, 8, 8, "SAME"), module.far, 1, "SAME")
        contrast = tf.abs(near - tf.image.resize(far, [side, side]))
        return {"img_out": contrast / tf.maximum(tf.reduce_max(contrast), 1e-6)}

    inputs = [tf.TensorSpec([1, side, side, 3], tf.float32, name="img_in")]
    return ModelSource(module, {"serving_default": tf.function(attend, input_signature=inputs)})


def detector() -> ModelSource:
    """Find bright rectangles by colour, with the outputs of the TensorFlow object-detection API.

    input_tensor UINT8 [1,h,w,3] -> detection_boxes FLOAT [1,100,4] (y_min, x_min, y_max, x_max as
    fractions), detection_scores FLOAT [1,100] (how much of the box has the colour; best first),
    detection_classes FLOAT [1,100], num_detections FLOAT [1].
    """
    import tensorflow as tf

    def detect(input_tensor: Any) -> dict[str, Any]:
        masks = _colour_masks(tf, input_tensor[0])
        boxes, scores = zip(*(_box(tf, mask) for mask in masks), strict=True)
        best_first = tf.argsort(tf.stack(scores), direction="DESCENDING", stable=True)
        classes = tf.cast(best_first + 1, tf.float32)
        scores_sorted = tf.gather(tf.stack(scores), best_first)
        padding = [[0, MAX_BOXES - len(masks)]]
        return {
            "detection_boxes": tf.pad(tf.gather(tf.stack(boxes), best_first), [*padding, [0, 0]])[None],
            "detection_scores": tf.pad(scores_sorted, padding)[None],
            "detection_classes": tf.pad(classes, padding, constant_values=1.0)[None],
            "num_detections": tf.reduce_sum(tf.cast(scores_sorted > 0, tf.float32))[None],
        }

    inputs = [tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")]
    return ModelSource(tf.Module(), {"serving_default": tf.function(detect, input_signature=inputs)}, labels=COLOURS)


def _colour_masks(tf: Any, image: Any) -> list[Any]:
    """Return where an image [h,w,3] is red, green, blue and white: four BOOL [h,w]."""
    bright = image > BRIGHT
    red, green, blue = bright[:, :, 0], bright[:, :, 1], bright[:, :, 2]
    white = red & green & blue
    return [red & ~green & ~blue, green & ~red & ~blue, blue & ~red & ~green, white]


def _box(tf: Any, mask: Any) -> tuple[Any, Any]:
    """Return the box around a mask [h,w] as fractions, FLOAT [4], and how much of the box the mask fills."""
    size = tf.cast(tf.shape(mask), tf.float32)
    y_min, y_max = _extent(tf, tf.reduce_any(mask, axis=1))
    x_min, x_max = _extent(tf, tf.reduce_any(mask, axis=0))
    area = (y_max - y_min) * (x_max - x_min)
    filled = tf.math.divide_no_nan(tf.reduce_sum(tf.cast(mask, tf.float32)), area)
    box = tf.stack([y_min / size[0], x_min / size[1], y_max / size[0], x_max / size[1]])
    return box, filled


def _extent(tf: Any, line: Any) -> tuple[Any, Any]:
    """Return the first true place of a BOOL [n] and one past the last, as FLOAT; 0 and 0 if none is true."""
    places = tf.cast(tf.where(line)[:, 0], tf.float32)
    any_true = tf.size(places) > 0
    first = tf.where(any_true, tf.reduce_min(places), 0.0)
    last = tf.where(any_true, tf.reduce_max(places) + 1.0, 0.0)
    return first, last


def image_classifier() -> ModelSource:
    """Map image FLOAT [n,28,28,1], 0 to 1, to scores FLOAT [n,3]: horizontal stripes, vertical stripes, blank."""
    import tensorflow as tf

    module = tf.Module()
    rows = tf.constant([[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    module.kernels = tf.Variable(tf.stack([rows, tf.transpose(rows)], axis=-1)[:, :, None, :], name="kernels")
    # The two energies, and a bias that wins where both are small.
    module.weights = tf.Variable([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]], name="weights")
    module.bias = tf.Variable([0.0, 0.0, 0.5], name="bias")

    def classify(image: Any) -> dict[str, Any]:
        edges = tf.nn.conv2d(image, module.kernels, 1, "VALID")
        energy = tf.reduce_mean(tf.square(edges), axis=[1, 2])
        return {"scores": tf.nn.softmax(tf.matmul(energy, module.weights) + module.bias)}

    inputs = [tf.TensorSpec([None, 28, 28, 1], tf.float32, name="image")]
    serving = {"serving_default": tf.function(classify, input_signature=inputs)}
    return ModelSource(module, serving, labels=STRIPES, image_toml=_IMAGE_TOML)

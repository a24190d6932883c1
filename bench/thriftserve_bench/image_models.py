"""Small models on images. None is trained: each computes something that a test can know beforehand.

saliency:          image  -->  how much each place differs from its surroundings
detector:          image  -->  one box for each colour that is bright somewhere
image_classifier:  image  --two edge filters-->  energies  -->  horizontal, vertical or blank
"""

from __future__ import annotations

from typing import Any

from thriftserve_bench.blueprint import Blueprint

SALIENCY_SIZE = 320
#: Boxes that the detector always gives; those past the last object have score 0.
MAX_BOXES = 100
#: The object-detection API counts classes from 1; the first label stands for none.
COLOURS = ("background", "red", "green", "blue", "white")
STRIPES = ("horizontal", "vertical", "blank")
#: A pixel's channel is bright above this, of 255.
BRIGHT = 127

_IMAGE_TOML = """\
# Encoded images become this model's input so.
input = "image"
height = 28
width = 28
channels = 1
scale = 0.00392156862745098
scores = "scores"
"""


def saliency() -> Blueprint:
    """img_in FLOAT [1,320,320,3], 0 to 1 -> img_out FLOAT [1,320,320,1], 0 to 1: 1 where the image differs most."""
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

    takes = [tf.TensorSpec([1, side, side, 3], tf.float32, name="img_in")]
    return Blueprint(module, {"serving_default": tf.function(attend, input_signature=takes)})


def detector() -> Blueprint:
    """Bright rectangles by colour, with the outputs of the TensorFlow object-detection API.

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

    takes = [tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")]
    return Blueprint(tf.Module(), {"serving_default": tf.function(detect, input_signature=takes)}, labels=COLOURS)


def _colour_masks(tf: Any, image: Any) -> list[Any]:
    """Where an image [h,w,3] is red, green, blue and white: four BOOL [h,w]."""
    bright = image > BRIGHT
    red, green, blue = bright[:, :, 0], bright[:, :, 1], bright[:, :, 2]
    white = red & green & blue
    return [red & ~green & ~blue, green & ~red & ~blue, blue & ~red & ~green, white]


def _box(tf: Any, mask: Any) -> tuple[Any, Any]:
    """The box around a mask [h,w] as fractions, FLOAT [4], and how much of it the mask fills."""
    size = tf.cast(tf.shape(mask), tf.float32)
    y_min, y_max = _extent(tf, tf.reduce_any(mask, axis=1))
    x_min, x_max = _extent(tf, tf.reduce_any(mask, axis=0))
    area = (y_max - y_min) * (x_max - x_min)
    filled = tf.math.divide_no_nan(tf.reduce_sum(tf.cast(mask, tf.float32)), area)
    box = tf.stack([y_min / size[0], x_min / size[1], y_max / size[0], x_max / size[1]])
    return box, filled


def _extent(tf: Any, line: Any) -> tuple[Any, Any]:
    """First true place of a BOOL [n] and one past the last, as FLOAT; 0 and 0 where none is."""
    places = tf.cast(tf.where(line)[:, 0], tf.float32)
    found = tf.size(places) > 0
    first = tf.where(found, tf.reduce_min(places), 0.0)
    last = tf.where(found, tf.reduce_max(places) + 1.0, 0.0)
    return first, last


def image_classifier() -> Blueprint:
    """From image FLOAT [n,28,28,1], 0 to 1, to scores FLOAT [n,3]: horizontal stripes, vertical stripes, blank."""
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

    takes = [tf.TensorSpec([None, 28, 28, 1], tf.float32, name="image")]
    serving = {"serving_default": tf.function(classify, input_signature=takes)}
    return Blueprint(module, serving, labels=STRIPES, image_toml=_IMAGE_TOML)

"""MobileNetV2 at its usual size, untrained, with answers that depend on the image.

    image FLOAT [n,224,224,3], -1 to 1  -->  stem, 17 inverted residual blocks, head  -->  scores FLOAT [n,1000]

Freshly initialised, the network answers 0.001 for every class of every image: its batch norms remove what their
layers have in common, and its last layer's weights are too small. So the batch norms are set here to the statistics
of random images, as training would set them, and the last layer is centred and scaled on the same images.
The architecture and its numbers are those of Sandler et al., "MobileNetV2", table 2 (arXiv 1801.04381).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thriftserve_bench.workloads.saved_model import ModelSource

SIZE = 224
CLASSES = 1000
#: Each group of blocks: expansion, channels, blocks, stride of the first.
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _HEAD = 32, 1280
_EPSILON = 1e-3
_SEED = 7
#: Images that the statistics come from.
_CALIBRATION_IMAGES = 8
#: Standard deviation of the last layer's outputs: the best of a thousand classes then has some 0.1 to 0.9.
_SPREAD = 3.0

_IMAGE_TOML = """\
# How encoded images become this model's input: -1 to 1.
input = "image"
height = 224
width = 224
scale = 0.00784313725490196
offset = -1.0
scores = "scores"
"""


def mobilenet_v2() -> ModelSource:
    """Map image FLOAT [n,224,224,3], -1 to 1, to scores FLOAT [n,1000], a softmax that differs between images."""
    import tensorflow as tf

    network = _Network(tf)
    network.calibrate(random_images(_CALIBRATION_IMAGES, _SEED))

    def classify(image: Any) -> dict[str, Any]:
        return {"scores": tf.nn.softmax(network.logits(image))}

    inputs = [tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="image")]
    module = tf.Module()
    module.variables_of_network = network.variables
    serving = {"serving_default": tf.function(classify, input_signature=inputs)}
    labels = tuple(f"class {number}" for number in range(CLASSES))
    return ModelSource(module, serving, labels=labels, image_toml=_IMAGE_TOML)


def random_images(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return images FLOAT [count,224,224,3], -1 to 1, of coarse patches that differ in layout, colour and contrast."""
    random = np.random.default_rng(seed)
    patches = random.uniform(-1, 1, (count, 7, 7, 3)) * random.uniform(0.3, 1, (count, 1, 1, 1))
    colour = random.uniform(-0.3, 0.3, (count, 1, 1, 3))
    large = np.kron(patches + colour, np.ones((1, SIZE // 7, SIZE // 7, 1)))
    return np.asarray(large.clip(-1, 1), np.float32)


class _Network:
    """The layers in order; each creates its variables when it first runs."""

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self._random = np.random.default_rng(_SEED)
        self._calibrating = False
        #: By layer name: what a SavedModel must hold.
        self.variables: dict[str, Any] = {}

    def calibrate(self, images: Any) -> None:
        """Set the batch norms and the last layer to the statistics of these images."""
        self._calibrating = True
        logits = self.logits(images)
        self._calibrating = False
        kernel, bias = self.variables["logits_kernel"], self.variables["logits_bias"]
        factor = _SPREAD / float(np.std(logits - np.mean(logits, axis=0)))
        kernel.assign(kernel * factor)
        bias.assign(-self._tf.reduce_mean(logits, axis=0) * factor)

    def logits(self, x: Any) -> Any:
        """Map FLOAT [n,224,224,3] to [n,1000]."""
        tf = self._tf
        x = tf.nn.relu6(self._norm("stem", self._convolve("stem", x, 3, _STEM, 2)))
        number = 0
        for expansion, channels, blocks, stride in _GROUPS:
            for index in range(blocks):
                x = self._block(f"block{number}", x, expansion, channels, stride if index == 0 else 1)
                number += 1
        x = tf.nn.relu6(self._norm("head", self._convolve("head", x, 1, _HEAD)))
        kernel = self._variable("logits_kernel", (_HEAD, CLASSES), _HEAD)
        bias = self._variable("logits_bias", (CLASSES,), None)
        return tf.matmul(tf.reduce_mean(x, axis=[1, 2]), kernel) + bias

    def _block(self, name: str, x: Any, expansion: int, channels: int, stride: int) -> Any:
        tf = self._tf
        wide = x
        if expansion > 1:
            wide = self._convolve(f"{name}_expand", x, 1, x.shape[-1] * expansion)
            wide = tf.nn.relu6(self._norm(f"{name}_expand", wide))
        kernel = self._variable(f"{name}_depth", (3, 3, wide.shape[-1], 1), 9)
        wide = tf.nn.depthwise_conv2d(wide, kernel, [1, stride, stride, 1], "SAME")
        wide = tf.nn.relu6(self._norm(f"{name}_depth", wide))
        narrow = self._norm(f"{name}_project", self._convolve(f"{name}_project", wide, 1, channels))
        return x + narrow if stride == 1 and x.shape[-1] == channels else narrow

    def _convolve(self, name: str, x: Any, size: int, channels: int, stride: int = 1) -> Any:
        inside = int(x.shape[-1])
        kernel = self._variable(f"{name}_kernel", (size, size, inside, channels), size * size * inside)
        return self._tf.nn.conv2d(x, kernel, stride, "SAME")

    def _norm(self, name: str, x: Any) -> Any:
        """Apply batch norm with the stored statistics; while calibrating, store those of `x` first."""
        tf, channels = self._tf, (int(x.shape[-1]),)
        mean, variance = self._variable(f"{name}_mean", channels, None), self._variable(f"{name}_var", channels, None)
        if self._calibrating:
            new_mean, new_variance = tf.nn.moments(x, [0, 1, 2])
            mean.assign(new_mean)
            variance.assign(new_variance)
        scale, offset = self._variable(f"{name}_scale", channels, 0), self._variable(f"{name}_offset", channels, None)
        return tf.compat.v1.nn.fused_batch_norm(x, scale, offset, mean, variance, _EPSILON, is_training=False)[0]

    def _variable(self, name: str, shape: tuple[int, ...], fan_in: int | None) -> Any:
        """Return a variable, created once: normal for its `fan_in` (arXiv 1502.01852), ones for 0, zeros for None."""
        if name not in self.variables:
            if fan_in:
                value = self._random.normal(0, np.sqrt(2 / fan_in), shape)
            else:
                value = np.zeros(shape) if fan_in is None else np.ones(shape)
            self.variables[name] = self._tf.Variable(value.astype(np.float32), name=name)
        return self.variables[name]

"""A small convolutional network for digits, and how it learns them.

image FLOAT [n,8,8,1]  -->  conv 32 - conv 32 - pool - conv 64 - dense 128 - dense 10  -->  logits FLOAT [n,10]
digits [n,8,8]  --shifted at random, in batches-->  steps down the loss  -->  a trained network
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from demo.digits import CLASSES, SIDE, Array, Digits, as_served
from thriftserve_bench.workloads.saved_model import plain_tensorflow

EPOCHS = 30
_BATCH = 64
#: Falls to zero over the training as a cosine does (Loshchilov and Hutter 2017).
_FIRST_RATE = 2e-3
#: Targets are softened by this much: the scores say less than certain where a digit is odd (Szegedy et al. 2016).
_SMOOTHING = 0.05
_SEED = 1
#: Filters of the convolutions, and units of the hidden dense layer.
_NEAR, _FAR, _HIDDEN = 32, 64, 128
#: Share of the hidden layer's units that are left out at random during training.
_DROPOUT = 0.4

#: Called after each epoch with the number of epochs done and the mean loss of the last one.
OnEpoch = Callable[[int, float], None]


def train(digits: Digits, on_epoch: OnEpoch) -> Any:
    """Train a network on the digits: some seconds on one core.

    Returns:
        A `tf.Module` with `logits(image, training)`.
    """
    tf = plain_tensorflow()
    # The steps are so short that more threads take more processor time and end no sooner.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(_SEED)
    random = np.random.default_rng(_SEED)
    net = make_network(tf, _SEED)
    step = _training_step(tf, net)
    scans, truth = as_served(digits.scans), digits.truth
    for epoch in range(EPOCHS):
        rate = tf.constant(_FIRST_RATE * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2, tf.float32)
        order = random.permutation(len(scans))
        losses = [
            step(tf.constant(_shifted(scans[batch], random)), tf.constant(truth[batch]), rate)
            for batch in np.split(order, range(_BATCH, len(order), _BATCH))
        ]
        on_epoch(epoch + 1, float(np.mean(losses)))
    return net


def _training_step(tf: Any, net: Any) -> Any:
    """Return one training step, compiled: (image, truth, rate) -> loss."""
    optimiser = Adam(tf, net.trainable_variables)

    def step(image: Any, truth: Any, rate: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = net.logits(image, training=True)
            classes = logits.shape[-1]
            target = tf.one_hot(truth, classes) * (1 - _SMOOTHING) + _SMOOTHING / classes
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))
        optimiser.apply(tape.gradient(loss, net.trainable_variables), rate)
        return loss

    return tf.function(step, reduce_retracing=True)


def _shifted(images: Array, random: np.random.Generator) -> Array:
    """Shift each image [n,8,8,1] by up to one pixel each way: people do not centre what they write."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    down, right = random.integers(0, 3, (2, len(images)))
    side = images.shape[1]
    return np.stack([image[y : y + side, x : x + side] for image, y, x in zip(padded, down, right, strict=True)])


def make_network(tf: Any, seed: int) -> Any:
    """Return A `tf.Module` with `logits(image, training)`; its weights are drawn after He et al. 2015."""

    class Network(tf.Module):  # type: ignore[misc, unused-ignore]  # tensorflow comes as an argument
        """The layers, called in their order."""

        def __init__(self) -> None:
            super().__init__(name="digits")
            draw = tf.random.Generator.from_seed(seed)

            def weights(*shape: int) -> Any:
                inputs = 1
                for size in shape[:-1]:
                    inputs *= size
                return tf.Variable(draw.normal(shape, stddev=(2.0 / inputs) ** 0.5))

            flat = (SIDE // 2) ** 2 * _FAR
            self.kernels = [weights(3, 3, 1, _NEAR), weights(3, 3, _NEAR, _NEAR), weights(3, 3, _NEAR, _FAR)]
            self.dense = [weights(flat, _HIDDEN), weights(_HIDDEN, CLASSES)]
            self.biases = [tf.Variable(tf.zeros([size])) for size in (_NEAR, _NEAR, _FAR, _HIDDEN, CLASSES)]

        def logits(self, image: Any, training: bool) -> Any:
            """Scores before the softmax, FLOAT [n,10]."""
            features = image
            for place, kernel in enumerate(self.kernels):
                features = tf.nn.relu(tf.nn.conv2d(features, kernel, 1, "SAME") + self.biases[place])
                if place == 1:
                    features = tf.nn.max_pool2d(features, 2, 2, "VALID")
            hidden = tf.nn.relu(tf.reshape(features, [-1, self.dense[0].shape[0]]) @ self.dense[0] + self.biases[3])
            if training:
                hidden = tf.nn.dropout(hidden, _DROPOUT, seed=seed)
            return hidden @ self.dense[1] + self.biases[4]

    return Network()


class Adam:
    """The optimiser of Kingma and Ba 2015, with their constants."""

    _BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7

    def __init__(self, tf: Any, variables: Any) -> None:
        self._tf = tf
        self._variables = list(variables)
        self._means = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables]
        self._squares = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables]
        self._steps = tf.Variable(0.0)

    def apply(self, gradients: Any, rate: Any) -> None:
        """Move all variables one step against their gradients."""
        steps = self._steps.assign_add(1.0)
        for variable, mean, square, gradient in zip(
            self._variables, self._means, self._squares, gradients, strict=True
        ):
            self._tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=self._BETA_1**steps,
                beta2_power=self._BETA_2**steps,
                lr=rate,
                beta1=self._BETA_1,
                beta2=self._BETA_2,
                epsilon=self._EPSILON,
                grad=gradient,
            )

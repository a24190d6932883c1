"""The network learns the digits.

digits [n,8,8]  --shifted by chance, in batches-->  steps down the loss  -->  a network that tells them apart
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from thriftserve_bench.demo.digits import Array, Digits, as_served
from thriftserve_bench.demo.network import Adam, network
from thriftserve_bench.plain_tensorflow import plain_tensorflow

EPOCHS = 30
_BATCH = 64
#: Falls to zero over the training as a cosine does (Loshchilov and Hutter 2017).
_FIRST_RATE = 2e-3
#: Targets are softened by this much: the scores say less than certain where a digit is odd (Szegedy et al. 2016).
_SMOOTHING = 0.05
_SEED = 1

#: Told after each epoch: how many are done, the mean loss of the last one.
Told = Callable[[int, float], None]


def train(digits: Digits, told: Told) -> Any:
    """A network fitted to the digits; takes some seconds on one core.

    Returns:
        A `tf.Module` with `logits(image, learning)`.
    """
    tf = plain_tensorflow()
    # The steps are so short that more threads take more processor time and end no sooner.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(_SEED)
    chance = np.random.default_rng(_SEED)
    net = network(tf, _SEED)
    step = _step(tf, net)
    scans, truth = as_served(digits.scans), digits.truth
    for epoch in range(EPOCHS):
        rate = tf.constant(_FIRST_RATE * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2, tf.float32)
        order = chance.permutation(len(scans))
        losses = [
            step(tf.constant(_shifted(scans[batch], chance)), tf.constant(truth[batch]), rate)
            for batch in np.split(order, range(_BATCH, len(order), _BATCH))
        ]
        told(epoch + 1, float(np.mean(losses)))
    return net


def _step(tf: Any, net: Any) -> Any:
    """One step of learning, compiled: (image, truth, rate) -> loss."""
    optimiser = Adam(tf, net.trainable_variables)

    def step(image: Any, truth: Any, rate: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = net.logits(image, learning=True)
            classes = logits.shape[-1]
            target = tf.one_hot(truth, classes) * (1 - _SMOOTHING) + _SMOOTHING / classes
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))
        optimiser.apply(tape.gradient(loss, net.trainable_variables), rate)
        return loss

    return tf.function(step, reduce_retracing=True)


def _shifted(images: Array, chance: np.random.Generator) -> Array:
    """Each image [n,8,8,1] moved by up to one pixel each way: people do not centre what they write."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    down, right = chance.integers(0, 3, (2, len(images)))
    side = images.shape[1]
    return np.stack([one[y : y + side, x : x + side] for one, y, x in zip(padded, down, right, strict=True)])

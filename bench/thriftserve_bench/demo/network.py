"""A small convolutional network for digits, and the optimiser that fits it.

image FLOAT [n,8,8,1]  -->  conv 32 - conv 32 - pool - conv 64 - dense 128 - dense 10  -->  logits FLOAT [n,10]
"""

from __future__ import annotations

from typing import Any

from thriftserve_bench.demo.digits import CLASSES, SIDE

#: Filters of the convolutions, and units of the hidden dense layer.
_NEAR, _FAR, _HIDDEN = 32, 64, 128
#: Units of the hidden layer that are left out at random while it learns.
_DROPOUT = 0.4


def network(tf: Any, seed: int) -> Any:
    """A `tf.Module` with `logits(image, learning)`; its weights are drawn after He et al. 2015."""

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

        def logits(self, image: Any, learning: bool) -> Any:
            """Scores before the softmax, FLOAT [n,10]."""
            features = image
            for place, kernel in enumerate(self.kernels):
                features = tf.nn.relu(tf.nn.conv2d(features, kernel, 1, "SAME") + self.biases[place])
                if place == 1:
                    features = tf.nn.max_pool2d(features, 2, 2, "VALID")
            hidden = tf.nn.relu(tf.reshape(features, [-1, self.dense[0].shape[0]]) @ self.dense[0] + self.biases[3])
            if learning:
                hidden = tf.nn.dropout(hidden, _DROPOUT, seed=seed)
            return hidden @ self.dense[1] + self.biases[4]

    return Network()


class Adam:
    """The optimiser of Kingma and Ba 2015, with their constants."""

    _BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7

    def __init__(self, tf: Any, variables: Any) -> None:
        self._tf = tf
        self._variables = list(variables)
        self._means = [tf.Variable(tf.zeros_like(one)) for one in self._variables]
        self._squares = [tf.Variable(tf.zeros_like(one)) for one in self._variables]
        self._steps = tf.Variable(0.0)

    def apply(self, gradients: Any, rate: Any) -> None:
        """One step of all variables against their gradients."""
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

"""Trains the network and writes it as a SavedModel, in a process of its own: TensorFlow ends with it.

python -m demo.make_model DIRECTORY  -->  one JSON line an epoch  -->  DIRECTORY/saved_model.pb
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from demo import digits, training
from thriftserve_bench.workloads.saved_model import plain_tensorflow

_IMAGE_TOML = f"""\
# How encoded images become this model's input.
input = "image"
height = {digits.SIDE}
width = {digits.SIDE}
channels = 1
resample = "bilinear"
scale = {1 / 255!r}
scores = "scores"
"""


def make(directory: Path) -> None:
    """Train on the digits and write a version directory; print each epoch on stdout."""
    network = training.train(digits.load().train, _print_epoch)
    _save(network, directory)
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(digits.CLASSES)), encoding="utf-8")
    (extra / "image.toml").write_text(_IMAGE_TOML, encoding="utf-8")
    (directory / digits.RECIPE_FILE).write_text(f"{digits.RECIPE}\n", encoding="utf-8")


def _print_epoch(epoch: int, loss: float) -> None:
    print(json.dumps({"epoch": epoch, "epochs": training.EPOCHS, "loss": round(loss, 4)}), flush=True)


def _save(network: Any, directory: Path) -> None:
    """Signature: image FLOAT [n,8,8,1], 0 to 1 -> scores FLOAT [n,10], the probability of each digit."""
    tf = plain_tensorflow()

    def classify(image: Any) -> dict[str, Any]:
        return {"scores": tf.nn.softmax(network.logits(image, training=False))}

    inputs = [tf.TensorSpec([None, digits.SIDE, digits.SIDE, 1], tf.float32, name="image")]
    signature = tf.function(classify, input_signature=inputs)
    tf.saved_model.save(network, str(directory), signatures={"serving_default": signature})


if __name__ == "__main__":
    make(Path(sys.argv[1]))

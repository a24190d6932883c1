"""Python models that the gateway's tests serve, by `python:gateway_models:NAME`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from thriftserve import errors

KINDS = (
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint32",
    "uint64",
    "bool",
    "string",
    "bfloat16",
)
Inputs = dict[str, Any]


class Kinds:
    """A signature for each element type, named after it: x of any shape, given back as y."""

    signatures = {  # noqa: RUF012
        **{kind: {"inputs": {"x": kind}, "outputs": {"y": kind}} for kind in KINDS},
        "serving_default": {"inputs": {"a": "float32", "b": "int32"}, "outputs": {"a": "float32", "b": "int32"}},
        "bytes": {"inputs": {"x": "string"}, "outputs": {"y_bytes": "string"}},
        "texts": {"inputs": {"x": "string"}, "outputs": {"text": "string", "raw_bytes": "string"}},
        "odd": {"inputs": {"x": "float32"}, "outputs": {"y": "float32"}},
        "uneven": {"inputs": {"x": "float32"}, "outputs": {"y": "float32", "z": "float32"}},
        "total": {"inputs": {"x": "float32"}, "outputs": {"sum": ("float32", [])}},
    }

    def __getattr__(self, name: str) -> Any:
        if name not in KINDS:
            raise AttributeError(name)
        return lambda inputs: {"y": inputs["x"]}

    def predict(self, inputs: Inputs) -> Inputs:
        return inputs

    def bytes(self, inputs: Inputs) -> Inputs:
        return {"y_bytes": inputs["x"]}

    def texts(self, inputs: Inputs) -> Inputs:
        return {"text": inputs["x"], "raw_bytes": inputs["x"]}

    def odd(self, inputs: Inputs) -> Inputs:
        with np.errstate(all="ignore"):
            return {"y": np.stack([inputs["x"] / np.float32(0), -inputs["x"] / np.float32(0)], axis=-1)}

    def uneven(self, inputs: Inputs) -> Inputs:
        return {"y": inputs["x"], "z": inputs["x"][:1]}

    def total(self, inputs: Inputs) -> Inputs:
        return {"sum": inputs["x"].sum(dtype=np.float32)}


class Scores:
    """Gives an image the scores that nobody expects."""

    signatures = {  # noqa: RUF012
        "inputs": {"image": ("float32", [None, 4, 4, 3])},
        "outputs": {"scores": ("float32", [None, 6])},
    }

    def predict(self, inputs: Inputs) -> Inputs:
        return {"scores": [[np.nan, 0.1, -np.inf, -0.0, np.inf, 1 / 3]] * len(inputs["image"])}


class Objects:
    """Finds two objects in an image, one of them where none can be."""

    signatures = {  # noqa: RUF012
        "inputs": {"image": ("float32", [None, 4, 4, 3])},
        "outputs": {
            "detection_boxes": ("float32", [None, 2, 4]),
            "detection_scores": ("float32", [None, 2]),
            "detection_classes": ("float32", [None, 2]),
            "num_detections": ("float32", [None]),
        },
    }

    def predict(self, inputs: Inputs) -> Inputs:
        many = len(inputs["image"])
        return {
            "detection_boxes": [[[0.1, np.nan, -np.inf, -0.0], [0, 0, 1, 1]]] * many,
            "detection_scores": [[np.inf, 0.9]] * many,
            "detection_classes": [[1, 1]] * many,
            "num_detections": [2] * many,
        }


class Moody:
    """Fails as its input `how` says: the name of one of our errors, "raise", or "sleep 0.5"."""

    signatures = {"inputs": {"how": ("string", [None])}, "outputs": {"how": ("string", [None])}}  # noqa: RUF012

    def predict(self, inputs: Inputs) -> Inputs:
        word, _, rest = inputs["how"][0].decode().partition(" ")
        if word == "sleep":
            time.sleep(float(rest))
        elif word == "raise":
            raise KeyError("the model's own fault")
        elif word != "fine":
            raise getattr(errors, word)("as you wished")
        return inputs


class Classes:
    """Gives back what it is sent as scores of three classes, two of which have names; or sleeps for `sleep_s`."""

    signatures = {  # noqa: RUF012
        "serving_default": {
            "inputs": {"x": ("float32", [None, 3])},
            "outputs": {
                "scores": ("float32", [None, 3]),
                "number": ("int64", [None]),
                "known": ("bool", [None, 3]),
                "name": ("string", [None]),
                "total": ("float32", []),
            },
        },
        "slow": {"inputs": {"sleep_s": ("float32", [])}, "outputs": {"slept": ("float32", [])}},
    }
    labels = ("cat", "", "big: dog")

    def predict(self, inputs: Inputs) -> Inputs:
        x = inputs["x"]
        best = x.argmax(axis=1)
        names = [self.labels[at] for at in best]
        return {"scores": x, "number": best, "known": x > 0, "name": names, "total": x.sum(dtype=np.float32)}

    def slow(self, inputs: Inputs) -> Inputs:
        time.sleep(float(inputs["sleep_s"]))
        return {"slept": inputs["sleep_s"]}


class Anything:
    """Declares nothing, and gives back what it is sent."""

    def predict(self, inputs: Inputs) -> Inputs:
        return inputs

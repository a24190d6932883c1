"""Python models that the tests serve, by `python:served_models:NAME`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from thriftserve.errors import InvalidArgument


class Doubler:
    """Declares nothing: takes x, gives y = 2x and what was sent."""

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"] * 2, **inputs}


class Declared:
    """Declares two signatures and labels, takes options, counts its steps."""

    signatures = {  # noqa: RUF012  (written as a model's author would)
        "serving_default": {"inputs": {"x": ("float32", [None, 2])}, "outputs": {"y": ("float32", [None, 2])}},
        "spell": {"inputs": {"word": "string"}, "outputs": {"word": ("string", [])}},
    }
    labels = ["none", "some"]  # noqa: RUF012

    def __init__(self, factor: str = "1", note: str = "") -> None:
        self.factor, self.note = float(factor), note
        self.steps: list[str] = []

    def load(self) -> None:
        self.steps.append("load")

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"] * np.float32(self.factor)}

    def spell(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"word": np.array(self.note.encode(), object)}

    def close(self) -> None:
        self.steps.append("close")


class Faulty:
    """Does what `how` says instead of answering."""

    def __init__(self, how: str = "") -> None:
        self.how = how

    def load(self) -> None:
        if self.how == "load":
            raise OSError("no weights")

    def predict(self, inputs: dict[str, Any]) -> Any:
        if self.how == "refuse":
            raise InvalidArgument("x must be odd")
        if self.how == "raise":
            raise KeyError("x")
        return {"list": [1], "dict": {"y": [1, [2, 3]]}}[self.how]


class Undone:
    """Declares a signature that it has no method for."""

    signatures: ClassVar[dict[str, Any]] = {"other": {"inputs": {}, "outputs": {}}}


class Strange:
    """Declares an element type that requests can't carry."""

    signatures: ClassVar[dict[str, Any]] = {"inputs": {"x": "complex64"}}

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {}


NOT_A_CLASS = 3

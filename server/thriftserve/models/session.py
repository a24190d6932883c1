"""What a model is to everybody else: its signatures, and the protocol of everything that runs one.

    SavedModel's signature_def | Python model's own table  -->  Signature  -->  metadata, validation, warm-up
    inputs (numpy, by name) --> Session.run(signature, inputs, outputs) --> outputs (numpy, by name)

The service and the batcher know a model by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thriftserve_idl.ttypes import DataType

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    `shape` has None for a free size, and is None itself for a free rank.
    """

    name: str
    dtype: DataType
    shape: tuple[int | None, ...] | None = None
    #: Its name in the model's graph, like "dense/Softmax:0"; empty where there is no graph.
    tensor_name: str = field(default="", compare=False)

    @property
    def has_rows(self) -> bool:
        """Whether the leading size is free, as of a batch."""
        return self.shape is not None and self.shape[:1] == (None,)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of that shape is of the declared rank and sizes."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(map(_is_size, shape, self.shape))


@dataclass(frozen=True)
class Signature:
    """One function that a model offers, by the names that requests use."""

    name: str
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    method_name: str = ""
    #: False for a Python model that declares no signature: it gets whatever is sent.
    validated: bool = True


def describe_shape(shape: Iterable[int | None] | None) -> str:
    """Return a shape for people: "[?, 3]" with "?" for a free size, or "any" for a free rank."""
    return "any" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _is_size(size: int, declared: int | None) -> bool:
    return declared is None or size == declared


Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class Session(Protocol):
    """A loaded version of a model. Backends derive from it and inherit what they have no word on.

    `run` and `run_each` may be called from several threads at once.
    """

    #: Every signature, by name.
    signatures: Mapping[str, Signature]
    #: The backend: "tensorflow" or "python".
    platform: str
    #: Where it runs: "cpu", "gpu:0", ….
    device: str
    #: Whether requests may share runs, by the author's word; None: where that is shown to change no answer.
    batching: bool | None = None
    #: Whether `run` takes inputs of other shapes than the signature declares, and says itself whether they fit.
    takes_any_shape: bool = False
    #: Inputs by signature that the author gives to try it with: for warm-up, and to show that requests may share runs.
    examples: Mapping[str, Arrays] = MappingProxyType({})

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Run one signature.

        Args:
            signature: a key of `signatures`.
            inputs: one array for each of its inputs, of the dtype and shape that it declares;
                STRING tensors are object arrays of bytes.
            outputs: names of the outputs wanted; each is a key of the signature's outputs.

        Returns:
            One array for each name in `outputs`.

        Raises:
            InvalidArgument: The model refused the inputs.
            Internal: The model failed.
        """

    def runs_each(self, signature: str) -> bool:
        """Return whether `run_each` is how several requests to a signature share a run."""
        return False

    def run_each(self, signature: str, inputs: Sequence[Arrays], outputs: Sequence[str]) -> list[dict[str, Array]]:
        """Run several requests to one signature, each with its own inputs, and return each one's outputs.

        Raises:
            InvalidArgument: The model refused the inputs of one of them.
            Internal: The model failed, or did not answer each.
        """
        return [self.run(signature, own, outputs) for own in inputs]

    def close(self) -> None:
        """Free the model's resources. Nobody calls `run` afterwards."""

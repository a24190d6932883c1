"""The protocol of everything that runs a model: a TensorFlow session, a Python model, a fake of a test.

    inputs (numpy, by name) --> Session.run(signature, inputs, outputs) --> outputs (numpy, by name)

The service and the batcher know a model by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thriftserve.models.signature import Signature

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

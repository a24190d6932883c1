"""The small protocol that everything served has: a TensorFlow session, a Python model, a fake of a test.

    inputs (numpy, by name) --> Session.run(signature, inputs, outputs) --> outputs (numpy, by name)

The handler knows a model by nothing else.
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
    """A loaded version of a model. `run` may be called from several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""

    @property
    def platform(self) -> str:
        """What runs it: "tensorflow" or "python"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "gpu:0", …."""

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Runs one signature.

        Args:
            signature: a key of `signatures`.
            inputs: one array for each of its inputs, of the dtype and shape that it declares;
                STRING tensors are object arrays of bytes.
            outputs: names of the outputs wanted; each is a key of the signature's outputs.

        Returns:
            One array for each name in `outputs`.

        Raises:
            InvalidArgument: the model refused the inputs.
            Internal: the model failed.
        """

    def close(self) -> None:
        """Frees what it holds. Nobody calls `run` afterwards."""

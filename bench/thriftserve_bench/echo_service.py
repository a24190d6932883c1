"""The service that is measured: what goes in comes out, so that nothing but the serving costs anything.

PredictRequest.inputs  -->  PredictResponse.outputs
"""

from __future__ import annotations

from typing import Any

from thriftserve_idl import Predict
from thriftserve_idl.ttypes import PredictRequest, PredictResponse


class Echo:
    """The two methods that are called."""

    def ping(self) -> None:
        """Answers."""

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Gives the inputs back as outputs."""
        return PredictResponse(model_spec=request.model_spec, outputs=request.inputs)


def echo_processor() -> Any:
    """The generated processor around `Echo`."""
    return Predict.Processor(Echo())

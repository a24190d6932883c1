"""The Thrift services that host programs serve: an echo, or a workload.

PredictRequest.inputs  -->  PredictResponse.outputs: sent back as they are, so that only the serving costs anything
PredictRequest  -->  arrays  -->  workload.predict  -->  PredictResponse, with the pid of the process that answered
"""

from __future__ import annotations

import importlib
import os
import time
from typing import Any
from urllib.parse import parse_qsl

from thriftserve_idl import Predict
from thriftserve_idl.ttypes import PredictRequest, PredictResponse, Timing


class EchoService:
    """The two methods that are called."""

    def ping(self) -> None:
        """Answer."""

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Return the inputs as outputs."""
        return PredictResponse(model_spec=request.model_spec, outputs=request.inputs)


class WorkloadService:
    """The service that an application on Apache's classes would write around a model.

    Args:
        workload: has `predict(inputs) -> outputs`, dicts of arrays.
    """

    def __init__(self, workload: Any) -> None:
        # The codec imports numpy, whose memory the echo service's hosts must not have.
        from thriftserve_client import codec

        self._codec = codec
        self._workload = workload

    def ping(self) -> None:
        """Answer."""

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Run the workload, whatever model is named."""
        inputs = {name: self._codec.from_tensor(tensor) for name, tensor in request.inputs.items()}
        began = time.perf_counter_ns()
        outputs = self._workload.predict(inputs)
        compute_us = (time.perf_counter_ns() - began) // 1000
        return PredictResponse(
            model_spec=request.model_spec,
            outputs={name: self._codec.to_tensor(value) for name, value in outputs.items()},
            timing=Timing(queue_us=0, compute_us=compute_us, batch_size=1, worker_pid=os.getpid()),
        )


def make_processor(workload: str | None) -> Any:
    """Return the generated processor around a service.

    Args:
        workload: "package.module:Class?option=value", as `thriftserve serve --model NAME=python:…` takes it;
            None: the echo service.
    """
    return Predict.Processor(WorkloadService(_load(workload)) if workload else EchoService())


def _load(source: str) -> Any:
    target, _, query = source.partition("?")
    module, _, name = target.partition(":")
    workload = getattr(importlib.import_module(module), name)(**dict(parse_qsl(query)))
    if hasattr(workload, "load"):
        workload.load()
    return workload

"""A workload as a Thrift service: what an application on Apache's classes would write around it.

PredictRequest  -->  arrays  -->  workload.predict  -->  PredictResponse, with the pid of the process that answered
"""

from __future__ import annotations

import importlib
import os
import time
from typing import Any
from urllib.parse import parse_qsl

from thriftserve_client.codec import from_tensor, to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import PredictRequest, PredictResponse, Timing


class WorkloadService:
    """The two methods that are called.

    Args:
        workload: has `predict(inputs) -> outputs`, dicts of arrays.
    """

    def __init__(self, workload: Any) -> None:
        self._workload = workload

    def ping(self) -> None:
        """Answers."""

    def predict(self, request: PredictRequest) -> PredictResponse:
        """Runs the workload, whatever model is named."""
        inputs = {name: from_tensor(tensor) for name, tensor in request.inputs.items()}
        began = time.perf_counter_ns()
        outputs = self._workload.predict(inputs)
        compute_us = (time.perf_counter_ns() - began) // 1000
        return PredictResponse(
            model_spec=request.model_spec,
            outputs={name: to_tensor(value) for name, value in outputs.items()},
            timing=Timing(queue_us=0, compute_us=compute_us, batch_size=1, worker_pid=os.getpid()),
        )


def workload_processor(source: str) -> Any:
    """The generated processor around a workload.

    Args:
        source: "package.module:Class?option=value", as `thriftserve serve --model NAME=python:…` takes it.
    """
    target, _, query = source.partition("?")
    module, _, name = target.partition(":")
    workload = getattr(importlib.import_module(module), name)(**dict(parse_qsl(query)))
    if hasattr(workload, "load"):
        workload.load()
    return Predict.Processor(WorkloadService(workload))

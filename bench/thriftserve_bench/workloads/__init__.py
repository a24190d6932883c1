"""What servers run and clients send: models that stand for a service's work, requests, and right answers.

`thriftserve serve --model 'sleep=python:thriftserve_bench.workloads:Sleep?ms=5'` serves the classes below.
"""

from thriftserve_bench.workloads.timed import HoldGil, SavedModel, Sleep, Spin

__all__ = ["HoldGil", "SavedModel", "Sleep", "Spin"]

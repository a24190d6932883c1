"""Loads that kill the worker: whose they are, how often they are tried, and what goes on serving meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from documents import SUPPORT
from served import Served
from thriftserve_client import Client
from thriftserve_client.results import VersionStatus

MODEL = """
[[model]]
name = "{}"
base_path = "python:fault_models:CrashesWith?rows={}"
model_platform = "python"
"""
QUICK = ("--workers", "1", "--model-config-poll-s", "0.1", "--load-retry-interval-s", "0.1", "--max-load-retries", "1")


@pytest.mark.parametrize("rows", [1, 2], ids=["zeros", "rehearsed"])
def test_a_worker_killed_in_warm_up_is_a_failed_load(tmp_path: Path, rows: int) -> None:
    """A model whose warm-up kills its worker has failed to load: it is tried again once, then kept out."""
    listed = tmp_path / "models.toml"
    listed.write_text(MODEL.format("calm", 99))
    here = str(SUPPORT)
    with Served("--model-config-file", str(listed), *QUICK, PYTHONPATH=here) as server, server.client() as client:
        listed.write_text(MODEL.format("calm", 99) + MODEL.format("wild", rows))
        while "is not tried again by itself" not in server.log() or _state(client).state != "END":
            time.sleep(0.02)
        assert _state(client).error_message == "the worker process ended while it loaded this version"
        assert client.predict("calm", {"x": np.zeros(1, np.float32)}).outputs["x"].tolist() == [0]
        told = [line for line in server.log().splitlines() if "wild" in line and "tried again" in line]
        assert ["not tried again" in line for line in told] == [False, True]


def _state(client: Client) -> VersionStatus:
    return next(model.versions[0] for model in client.models() if model.name == "wild")

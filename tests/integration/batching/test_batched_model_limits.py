"""A model's own limit of requests that wait: on TBatchingServer they wait in the front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batched_load import Pipe, busy, frame, queued, steered, told
from hosting import eventually
from thriftserve_bench.workloads import builders
from thriftserve_client import ResourceExhaustedError

LIMIT = 2
X = np.array([1, 2], np.float32)


def test_a_model_s_own_limit(tmp_path: Path) -> None:
    """Past max_enqueued of its model.toml a model's request is refused at once; another model's is taken."""
    base = builders.build("half_plus_two", tmp_path)
    (base / "model.toml").write_text(f"[batching]\nmax_enqueued = {LIMIT}\n")
    with steered(tmp_path, "--workers", "1", "--model", f"limited={base}") as server, Pipe(server) as pipe:
        with busy(pipe, tmp_path, "gate"), Pipe(server) as many, server.client() as other:
            sent = 1
            while queued(server)[0] == 0:  # the first ones lie in the worker's hand, behind the one that runs
                sent += 1
                pipe.send(frame(sent, told("", sent)))
                eventually(lambda: queued(server)[1] > 0, "requests that are held")
            for number in range(LIMIT):
                many.send(frame(number, {"x": X}, model="limited"))
            eventually(lambda: queued(server)[0] == 1 + LIMIT, "as many as may wait")
            for _ in range(3):
                with pytest.raises(ResourceExhaustedError, match="queue of 'limited' is full: 2 requests") as caught:
                    other.predict("limited", {"x": X})
                assert caught.value.retryable
            pipe.send(frame(sent + 1, told("", sent + 1)))
            eventually(lambda: queued(server)[0] == 2 + LIMIT, "another model's request that waits")
            (tmp_path / "gate").touch()
            assert len(list(many.answers(LIMIT))) == LIMIT
            assert (other.predict("limited", {"x": X})["y"] == X / 2 + 2).all(), "there is room again"
        assert len(list(pipe.answers(sent + 1))) == sent + 1

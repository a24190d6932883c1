"""Batching in a server of threads: the settings and the model's own file, from the command line to the answers."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from batching_models import saved_model
from served import Served


def test_clients_of_a_threaded_server_share_runs(tmp_path: Path) -> None:
    """Told to, a server of threads puts the requests of its clients together; each gets its own answer."""
    shutil.copytree(saved_model(), tmp_path / "1")
    # Waits for a full run, so that there is one whatever the machine does meanwhile.
    (tmp_path / "model.toml").write_text("[batching]\nmax_batch_size = 4\nbatch_timeout_ms = 60000\n")
    with Served("--server-type", "TThreadedServer", "--model", f"m={tmp_path}") as server:

        def call(number: int) -> int:
            x = np.full((1, 3), number, np.float32)
            with server.client() as client:
                response = client.predict("m", {"x": x})
            np.testing.assert_array_equal(response.outputs["y"], x * 2 + 1)
            assert response.timing is not None
            size: int = response.timing.batch_size
            return size

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(call, range(8))) == [4] * 8
        assert server.stop() == (0, "")

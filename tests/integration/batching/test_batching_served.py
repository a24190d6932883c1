"""`max_batch_size` where requests can't share runs."""

from __future__ import annotations

import numpy as np

from served import Served
from small_models import small


def test_only_the_batching_server_shares_runs() -> None:
    """The setting is taken by the other types, as it was, and has no effect there; the log says so once."""
    flags = ("--server-type", "TThreadedServer", "--max-batch-size", "4", "--model", f"m={small('half_plus_two')}")
    with Served(*flags) as server, server.client() as client:
        done = client.predict("m", {"x": np.arange(9, dtype=np.float32)})
        np.testing.assert_array_equal(done["y"], np.arange(9) / 2 + 2)
        assert done.timing is not None
        assert done.timing.batch_size == 9
        told = [line for line in server.log().splitlines() if "max_batch_size" in line]
        assert len(told) == 1
        assert "TThreadedServer does not use max_batch_size=4" in told[0]

"""Requests that crash their process, in every server type: the server goes on, and answers the next client."""

from __future__ import annotations

import numpy as np
import pytest

from documents import SUPPORT
from hosting import PATIENCE_S
from served import Served
from thriftserve.errors import ExitCode
from thriftserve.settings.host import SERVER_TYPES
from thriftserve.supervisor.arbiter import MAX_FAILURES
from thriftserve_client import ThriftServeClientError

#: One more than the failures in a row that end a server that was never ready.
KILLS = MAX_FAILURES + 1
MODELS = ("--model", "good=python:fault_models:Ledger?path=/dev/null", "--model", "bad=python:fault_models:Crasher")
X = np.array([1.0], np.float32)


@pytest.mark.parametrize("server_type", SERVER_TYPES)
def test_no_request_ends_the_server(server_type: str) -> None:
    """After requests that crashed one process after the other, the next client is answered, and SIGTERM ends well."""
    with Served("--server-type", server_type, "--workers", "1", *MODELS, PYTHONPATH=str(SUPPORT)) as server:
        for _ in range(KILLS):
            with server.client() as client, pytest.raises(ThriftServeClientError):
                client.predict("bad", {"x": X})
        with server.client() as client:
            client.wait_for_ready(PATIENCE_S)
            assert client.predict("good", {"x": X})["x"].tolist() == [1.0]
        assert server.process.poll() is None
        assert server.stop() == (ExitCode.OK, "")
        assert "can't go on" not in server.log()

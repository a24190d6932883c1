"""How many of our files one predict runs through: a request can be followed in one sitting.

Counted is what people read: the server's and the client's files, not the generated stubs. The request is the second of
its kind, and it is decoded and checked in full: call templates are off.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from documents import ROOT, SUPPORT
from small_models import small
from thriftserve_bench.processes import ServerProcess
from thriftserve_client import Client

#: The most files that one predict may cross. docs/explanation/architecture.md has today's counts.
MOST = {"TBatchingServer": 30, "TThreadedServer": 20}


def crossed(server_type: str, tmp_path: Path, model: Path) -> set[str]:
    """Return the files, from the project's root, that the second predict of a server runs through."""
    command = [sys.executable, str(SUPPORT / "traced_server.py"), str(tmp_path), "serve"]
    arguments = ["--model", f"m={model}", "--server-type", server_type, "--port", "0", "--no-template-cache"]
    with ServerProcess(arguments, command=command) as server, Client("127.0.0.1", server.port) as client:
        workers = {process.pid for process in client.server_status().workers if process.role in ("front", "worker")}
        client.predict("m", {"x": np.zeros(1, np.float32)})
        (tmp_path / "armed").touch()
        assert client.predict("m", {"x": np.ones(1, np.float32)})["y"].tolist() == [2.5]
        (tmp_path / "armed").unlink()
    traces = [tmp_path / str(pid) for pid in workers]
    names = {line for trace in traces if trace.exists() for line in trace.read_text(encoding="utf-8").splitlines()}
    return {str(Path(name).relative_to(ROOT)) for name in names}


@pytest.mark.parametrize("server_type", sorted(MOST))
def test_a_predict_crosses_few_files(server_type: str, tmp_path: Path) -> None:
    """One predict of a small tensor runs through at most so many files, generated stubs left out."""
    files = crossed(server_type, tmp_path, small("half_plus_two"))
    print(f"{server_type}: {len(files)}", *sorted(files), sep="\n  ")
    assert any("service/predict" in name for name in files)
    assert len(files) <= MOST[server_type], sorted(files)

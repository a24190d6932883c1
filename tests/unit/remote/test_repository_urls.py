"""Models whose base path is a URL, served: what comes, what is kept while the URL is away, what goes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import psutil

from changing import X, keeper, put, state, states, wait_until
from served import Served, command
from thriftserve.errors import ExitCode
from web_directory import http_server

#: What has landed is looked at by itself, however seldom base paths on this machine are.
EVERY = ("--mirror-poll-s", "0.1", "--file-system-poll-s", "0", "--workers", "1")


def mirrors(server: Served) -> list[psutil.Process]:
    """The processes that mirror URLs for a server."""
    found = []
    for one in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            found += [one] if "thriftserve.remote.mirror_agent" in one.cmdline() else []
    return found


def test_versions_behind_a_url(tmp_path: Path) -> None:
    """Versions come whole and go; a server that is away unloads nothing, and a restart serves what came before."""
    base = tmp_path / "half"
    put(base, 1)
    with http_server(tmp_path) as (url, _):
        arguments = ("--model", f"half={url}/half", "--state-dir", str(tmp_path / "state"), *EVERY)
        with Served(*arguments) as server:
            late = put(base, 2) / "variables" / "variables.index"
            late.rename(tmp_path / "late")  # a slow upload, and the index comes last
            wait_until(lambda: "half/2: is incomplete: variables/variables.index is missing" in server.log())
            assert list(states(server)) == [1]
            (tmp_path / "late").rename(late)
            wait_until(lambda: state(server, 2) == "AVAILABLE" and state(server, 1) == "END")

            base.rename(tmp_path / "away")
            wait_until(lambda: f"{url}/half: there is no such directory" in server.log())
            with server.client() as client:
                assert client.predict("half", {"x": X}).version == 2
            (tmp_path / "away").rename(base)
            wait_until(lambda: f"{url}/half: recovered" in server.log())

            # The process that mirrors may die at any time, and the keeper with it.
            (mirroring,) = mirrors(server)
            mirroring.kill()
            wait_until(lambda: [one.pid for one in mirrors(server)] not in ([], [mirroring.pid]))
            psutil.Process(keeper(server)).kill()
            put(base, 3)
            wait_until(lambda: state(server, 3) == "AVAILABLE")
            wait_until(lambda: len(mirrors(server)) == 1)
            (mirroring,) = mirrors(server)
            shutil.rmtree(base / "3")
            wait_until(lambda: state(server, 3) == "END" and state(server, 2) == "AVAILABLE")
            assert server.stop() == (ExitCode.OK, "")
            wait_until(lambda: not mirroring.is_running())
    with Served(*arguments) as server:
        assert state(server, 2) == "AVAILABLE"
        assert "can't be listed" in server.log()


def test_nothing_behind_a_url(tmp_path: Path) -> None:
    """A server whose only model can't be had does not start, and says why."""
    wanted = command("serve", "--port", "0", "--model", "m=http://127.0.0.1:1/m")
    done = subprocess.run(wanted, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == ExitCode.MODEL_LOAD
    assert "model 'm': http://127.0.0.1:1/m: can't be listed" in done.stderr.splitlines()[-1]

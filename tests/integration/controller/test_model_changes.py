"""Models that change while the server serves: versions that come, go and fail, labels, operators' commands."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from changing import (
    QUICK,
    Callers,
    X,
    control,
    half_version,
    keeper,
    put,
    refused,
    spoiled,
    state,
    states,
    steps,
    wait_until,
)
from served import Served
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, SetVersionLabelRequest


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base path with version 1."""
    place = tmp_path / "half"
    put(place, 1)
    return place


@pytest.mark.parametrize("server_type", ["TBatchingServer", "TProcessPoolServer", "TThreadPoolServer"])
def test_versions_come_and_go_under_load(server_type: str, base: Path) -> None:
    """A new version is picked up by itself, the old one ends, a removed one too; no request of anybody fails."""
    with Served("--model", f"half={base}", "--server-type", server_type, *QUICK) as server:
        with Callers(server, 3) as callers:
            put(base, 2)
            wait_until(lambda: state(server, 2) == "AVAILABLE" and state(server, 1) == "END")
            shutil.rmtree(base / "2")
            wait_until(lambda: state(server, 1) == "AVAILABLE" and state(server, 2) == "END")
            before = callers.calls
            wait_until(lambda: callers.calls > before + 20 or bool(callers.failures))
        with server.client() as client:
            told = client.models()[0]
        # Version 1 came twice, version 2 once, and each left once.
        assert told.transitions is not None
        assert (told.transitions["AVAILABLE"], told.transitions["UNLOADING"]) == (3, 2)
        assert all(one.load_time_ms is not None and one.load_time_ms > 0 for one in told.versions)
        assert not callers.failures
        assert callers.versions == {1, 2}
        log = server.log()
        assert '"version": 2, "before": "LOADING", "state": "AVAILABLE"' in log
        assert server.stop() == (ExitCode.OK, "")


def test_failed_and_half_copied_versions(base: Path) -> None:
    """A copy that is not done is never loaded; a version that fails leaves the old one and is retried."""
    with Served("--model", f"half={base}", *QUICK, "--max-load-retries", "1") as server:
        version = base / "2"
        (version / "variables").mkdir(parents=True)
        shutil.copy(half_version() / "saved_model.pb", version)
        wait_until(lambda: "half/2: is incomplete" in server.log())
        assert list(states(server)) == [1]

        broken = spoiled(put(base.parent / "aside", 3)).rename(base / "3")
        wait_until(lambda: "is not tried again by itself" in server.log() and state(server, 3) == "END")
        assert "height" in states(server)[3][1]
        assert state(server, 1) == "AVAILABLE"
        with server.client() as client:
            assert client.predict("half", {"x": X}).version == 1

        (broken / "assets.extra" / "image.toml").unlink()
        signal_process(server.pid, signal.SIGHUP)  # everything is tried anew
        wait_until(lambda: state(server, 3) == "AVAILABLE" and state(server, 1) == "END")
        assert server.stop() == (ExitCode.OK, "")


def test_labels_move_at_once_and_stay(base: Path, tmp_path: Path) -> None:
    """A label answers from the version that it was moved to last, in every worker, and after a restart."""
    put(base, 2)
    listed = tmp_path / "models.config"
    listed.write_text(
        f"model_config_list {{ config {{ name: 'half' base_path: '{base}' model_version_policy {{ all {{}} }}\n"
        "version_labels { key: 'stable' value: 1 } } }"
    )
    arguments = ("--model-config-file", str(listed), *QUICK[:-1], "2", "--state-dir", str(tmp_path / "state"))
    with Served(*arguments, "--control-port", "0") as server:
        with server.client() as client, control(server) as operator:
            assert {client.predict("half", {"x": X}, label="stable").version for _ in range(4)} == {1}
            answer = operator.setVersionLabel(SetVersionLabelRequest("half", "stable", 2), None)
            assert [(one.version, one.labels) for one in answer.versions] == [(2, ["stable"]), (1, [])]
            assert {client.predict("half", {"x": X}, label="stable").version for _ in range(8)} == {2}
            assert "not available" in refused(
                lambda: operator.setVersionLabel(SetVersionLabelRequest("half", "stable", 9), None)
            )
        assert server.stop() == (ExitCode.OK, "")
    with Served(*arguments) as server, server.client() as client:
        assert client.predict("half", {"x": X}, label="stable").version == 2


def test_operators_load_and_unload(base: Path) -> None:
    """Models come and go by command, one version of several for a rollback; reloadConfig has the configuration hold."""
    put(base, 2)
    with Served("--model", f"half={base}", "--control-port", "0", *QUICK) as server, control(server) as operator:
        operator.loadModel(LoadModelRequest("other", str(base), 1), None)
        wait_until(lambda: state(server, 1, "other") == "AVAILABLE")
        operator.loadModel(LoadModelRequest("half", str(base), 1), None)  # a rollback
        wait_until(lambda: state(server, 1) == "AVAILABLE" and state(server, 2) == "END")
        operator.unloadModel(ModelSpec("other"), None)
        wait_until(lambda: not states(server, "other"))
        for call, why in (
            (lambda: operator.loadModel(LoadModelRequest("x", "/nowhere"), None), "no such directory"),
            (lambda: operator.loadModel(LoadModelRequest("x", str(base), 9), None), "it has 1, 2"),
            (lambda: operator.loadModel(LoadModelRequest("x", "python:os:X"), None), "configuration"),
            (lambda: operator.unloadModel(ModelSpec("other"), None), "no model named 'other'"),
        ):
            assert why in refused(call)
        operator.reloadConfig(None)
        wait_until(lambda: state(server, 2) == "AVAILABLE" and state(server, 1) == "END")

        def command(*words: str) -> str:
            line = [str(Path(sys.executable).with_name("thriftserve-client")), "--port", str(server.control_port)]
            return subprocess.run([*line, *words], capture_output=True, text=True, check=True, timeout=60).stdout

        assert "START" in command("load", "more", str(base), "--version", "1")
        wait_until(lambda: state(server, 1, "more") == "AVAILABLE")
        assert "canary" in command("label", "more", "canary", "1")
        assert "canary" not in command("label", "more", "canary")
        assert command("unload", "more").splitlines()[0].split()[:3] == ["model", "version", "state"]
        wait_until(lambda: not states(server, "more"))
        assert command("reload") == "begun\n"


def test_a_configuration_file_is_read_again(base: Path, tmp_path: Path) -> None:
    """A changed file adds and removes models by itself where it is polled; a bad one changes nothing."""
    listed = tmp_path / "models.toml"
    entry = '[[model]]\nname = "{}"\nbase_path = "' + str(base) + '"\n'
    listed.write_text(entry.format("half"))
    with Served("--model-config-file", str(listed), "--model-config-poll-s", "0.1", *QUICK) as server:
        listed.write_text(entry.format("half") + "base_pat = 1\n")
        wait_until(lambda: "the old one stays" in server.log() and "base_pat" in server.log())
        assert state(server, 1) == "AVAILABLE"
        signal_process(keeper(server), signal.SIGKILL)  # the next one goes on with the configuration that held
        put(base, 2)
        wait_until(lambda: state(server, 2) == "AVAILABLE")
        listed.write_text(entry.format("two"))
        wait_until(lambda: state(server, 2, "two") == "AVAILABLE" and not states(server))


@pytest.mark.parametrize("server_type", ["TBatchingServer", "TProcessPoolServer", "TThreadPoolServer"])
def test_a_worker_frees_first_where_told(server_type: str, base: Path) -> None:
    """--swap-policy resource: the old version has ended before the new one loads, and comes back where that fails."""
    arguments = ("--server-type", server_type, "--swap-policy", "resource", "--max-load-retries", "0", *QUICK)
    with Served("--model", f"half={base}", *arguments) as server:
        put(base, 2)
        wait_until(lambda: state(server, 2) == "AVAILABLE")
        order = [f"{one['version']} {one['state']}" for one in steps(server)]
        ended = order.index("1 ENDED")
        assert order.index("1 UNLOADING") < ended < order.index("2 LOADING") < order.index("2 AVAILABLE")
        assert server.log().index("loaded model half version 2") > server.log().index('"state": "ENDED"')

        spoiled(put(base.parent / "aside", 3)).rename(base / "3")
        wait_until(lambda: state(server, 3) == "END" and state(server, 2) == "AVAILABLE")
        with server.client() as client:
            assert client.predict("half", {"x": X}).version == 2
        assert "height" in states(server)[3][1]


def test_memory_returns_and_a_keeper_is_replaceable(base: Path) -> None:
    """After ten swaps the process tree is no larger than after three; kill -9 of the keeper costs nothing but time."""
    with Served("--model", f"half={base}", *QUICK) as server:
        tree = psutil.Process(server.pid)

        def size() -> int:
            return sum(each.memory_full_info().pss for each in [tree, *tree.children(recursive=True)])

        sizes = []
        for version in range(2, 12):
            put(base, version)
            wait_until(lambda new=version: state(server, new) == "AVAILABLE" and state(server, new - 1) == "END")  # type: ignore[misc]  # bound now
            sizes.append(size())
        wait_until(lambda: size() < 1.05 * sizes[2])
        signal_process(keeper(server), signal.SIGKILL)
        put(base, 12)
        wait_until(lambda: state(server, 12) == "AVAILABLE" and state(server, 11) == "END")
        with server.client() as client:
            assert (client.models()[0].transitions or {})["AVAILABLE"] == 12
        assert server.stop() == (ExitCode.OK, "")

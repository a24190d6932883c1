"""The configuration file read again while the server serves: what TensorFlow Serving's documentation says of it."""

from __future__ import annotations

import signal
from pathlib import Path

from changing import QUICK, X, put, state, states, wait_until
from served import Served
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import Client, ServerError
from thriftserve_idl.ttypes import ErrorCode

#: One of two models has its sessions and its warm-up said in the file; the other's are the server's.
FIRST = """
model_config_list: {{
  config: {{
    name: "half", base_path: "{base}", model_platform: "tensorflow",
    model_version_policy: {{ specific: {{ versions: 1, versions: 2 }} }},
    version_labels: {{ key: "stable", value: 1 }},
    version_labels: {{ key: "canary", value: 2 }},
    session {{ workers: 2, runs_per_worker: 1 }}, warmup: false, devices: "cpu",
    batching {{ max_batch_size: 2, batch_timeout_ms: 0 }},
  }},
  config: {{ name: "quiet", base_path: "{base}" }},
}}
"""
ENTRY = "config {{ name: '{name}' base_path: '{base}' model_version_policy {{ {policy} }} {labels} }}"


class Listed:
    """A configuration file and the server that serves it."""

    def __init__(self, file: Path, base: Path, server: Served) -> None:
        self._file, self._base, self._server = file, base, server

    def reload(self, *entries: tuple[str, str, dict[str, int]]) -> None:
        """Has the server read these: name, policy and labels of each model."""
        blocks = [
            ENTRY.format(
                name=name,
                base=self._base,
                policy=policy,
                labels=" ".join(f"version_labels {{ key: '{key}' value: {value} }}" for key, value in labels.items()),
            )
            for name, policy, labels in entries
        ]
        self._file.write_text(f"model_config_list {{ {' '.join(blocks)} }}")
        signal_process(self._server.pid, signal.SIGHUP)

    def served(self, model: str) -> list[int]:
        """The available versions of a model."""
        found = states(self._server, model)
        return sorted(version for version, (each, _) in found.items() if each == "AVAILABLE")


def labelled(client: Client, label: str, model: str = "half") -> int | str | None:
    """The version that answers for a label, or the code of the refusal."""
    try:
        return client.predict(model, {"x": X}, label=label).version
    except ServerError as error:
        return ErrorCode(error.code).name


def test_reloads(tmp_path: Path) -> None:
    """The list is replaced whole; policies, labels and each model's own fields hold as the file says them now."""
    base, file, own = tmp_path / "half", tmp_path / "models.config", tmp_path / "own.toml"
    for version in (1, 2, 3):
        put(base, version)
    file.write_text(FIRST.format(base=base))
    own.write_text("")
    arguments = ("--config", str(own), "--model-config-file", str(file), "--state-dir", str(tmp_path / "state"))
    with Served(*arguments, *QUICK[:-2]) as server, server.client() as client:
        listed = Listed(file, base, server)
        assert len([one for one in client.server_status().workers if one.role == "worker"]) == 2
        log = server.log()
        assert "warmed model quiet version 3 up" in log
        assert "warmed model half" not in log
        assert (listed.served("half"), listed.served("quiet")) == ([1, 2], [3])
        assert (labelled(client, "stable"), labelled(client, "canary")) == (1, 2)

        # A label in use does not move to a version that does not serve yet: nothing of the file holds.
        listed.reload(("half", "all {}", {"stable": 3}), ("late", "all {}", {}))
        wait_until(lambda: "'stable' of model 'half' can't point at version 3, which is not" in server.log())
        # Nor does a new one, unless that is allowed; of a new model any does.
        listed.reload(("half", "all {}", {"stable": 1, "next": 3}))
        wait_until(lambda: "'next' of model 'half' can't point at version 3, which is not" in server.log())
        assert not states(server, "late")
        assert (labelled(client, "stable"), labelled(client, "canary")) == (1, 2)
        own.write_text("allow_unavailable_labels = true\n")
        listed.reload(("half", "all {}", {"stable": 1, "next": 3}), ("new", "specific { versions: 2 }", {"main": 2}))
        wait_until(lambda: listed.served("half") == [1, 2, 3] and listed.served("new") == [2])
        assert (labelled(client, "stable"), labelled(client, "next"), labelled(client, "main", "new")) == (1, 3, 2)
        # What the file names no more is gone: a label, a model.
        assert labelled(client, "canary") == "FAILED_PRECONDITION"
        wait_until(lambda: not states(server, "quiet"))

        # The version is there: now the label moves.
        listed.reload(("half", "latest { num_versions: 2 }", {"stable": 3}))
        wait_until(lambda: listed.served("half") == [2, 3] and not states(server, "new"))
        assert labelled(client, "stable") == 3
        listed.reload(("half", "latest {}", {}))
        wait_until(lambda: listed.served("half") == [3] and state(server, 2) == "END")
        assert labelled(client, "stable") == "FAILED_PRECONDITION"
        assert server.stop() == (ExitCode.OK, "")


def test_fields_that_can_not_hold(tmp_path: Path) -> None:
    """What a running server or its type can't give a model is told, and not left aside in silence."""
    base, file = tmp_path / "half", tmp_path / "models.toml"
    put(base, 1)
    entry = f'[[model]]\nname = "half"\nbase_path = "{base}"\n'
    file.write_text(entry)
    with Served("--model-config-file", str(file), "--server-type", "TThreadPoolServer", *QUICK[:-2]) as server:
        file.write_text(entry + "workers = 2\n")
        signal_process(server.pid, signal.SIGHUP)
        wait_until(lambda: "model 'half': workers = 2: TThreadPoolServer has no use for it" in server.log())
        file.write_text(entry + "devices = 'gpu:0'\n")
        signal_process(server.pid, signal.SIGHUP)
        wait_until(lambda: "model 'half': devices = 'gpu:0': devices is 'cpu' for the server" in server.log())
        file.write_text(entry + "session = {intra_op_threads = 7}\n")
        signal_process(server.pid, signal.SIGHUP)
        wait_until(lambda: "needs a server restart: intra_op_threads" in server.log())
        assert state(server, 1) == "AVAILABLE"

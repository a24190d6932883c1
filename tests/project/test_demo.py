"""The demo: from nothing to classified digits, on every server type, and nothing left behind."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from demo import digits, options
from demo_process import DEMO, demo, environment, left_behind, trained
from thriftserve.servers import HostSettings
from thriftserve.settings import SERVER_TYPES
from thriftserve_bench.servers import SERVER_TYPES as TYPES
from thriftserve_client import Client


def accuracy(said: str) -> float:
    """The per cent that a run of the demo reports."""
    match = re.search(r"^accuracy +([\d.]+)%", said, re.MULTILINE)
    assert match is not None, said
    return float(match[1])


def test_first_run() -> None:
    """It trains where no model of this recipe is, serves, is right about over 97 % of the held-out digits."""
    directory, done = trained()
    assert done.returncode == 0, done.stderr
    assert accuracy(done.stdout) > 97
    assert "trained in" in done.stdout
    assert re.search(r"^requests/s +[\d,]+ +360 in [\d.]+ s over 4 connections to TBatchingServer", done.stdout, re.M)
    assert "360/360" in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    assert max(map(len, done.stdout.split("Try next")[0].splitlines())) <= max(80, 60 + 2 * len(str(directory)))
    assert left_behind(directory) == []
    assert sorted(entry.name for entry in directory.iterdir()) == ["digits", "models"]
    assert sorted(entry.name for entry in (directory / "models" / "digits").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("server_type", [entry for entry in TYPES if entry != "TBatchingServer"])
def test_every_server_type(server_type: str) -> None:
    """With the model that is there already, each type answers as the first run did."""
    directory, _ = trained()
    done = demo(directory, "--server-type", server_type, "--rounds", "1", "--clients", "2")
    assert done.returncode == 0, done.stderr
    assert accuracy(done.stdout) > 97
    assert f"over 2 connections to {server_type}" in done.stdout
    assert "trained before" in done.stdout
    assert left_behind(directory) == []


def test_server_types_are_the_servers() -> None:
    """The demo offers the types that the server has, in their order, and has the server's own default."""
    assert SERVER_TYPES == TYPES
    assert options.parse([]).server_type == HostSettings().server_type == "TBatchingServer"


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)


class Running:
    """A demo in progress."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*DEMO, *arguments],
            env=environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)

    def read_until(self, words: str) -> str:
        """Reads up to the line that has these words, and gives it back."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return line
        raise AssertionError(f"never said {words!r}:\n{self.said}{self.process.communicate()[1]}")

    def signal(self, number: signal.Signals) -> tuple[int, str]:
        """Sends a signal; its exit code and what it wrote to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_sending(number: signal.Signals) -> None:
    """Interrupted while it sends, it stops its server, says so without a traceback, and exits as the signal asks."""
    directory, _ = trained()
    with Running("--directory", str(directory), "--rounds", "1000") as running:
        running.read_until("Sending")
        code, errors = running.signal(number)
    assert code == 128 + number
    assert errors == ("\ninterrupted; nothing is left running\n" if number == signal.SIGINT else "")
    assert left_behind(directory) == []


def test_ctrl_c_while_training() -> None:
    """--retrain trains although a model is there; interrupted, it leaves neither a process nor half a model."""
    directory, _ = trained()
    base = directory / "models" / "digits"
    with Running("--directory", str(directory), "--retrain") as running:
        running.read_until("A convolutional network")
        while not list(base.glob(".training-*")):
            assert running.process.poll() is None, running.process.communicate()
        code, errors = running.signal(signal.SIGINT)
    assert (code, errors) == (130, "\ninterrupted; nothing is left running\n")
    assert left_behind(directory) == []
    assert sorted(entry.name for entry in base.iterdir()) == ["1", "2"]


@pytest.fixture(scope="module")
def serving() -> Iterator[Running]:
    """A demo that serves; it has said all that it says."""
    with Running("--directory", str(trained()[0]), "--serve") as running:
        running.read_until("Ctrl-C stops")
        yield running


def port_of(running: Running) -> int:
    """Where its server is ready."""
    return int(running.said.split("ready on")[1].split(":")[1].split(",")[0])


def test_a_port_in_use(serving: Running) -> None:
    """Where the server can't start, its own reason is told, and the exit code is 1."""
    port = port_of(serving)
    done = demo(trained()[0], "--port", str(port))
    assert done.returncode == 1
    assert "exit code 3" in done.stderr and f"127.0.0.1:{port}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_training_sees_what_the_server_decodes(serving: Running) -> None:
    """Classifying the files gives the scores of the arrays that training would see of them."""
    directory, _ = trained()
    held_out = digits.held_out(directory / "digits")
    files = digits.write(held_out, directory / "digits")
    with Client("127.0.0.1", port_of(serving)) as client:
        scores = client.predict("digits", {"image": digits.as_served(held_out.scans)})["scores"]
        named = client.classify("digits", files, top_k=1)
    assert scores.shape == (360, 10)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose([best[0].score for best in named], scores.max(axis=1), atol=1e-4)
    assert [best[0].class_id for best in named] == scores.argmax(axis=1).tolist()


def test_serve_and_the_commands_it_tells(serving: Running) -> None:
    """--serve goes on serving; each command that it shows works as it stands; Ctrl-C ends the server with 0."""
    directory, _ = trained()
    commands = [line.strip() for line in serving.said.split("Try next")[1].splitlines() if "thriftserve-client" in line]
    outputs = [run(shlex.split(entry)) for entry in commands]
    assert [entry.returncode for entry in outputs] == [0, 0, 0], [entry.stderr for entry in outputs]
    shown = re.search(r"digit-(\d)-\d{4}\.png", commands[0])
    assert shown is not None
    assert re.search(rf"\b{shown[1]}\b", outputs[0].stdout.split("1", 1)[1])
    code, errors = serving.signal(signal.SIGINT)
    assert code == 0
    assert "draining" in errors
    assert left_behind(directory) == []


def test_help_teaches() -> None:
    """--help says what will happen, every option, and examples; a wrong type is told at once."""
    shown = run([*DEMO, "--help"]).stdout
    for word in ("handwritten digits", "--serve", "--retrain", "--server-type", "TForkingServer", "exit codes"):
        assert word in shown
    wrong = run([*DEMO, "--server-type", "TQuick"])
    assert wrong.returncode == 2
    assert "TQuick" in wrong.stderr


def test_held_out_digits_are_not_learnt_from(tmp_path: Path) -> None:
    """The split is the same every time, kept or not, leaves no digit in both parts, and has every class in both."""
    split, again = digits.load(), digits.load()
    assert not set(split.train.places.tolist()) & set(split.held_out.places.tolist())
    assert len(split.train.places) + len(split.held_out.places) == 1797
    assert np.array_equal(split.held_out.places, again.held_out.places)
    assert set(split.held_out.truth.tolist()) == set(split.train.truth.tolist()) == set(range(10))
    for entry in (digits.held_out(tmp_path), digits.held_out(tmp_path)):
        assert np.array_equal(entry.scans, split.held_out.scans) and np.array_equal(entry.truth, split.held_out.truth)
        assert np.array_equal(entry.places, split.held_out.places)
    assert len(list(tmp_path.iterdir())) == 1

"""thriftserve-client, run as the command that users run.

What its process adds is seen in each exit code, in output, signals and pipes; many inputs and many mistakes are given
to its `main` in this process instead, by the same words.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_service import Service, scripted, serving, silent
from thriftserve_client.cli.main import main

COMMAND = [sys.executable, "-W", "error", "-m", "thriftserve_client.cli"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Run:
    """Runs the command in a directory of its own, the service's port in the environment."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"THRIFTSERVE_PORT": str(service.port), "PYTHONUTF8": "1"} | environment
        return subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    return start


@pytest.fixture
def called(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """What `run` does, without a process of its own."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        for name, value in ({"THRIFTSERVE_PORT": str(service.port)} | environment).items():
            monkeypatch.setenv(name, value)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return start


def good(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that went well."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def data(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    return json.loads(good(done))


def failure(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a failed command wrote."""
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("thriftserve-client")
    return done.stderr


def rows(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines()]


def test_ping(run: Run) -> None:
    """A server that answers is said to."""
    assert good(run("ping")).startswith("ok, ")
    assert data(run("ping", "--json"))["ok"] is True
    assert good(run("ping", "--wait", "10")).startswith("ok, ")


def test_status(run: Run) -> None:
    """The server's facts and a row for each worker."""
    text = good(run("status"))
    assert ["state", "SERVING"] in rows(text)
    assert "125 answered, 3 of them with an error, 3 refused" in text
    assert " ".join(rows(text)[-1]) == "0 4711 IDLE cpu 300 MiB 1.5 s 1 min 0 s 120 2 0 1"
    assert data(run("status", "--json"))["workers"][0]["rss_bytes"] == 300 * 2**20


def test_models(run: Run) -> None:
    """A row for each version; the last state is called END; failures are told."""
    text = good(run("models"))
    assert rows(text)[1:] == [
        ["half_plus_two", "7", "AVAILABLE", "stable"],
        ["half_plus_two", "6", "END", "INTERNAL:", "no", "such", "file"],
    ]
    assert data(run("--json", "models"))[0]["versions"][1]["state"] == "END"


def test_metadata(run: Run) -> None:
    """Inputs and outputs with types and shapes, and the labels."""
    text = good(run("metadata", "half_plus_two"))
    assert ["input", "x", "FLOAT", "[?]"] in rows(text)
    assert ["output", "y", "FLOAT", "any"] in rows(text)
    assert "2 labels: cat, dog" in text
    signature = data(run("metadata", "half_plus_two", "--json"))["signatures"]["serving_default"]
    assert signature["inputs"]["x"] == {"name": "x", "dtype": "FLOAT", "shape": [None], "tensor_name": ""}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The inputs of the tests below, as files."""
    np.save(tmp_path / "x.npy", np.array([1, 2, 5], np.float32))
    np.savez(tmp_path / "all.npz", x=np.array([1, 2, 5], np.float32))
    (tmp_path / "x.json").write_text("[1, 2, 5]")
    (tmp_path / "a.png").write_bytes(b"image a")
    (tmp_path / "b.png").write_bytes(b"image b")
    (tmp_path / "not.npy").write_bytes(b"nothing")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    return tmp_path


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("value", ["x=[1, 2, 5]", "x=@x.json", "x=x.npy", "@all.npz"])
def test_predict_inputs(called: Run, value: str) -> None:
    """Each form of an input gives the model the same array; JSON takes its type from the metadata."""
    found = data(called("predict", "half_plus_two", "--input", value, "--output", "y", "--json"))
    assert found["outputs"] == {"y": [2.5, 3.0, 4.5]}
    assert (found["model"], found["version"], found["timing"]["batch_size"]) == ("half_plus_two", 7, 2)


def test_predict_prints(run: Run) -> None:
    """People see what ran, and each output with type, shape and elements."""
    text = good(run("predict", "half_plus_two", "--input", "x=[1, 2, 5]", "--output", "y"))
    assert text.startswith("half_plus_two version 7, signature serving_default: queue 3 us")
    assert "y  FLOAT [3]\n[2.5, 3. , 4.5]" in text


def test_predict_strings(run: Run) -> None:
    """JSON strings become a STRING tensor; its bytes are shown as text."""
    arguments = ("predict", "echo", "--input", 'words=[["a", "é"]]')
    assert "words  STRING [1, 2]\n[['a', 'é']]" in good(run(*arguments))
    assert data(run(*arguments, "--json"))["outputs"] == {"words": [["a", "é"]]}


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([np.nan, 1, np.inf, -np.inf, -0.0], np.float32), "[NaN, 1.0, Infinity, -Infinity, -0.0]"),
        (np.array([np.nan, 0.1], np.float64), "[NaN, 0.1]"),
        (np.array([0.1, 1 / 3, 1e-45, 3.4028235e38], np.float32), "[0.1, 0.33333334, 1e-45, 3.4028235e+38]"),
        (np.array([0.1, 65504], np.float16), "[0.099975586, 65504.0]"),
        (np.array([2**53 + 1, -(2**63)]), "[9007199254740993, -9223372036854775808]"),
        (np.array([[2**64 - 1]], np.uint64), "[[18446744073709551615]]"),
        (np.float32(0.1), "0.1"),
        (np.zeros((2, 0), np.float32), "[[], []]"),
        (np.array(["\xe9"]), '["\\u00e9"]'),
    ],
)
def test_predict_numbers(called: Run, tmp_path: Path, array: Any, shown: str) -> None:
    """--json has numbers as the gateway writes them: NaN and infinities by name, float32 with its own digits."""
    np.save(tmp_path / "x.npy", array)
    text = good(called("predict", "echo", "--input", "x=x.npy", "--json"))
    assert f'"outputs": {{"x": {shown}}}' in text


def test_predict_bytes_that_are_no_text(called: Run, tmp_path: Path) -> None:
    """--json has them as base64; a text that shows them escaped would be another text."""
    np.save(tmp_path / "x.npy", np.array([b"a", b"\xff"]))
    assert data(called("predict", "echo", "--input", "x=x.npy", "--json"))["outputs"] == {"x": ["a", {"b64": "/w=="}]}


@pytest.mark.parametrize("score", [math.nan, math.inf, 0.1, float(np.float32(0.1)), 1 / 3])
@pytest.mark.usefixtures("files")
def test_scores_are_written_like_other_numbers(
    called: Run, service: Service, monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    """A float32 score, which travels as a double, has the digits of a float32; what is no number has its name."""
    monkeypatch.setattr(service.handler, "score", score)
    shown = {"nan": "NaN", "inf": "Infinity", "0.10000000149011612": "0.1"}.get(str(score), str(score))
    assert f'"score": {shown},' in good(called("classify", "digits", "a.png", "--top-k", "1", "--json"))
    text = good(called("detect", "street", "a.png", "--json"))
    assert f'"score": {shown},' in text and f'"y_min": {shown},' in text
    assert len(json.loads(text)["images"][0]["detections"]) == 1


def test_text_that_can_not_be_saved(called: Run, tmp_path: Path) -> None:
    """A zero byte at a text's end would be lost in a .npy file: the output is named, and nothing is written."""
    (tmp_path / "words.json").write_text('[["a", "b\\u0000"]]')
    told = failure(called("predict", "echo", "--input", "words=@words.json", "--save", "out"), 2)
    assert "output 'words' can't be saved: it has text that ends in a zero byte" in told
    assert not (tmp_path / "out").exists()


def test_predict_saves(run: Run, tmp_path: Path) -> None:
    """--save writes one .npz, or a directory of .npy files, strings included, readable without pickle."""
    good(run("predict", "half_plus_two", "--input", "x=[1]", "--save", "out.npz"))
    assert np.load(tmp_path / "out.npz")["y"].tolist() == [2.5]
    good(run("predict", "echo", "--input", 'words=[["a", "bc"]]', "--save", "out"))
    assert np.load(tmp_path / "out" / "words.npy").tolist() == [[b"a", b"bc"]]


def test_predict_flags_arrive(run: Run, service: Service) -> None:
    """Version, label, time-out and request id reach the server."""
    one = ("predict", "half_plus_two", "--input", "x=[1]")
    good(run(*one, "--version", "3", "--timeout-s", "7.5", "--request-id", "r"))
    sent = service.handler.requests[-1]
    assert (sent.model_spec.version, sent.timeout_ms, sent.request_id) == (3, 7500, "r")
    good(run(*one, "--label", "stable"))
    assert service.handler.requests[-1].model_spec.version_label == "stable"


@pytest.mark.usefixtures("files")
def test_classify(run: Run, service: Service) -> None:
    """One row for each image and class."""
    text = good(run("classify", "digits", "a.png", "b.png", "--top-k", "2"))
    scores = (("0", "1.0000"), ("1", "0.5000"))
    assert rows(text)[1:] == [["a.png", "class", *one] for one in scores] + [["b.png", "class", *one] for one in scores]
    assert service.handler.requests[-1].images == [b"image a", b"image b"]
    found = data(run("classify", "digits", "a.png", "--json"))
    assert (found["images"][0]["image"], len(found["images"][0]["classes"])) == ("a.png", 5)


@pytest.mark.usefixtures("files")
def test_detect(run: Run, service: Service, tmp_path: Path) -> None:
    """One row for each image and object, boxes in pixels; an image without any says so."""
    (tmp_path / "empty.png").write_bytes(b"")
    text = good(run("detect", "street", "a.png", "empty.png", "--min-score", "0.25"))
    assert rows(text)[1:] == [["a.png", "cat", "0.7500", "128", "48", "512", "192"], ["empty.png", "(nothing)"]]
    assert service.handler.requests[-1].min_score == 0.25
    assert data(run("detect", "street", "a.png", "--json"))["images"][0]["detections"][0]["label"] == "cat"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "none", "--input", "x=[1]"], 1, "NOT_FOUND: no model 'none'"),
        (["predict", "half_plus_two", "--input", 'x=["a"]'], 2, "input 'x' takes FLOAT"),
        (["predict", "half_plus_two", "--input", "x=[true]"], 2, "input 'x' takes FLOAT: [true] does not fit FLOAT"),
        (["predict", "half_plus_two", "--input", "x=[[1], [1, 2]]"], 2, "inhomogeneous"),
        (["predict", "half_plus_two", "--input", "x=[1e39]"], 2, "takes FLOAT: 1e+39 (float64) does not fit FLOAT"),
        (["predict", "half_plus_two", "--input", "x=[16777217]"], 2, "takes FLOAT: 16777217 (int64) does not fit"),
        (["predict", "half_plus_two", "--input", "z=[1]"], 2, "no input 'z': expected one of x"),
        (["predict", "half_plus_two", "--input", "x=oops"], 2, "is not JSON"),
        (["predict", "half_plus_two", "--input", "x"], 2, "expected NAME=JSON"),
        (["predict", "half_plus_two", "--input", "x=none.npy"], 2, "none.npy: No such file"),
        (["predict", "half_plus_two", "--input", "x=not.npy"], 2, "not.npy is not a .npy file"),
        (["predict", "half_plus_two", "--input", "x=pickled.npy"], 2, "pickled.npy is not a .npy file of plain arrays"),
        (["predict", "half_plus_two", "--input", "@x.json"], 2, "expected NAME=JSON"),
        (["predict", "half_plus_two", "--input", "x=[1]", "--input", "x=[2]"], 2, "'x' is set twice"),
        (["predict", "half_plus_two", "--input", "x=[1]", "--signature", "s"], 2, "expected one of serving_default"),
        (["predict", "echo", "--input", "words=[[1]]"], 2, "input 'words' takes STRING: int64 does not fit STRING"),
        (["predict", "m", "--version", "1", "--label", "a"], 2, "not allowed with"),
        (["classify", "digits", "none.png"], 2, "none.png: No such file"),
        (["classify", "digits", "a.png", "--top-k", "0"], 2, "'0' is not a whole number from 1 up"),
        (["ping", "--wait", "soon"], 2, "'soon' is not a number of seconds above 0"),
        (["--unix-socket", "none", "ping", "--wait", "0.1"], 3, "see --host, --port, --unix-socket"),
        (["ping", "--timeout-s", "0"], 2, "'0' is not a number of seconds above 0"),
        (["ping", "--port", "70000"], 2, "from 1 to 65535"),
        (["pong"], 2, "invalid choice: 'pong'"),
        ([], 2, "COMMAND"),
        (["--unix-socket", "none", "ping"], 3, "see --host, --port, --unix-socket"),
        (["--tls-ca", "x.json", "ping"], 3, "x.json"),
    ],
)
def test_mistakes(called: Run, arguments: list[str], code: int, message: str) -> None:
    """Each mistake is one line on stderr that names it, with its exit code and no traceback."""
    assert message in failure(called(*arguments), code)


def test_exit_codes(run: Run) -> None:
    """The process ends with the code of its mistake: a server's, a command line's, an input's, a connection's."""
    assert "no model 'none'" in failure(run("predict", "none", "--input", "x=[1]"), 1)
    assert "invalid choice: 'pong'" in failure(run("pong"), 2)
    assert "is not JSON" in failure(run("predict", "half_plus_two", "--input", "x=oops"), 2)
    assert "--unix-socket" in failure(run("--unix-socket", "none", "ping"), 3)


def test_wrong_port_in_the_environment(called: Run) -> None:
    """A value of the environment is checked as a flag's is."""
    assert "'x' is not a whole number" in failure(called("ping", THRIFTSERVE_PORT="x"), 2)


def test_host_of_the_environment(run: Run) -> None:
    """THRIFTSERVE_HOST is used; a flag comes before it, in either place."""
    assert "no-such-host.invalid" in failure(run("ping", THRIFTSERVE_HOST="no-such-host.invalid"), 3)
    good(run("ping", "--host", "127.0.0.1", THRIFTSERVE_HOST="no-such-host.invalid"))
    good(run("--host", "127.0.0.1", "ping", THRIFTSERVE_HOST="no-such-host.invalid"))


def test_time_out(run: Run) -> None:
    """A server that does not answer has an exit code of its own."""
    with scripted(silent) as port:
        assert "see --timeout-s, now 0.2" in failure(run("ping", "--port", str(port), "--timeout-s", "0.2"), 4)


@pytest.mark.parametrize("command", [[], ["ping"], ["metadata"], ["predict"], ["classify"], ["detect"]])
def test_help(called: Run, command: list[str]) -> None:
    """Help shows how to call it, and examples where there is something to learn."""
    text = good(called(*command, "--help"))
    assert text.startswith("usage: thriftserve-client")
    assert "THRIFTSERVE_PORT" in text
    assert command == ["ping"] or "example" in text


def test_interrupt() -> None:
    """Ctrl-C ends the command with 130 and no word."""

    def interrupting(sock: socket.socket) -> None:
        sock.recv(100)  # the command waits for its answer now
        process.send_signal(signal.SIGINT)

    with scripted(interrupting) as port:
        process = subprocess.Popen([*COMMAND, "--port", str(port), "ping"], stdout=-1, stderr=-1)
        assert process.communicate(timeout=60) == (b"", b"")
        assert process.returncode == 130


def test_broken_pipe(service: Service) -> None:
    """A reader that goes away early is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "--port", str(service.port), "status"], stdout=writer, stderr=-1, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")

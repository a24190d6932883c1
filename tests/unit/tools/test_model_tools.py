"""`thriftserve model check | convert | record` on real models, whole and damaged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exports_v1
from documents import ROOT
from small_models import CPU, small
from thriftserve.cli import main
from thriftserve.models import prediction_log, warmup
from thriftserve.models.prediction_log import decode
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve.tools import check as check_command
from thriftserve.tools import check_child

X = np.array([1, 2, 5], np.float32)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A version directory of its own."""
    shutil.copytree(small("half_plus_two"), tmp_path / "half")
    return tmp_path / "half" / "1"


def check(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and findings of `model check --json`."""
    code = main(["model", "check", str(path), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_good_models_are_shown(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest version's signatures stand in a table, each is run at batch 1 and 2, and the exit code is 0."""
    assert main(["model", "check", str(half.parent)]) == 0
    said = capsys.readouterr().out
    assert "  serving_default  in   x     FLOAT  [?]\n" in said
    assert "serving_default ran with 2 rows of zeros" in said
    assert "note: requests for 'serving_default' share runs of up to 64 rows where they meet\n" in said
    assert said.endswith("good: it can be served\n")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("saved_model.pb", "saved_model.pb"),
        ("variables/variables.index", "variables.index"),
        ("variables/variables.data-00000-of-00001", "variables.data-00000-of-00001"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_damage_is_named(half: Path, capsys: pytest.CaptureFixture[str], name: str, told: str, how: str) -> None:
    """A part that is missing, cut off or empty is told by its name, without a process that loads it."""
    part = half / name
    content = part.read_bytes()
    part.unlink()
    if how != "missing":
        part.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    code, found = check(half, capsys)
    assert (code, found["good"], found["load_s"]) == (4, False, None)
    assert told in found["faults"][0]


def test_what_only_loading_shows(half: Path, tmp_path: Path) -> None:
    """Flipped bytes, operations that are not known, no signature, mistakes in small files: each in words."""
    from tensorflow.core.protobuf import saved_model_pb2

    def changed(edit: Any) -> str:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = Path(shutil.copytree(half, tmp_path / "copy"))
        model = saved_model_pb2.SavedModel.FromString((copy / "saved_model.pb").read_bytes())
        edit(model.meta_graphs[0], copy)
        (copy / "saved_model.pb").write_bytes(model.SerializeToString())
        return " ".join(check_child.examine(copy).faults)

    def flip(_: Any, copy: Path) -> None:
        (data,) = (copy / "variables").glob("*.data-*")
        data.write_bytes(bytes(one ^ 0xFF for one in data.read_bytes()))

    assert changed(lambda graph, copy: None) == ""
    assert changed(flip).startswith("its variables are damaged")
    assert changed(lambda graph, _: graph.graph_def.node.add(name="n", op="Unheard")).startswith(
        "it uses the operation 'Unheard', which this TensorFlow does not have"
    )
    assert changed(lambda graph, _: graph.signature_def.clear()).startswith("it has no signature to serve")
    assert "image.toml" in changed(lambda _, copy: _write(copy / "assets.extra" / "image.toml", "x = ["))
    assert check_child.explain("as it is") == "as it is"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_notes_on_old_exports_and_probes(tmp_path: Path) -> None:
    """An export of TensorFlow 1.x is said to be one; a signature that fails is a fault, or a note where it refuses."""
    found = check_child.examine(exports_v1.write(tmp_path / "old" / "1"))
    assert any("an export of TensorFlow 1.x" in one for one in found.notes)
    assert any("'guarded'" in one for one in [*found.notes, *found.faults])
    assert {row[0] for row in found.tensors} == exports_v1.SIGNATURES


def test_a_process_that_dies_is_told(half: Path) -> None:
    """A model that takes longer than it may, or ends the process that loads it, is a fault with its reason."""
    assert "not loaded and run within 0.1 s" in check_command.check(half, 0.1).faults[0]
    done = subprocess.CompletedProcess([], -11, "", "deep in C++\n")
    assert check_command.explain_exit(done) == "the process that loaded it ended with SIGSEGV: deep in C++"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["check", "/no/such"], 4, "there is no such directory"),
        (["check", "HALF", "--timeout-s", "0"], 2, "must be above 0"),
        (["check", "HALF", "--what"], 2, "unrecognized argument --what: see thriftserve model check --help"),
        (["convert", "/no/such", "NEW"], 4, "/no/such.meta: there is no such file"),
        (["convert", "/no/such.keras", "NEW"], 4, "/no/such.keras: there is no such file"),
        (["convert", "/no/such", "HALF"], 2, "is there already"),
        (["record", "HALF", "--input", "x=1, 2"], 2, "is not JSON"),
        (["record", "HALF", "--input", "w=[1]"], 2, "has no input 'w'"),
        (["record", "HALF", "--input", "x=[[1]]"], 2, "of shape"),
        (["record", "HALF", "--input", "x=[1]", "--output", "w"], 2, "no output 'w'"),
        (["record", "HALF", "--signature", "nine"], 2, "signature is 'nine'"),
    ],
)
def test_mistakes_are_told(
    half: Path, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong paths and flags end a command with one line and the exit code that its kind has; nothing is written."""
    places = {"HALF": str(half), "NEW": str(half.parent / "2")}
    try:
        ended: int | str | None = main(["model", *(places.get(one, one) for one in arguments)])
    except SystemExit as stop:
        ended = stop.code
    assert ended == code
    assert told in capsys.readouterr().err
    assert [one.name for one in half.parent.iterdir()] == ["1"]
    assert not (half / warmup.FILE).exists()


def test_recorded_requests_are_run(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests given as JSON and as arrays make one file, which the check runs; --replace begins it anew."""
    np.save(tmp_path / "x.npy", X)
    record = ["model", "record", str(half.parent)]
    assert main([*record, "--input", "x=[1, 2, 5]", "--output", "y"]) == 0
    assert main([*record, "--input", f"x={tmp_path / 'x.npy'}", "--signature", "half_plus_three"]) == 0
    assert "2 requests" in capsys.readouterr().out
    found = [decode(one)[0] for _, one in prediction_log.read_records(half / warmup.FILE) if isinstance(one, bytes)]
    assert [(one.signature, list(one.outputs)) for one in found] == [
        ("serving_default", ["y"]),
        ("half_plus_three", []),
    ]
    assert all(np.array_equal(one.inputs["x"], X) for one in found)
    assert "2 recorded requests ran" in check_child.examine(half).notes
    assert main([*record, "--input", "x=[1]", "--replace"]) == 0
    assert "1 request\n" in capsys.readouterr().out
    (half / warmup.FILE).write_bytes(b"damaged")
    assert main([*record, "--input", "x=[1]"]) == 2
    assert "--replace drops what the file has" in capsys.readouterr().err


def test_recording_imports_no_tensorflow(half: Path) -> None:
    """The signature comes from the file alone: TensorFlow's import would cost seconds for each request recorded."""
    program = (
        "import sys; from thriftserve.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "model", "record", str(half), "--input", "x=[1]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{half / warmup.FILE}: 1 request\n"), done.stderr


def test_python_models_are_recorded_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a directory without a SavedModel, arrays say their own types; JSON can't."""
    (tmp_path / "echo" / "1").mkdir(parents=True)
    np.save(tmp_path / "x.npy", X)
    record = ["model", "record", str(tmp_path / "echo" / "1")]
    assert main([*record, "--input", f"x={tmp_path / 'x.npy'}"]) == 0
    assert main([*record, "--input", "x=[1]"]) == 2
    assert "give them as NAME=FILE.npy" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = slope * x + 1, and a table, saved as TensorFlow 1.x saves it; beside it, `spare` that no checkpoint has."""
    import tensorflow as tf

    v1, place = tf.compat.v1, tmp_path_factory.mktemp("checkpoint") / "model.ckpt-7"
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        slope = v1.get_variable("slope", initializer=3.0, use_resource=False)
        tf.add(slope * x, 1.0, name="y")
        words = v1.placeholder(tf.string, [None], name="words")
        made = v1.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2], tf.string, tf.int64)
        tf.identity(v1.lookup.StaticHashTable(made, -1).lookup(words), name="ids")
        spare = v1.get_variable("spare", initializer=1.0)
        tf.identity(spare * x, name="spared")
        session.run(v1.global_variables_initializer())
        v1.train.Saver([slope]).save(session, str(place))
    return place


def test_checkpoints_are_converted(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tensors named become the signature, variables and tables come along, and the version is served."""
    target = tmp_path / "m" / "1"
    named = ["--input", "x=x:0", "--input", "words=words", "--output", "y=y:0", "--output", "ids=ids"]
    assert main(["model", "convert", f"{checkpoint}.meta", str(target), *named]) == 0
    assert "with the signatures serving_default" in capsys.readouterr().out
    session = SavedModelSession.open(target, CPU)
    outputs = session.run("serving_default", {"x": X, "words": np.array([b"b", b"c"], object)}, ("y", "ids"))
    session.close()
    assert outputs["y"].tolist() == [4, 7, 16]
    assert outputs["ids"].tolist() == [2, -1]
    assert [one.name for one in target.parent.iterdir()] == ["1"]


def test_checkpoints_say_what_they_offer(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without names, with wrong ones, without values or without a data file: in words, and nothing is written."""
    target = tmp_path / "m" / "1"
    convert = ["model", "convert", str(checkpoint), str(target)]
    broken = tmp_path / "broken"
    for ending in (".meta", ".index"):
        shutil.copy(f"{checkpoint}{ending}", f"{broken}{ending}")
    for arguments, code, told in (
        (convert, 2, "placeholders x:0 float32(None,), words:0 string(None,)"),
        ([*convert, "--output", "y=why:0"], 2, "y=why:0: the graph has no such tensor"),
        ([*convert, "--output", "y"], 2, "write NAME=TENSOR"),
        ([*convert, "--input", "x=x", "--output", "y=spared"], 4, "no value for 1 variables, 'spare' among them"),
        (["model", "convert", str(broken), str(target), "--output", "y=y"], 4, "can't be read"),
    ):
        assert main(arguments) == code
        assert told in capsys.readouterr().err
    assert not target.exists()
    assert not list(tmp_path.glob("m/*"))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore")
def test_keras_files_are_converted(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A Keras file of either kind becomes a version that answers as the model did; one that is none is told."""
    import keras

    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1, name="y")])
    file, target = tmp_path / f"model{suffix}", tmp_path / "m" / "1"
    model.save(file)
    assert main(["model", "convert", str(file), str(target)]) == 0
    session = SavedModelSession.open(target, CPU)
    ((name, spec),) = session.signatures["serving_default"].inputs.items()
    rows = np.array([[1, 2], [3, 4]], np.float32)
    (answer,) = session.run(
        "serving_default", {name: rows}, tuple(session.signatures["serving_default"].outputs)
    ).values()
    session.close()
    assert spec.shape == (None, 2)
    np.testing.assert_allclose(answer, np.asarray(model(rows)), rtol=1e-5)
    assert main(["model", "convert", str(file), str(tmp_path / "m" / "2"), "--output", "y=y"]) == 2
    file.write_bytes(b"no model")
    assert main(["model", "convert", str(file), str(tmp_path / "m" / "2")]) == 4
    assert "Keras can't make a SavedModel of it" in capsys.readouterr().err
    assert [one.name for one in target.parent.iterdir()] == ["1"]


def check_code(source: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and findings of `model check --json` of Python code."""
    code = main(["model", "check", source, "--json"])
    findings: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, findings


def test_a_python_model_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """It is loaded from its file, shown, and run with its own example once and twice."""
    source = f"{ROOT}/examples/python/greet.py:Greeter"
    assert main(["model", "check", source]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{source}\n")
    assert "  serving_default  in   name  STRING  [?]\n" in shown
    assert "serving_default ran with 2 rows of its example" in shown
    assert "serving_default ran with 4 rows of its example" in shown
    assert shown.endswith("good: it can be served\n")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("def f(inputs):\n    return {}[1]\nf.example = {'x': [1]}", r"fails with its own example: .*m\.py:2"),
        ("def f(inputs:", r"SyntaxError.*m\.py:1"),
        ("import os\nos._exit(9)", "ended with exit code 9"),
    ],
)
def test_a_python_model_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, fault: str) -> None:
    """Its example must run, its file must load; both are told with file and line. What ends the process is told too."""
    (tmp_path / "m.py").write_text(lines, encoding="utf-8")
    code, findings = check_code(f"{tmp_path}/m.py:f", capsys)
    assert code == 4
    assert re.search(fault, findings["faults"][0])


def test_a_python_model_without_signatures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not run, for nothing says with what, and that is told."""
    (tmp_path / "m.py").write_text("def f(inputs):\n    return {'y': inputs['x']}", encoding="utf-8")
    code, findings = check_code(f"{tmp_path}/m.py", capsys)
    assert (code, findings["runs"]) == (0, [])
    assert "declares no signatures" in findings["notes"][0]

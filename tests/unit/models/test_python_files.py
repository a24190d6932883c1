"""Python models in one file: sources, plain functions, what `load` is told, examples, and where errors came from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thriftserve.batching import Batcher
from thriftserve.errors import ConfigError, Internal, InvalidArgument, ModelLoadError
from thriftserve.models import loader, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Servable
from thriftserve.repository import config_file
from thriftserve.repository.versions import parse_model_flag

X = np.array([1.0, 2.0], np.float32)


def write(directory: Path, name: str, *lines: str) -> Path:
    """A Python file of these lines."""
    path = directory / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def opened(path: Path, name: str, device: str = "cpu") -> PythonSession:
    """The session of a class or function of a file."""
    return PythonSession.open(f"{path}:{name}", device)


@pytest.mark.parametrize(
    ("flag", "source"),
    [
        ("g=greet.py:Greeter", "{cwd}/greet.py:Greeter"),
        ("g=./greet.py", "{cwd}/greet.py"),
        ("g=python:greet.py:Greeter?a=/x.py", "{cwd}/greet.py:Greeter?a=/x.py"),
        ("g=/models/greet.py:f?a=1", "/models/greet.py:f?a=1"),
        ("g=python:pkg.greet:Greeter", "pkg.greet:Greeter"),
    ],
)
def test_flags_that_name_python_code(flag: str, source: str) -> None:
    """A path that ends in .py is Python code; relative ones become absolute, modules stay."""
    config = parse_model_flag(flag)
    assert (config.platform, config.source) == ("python", source.format(cwd=Path.cwd()))


@pytest.mark.parametrize("flag", ["g=/models/greet", "g=/models/x.python", "g=s3://models/greet.py"])
def test_flags_that_name_base_paths(flag: str) -> None:
    """Anything else is a base path still."""
    assert parse_model_flag(flag).platform == "tensorflow"


def test_a_file_in_the_configuration() -> None:
    """model_platform python takes a file, absolute as base paths are; without model_platform, the remedy is named."""
    text = "model_config_list {{ config {{ name: 'g' base_path: '{}' {} }} }}"
    models = config_file.loads(text.format("/m/greet.py:Greeter", "model_platform: 'python'"), "m.config").models
    assert (models[0].platform, models[0].source) == ("python", "/m/greet.py:Greeter")
    with pytest.raises(ConfigError, match="is relative"):
        config_file.loads(text.format("greet.py:Greeter", "model_platform: 'python'"), "m.config")
    with pytest.raises(ConfigError, match="write model_platform: 'python' too"):
        config_file.loads(text.format("/m/greet.py:Greeter", ""), "m.config")


def test_a_plain_function_is_a_model(tmp_path: Path) -> None:
    """It answers serving_default; its attributes are the model's, options its keyword arguments."""
    path = write(
        tmp_path,
        "scale.py",
        "def scale(inputs, factor='2'):",
        "    return {'y': inputs['x'] * float(factor)}",
        "scale.signatures = {'inputs': {'x': ('float32', [None])}, 'outputs': {'y': ('float32', [None])}}",
        "scale.labels = ['a']",
    )
    session = PythonSession.open(f"{path}?factor=3", "cpu")
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [3.0, 6.0]
    assert session.labels == ("a",)
    with pytest.raises(ModelLoadError, match=r"TypeError: .*'size'.*scale\.py:1"):
        PythonSession.open(f"{path}:scale?size=3", "cpu")


def test_load_is_told_where_it_is(tmp_path: Path) -> None:
    """load(context) gets name, device, directory, options, cores and a logger that reaches the server's log."""
    path = write(
        tmp_path,
        "told.py",
        "class Told:",
        "    def load(self, context):",
        "        self.context = context",
        "    def predict(self, inputs):",
        "        return {}",
    )
    servable = loader.load(parse_model_flag(f"t={path}:Told?a=1"), SessionOptions("gpu:1", intra_op_threads=3))
    context: Any = servable.session.model.context  # type: ignore[attr-defined]  # PythonSession
    assert (context.name, context.device, context.directory) == ("t", "gpu:1", tmp_path)
    assert (dict(context.options), context.cores) == ({"a": "1"}, 3)
    assert isinstance(context.logger, logging.Logger) and context.logger.name.startswith("thriftserve.")


def test_load_with_defaults_of_its_own_is_told_nothing(tmp_path: Path) -> None:
    """A load that was written before contexts, with a parameter that has a default, is called as ever."""
    path = write(
        tmp_path,
        "old.py",
        "class Old:",
        "    def load(self, weights='w'):",
        "        self.weights = weights",
        "    def predict(self, inputs):",
        "        return {}",
    )
    assert opened(path, "Old").model.weights == "w"


EXAMPLE = (
    "class Words:",
    "    signatures = {'inputs': {'word': ('string', [None]), 'n': 'int64'}, 'outputs': {'n': ('int64', [None])}}",
    "    seen = []",
    "    def example(self):",
    "        return {'word': ['caf\\u00e9', b'tea'], 'n': [1, 2]}",
    "    def predict(self, inputs):",
    "        if b'tea' not in inputs['word']:",
    "            raise ValueError('no tea')",
    "        return {'n': inputs['n']}",
)


def test_the_example_warms_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model's own example is run in place of zeros, as a request would bring it."""
    session = opened(write(tmp_path, "words.py", *EXAMPLE), "Words")
    example = session.examples["serving_default"]
    assert example["word"].tolist() == ["café".encode(), b"tea"]
    assert example["n"].dtype == np.int64 and example["n"].tolist() == [1, 2]
    with caplog.at_level(logging.WARNING):
        warmup.run(Servable("words", 1, session), strict=True)
    assert caplog.text == ""


def test_the_example_is_part_of_the_proof(tmp_path: Path) -> None:
    """Whether requests may share runs is tried with the example too: the model below mixes rows for its like alone."""
    lines = (
        "def f(inputs):",
        "    x = inputs['x']",
        "    return {'y': x + (len(x) if 4711.0 in x else 0)}",
        "t = ('float32', [None])",
        "f.signatures = {'inputs': {'x': t}, 'outputs': {'y': t}}",
    )
    for example, shares in (("", True), ("f.example = {'x': [4711.0]}", False)):
        path = write(tmp_path, f"mixing_{shares}.py", *lines, example)
        servable, batcher = Servable("f", 1, opened(path, "f")), Batcher(1)
        batcher.examine(servable)
        assert (batcher.why_apart(servable, "serving_default") == "") is shares


def test_an_example_that_fails(tmp_path: Path) -> None:
    """It is logged, and with strict_warmup the load fails."""
    lines = ("def f(inputs):", "    raise KeyError('x')", "f.example = {'x': 1}")
    servable = Servable("f", 1, opened(write(tmp_path, "failing.py", *lines), "f"))
    assert warmup.run(servable) >= 0
    with pytest.raises(ModelLoadError, match=r"example of 'serving_default' can't be run: .*failing\.py:2"):
        warmup.run(servable, strict=True)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("[1]", "example is a list"),
        ("{'y': [1]}", "example has the inputs 'y'; the signature 'serving_default' takes 'x'"),
        ("{'x': [[1]]}", r"the input 'x': shape \[1, 1\] does not fit \[\?\]"),
        ("{'x': ['a']}", "the input 'x': .*FLOAT"),
        ("{'other': {'x': [1]}}", "signature 'other'; the model has serving_default"),
    ],
)
def test_examples_that_do_not_fit(tmp_path: Path, example: str, said: str) -> None:
    """An example that is not what the signature declares ends the load, and says where the model is."""
    lines = ("def f(inputs):", "    return {}", "f.signatures = {'inputs': {'x': ('float32', [None])}}")
    path = write(tmp_path, "unfit.py", *lines, f"f.example = {example}")
    with pytest.raises(ModelLoadError, match=said) as caught:
        opened(path, "f")
    assert f"({path}:1)" in caught.value.message


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("x = 1", "def f(:"), r"SyntaxError: .*bad\.py:2\)"),
        (("x = 1", "", "y = x / 0"), r"ZeroDivisionError: .*bad\.py:3\)"),
        (("import no_such_module_anywhere",), r"ModuleNotFoundError: .*bad\.py:1\)"),
        (("raise SystemExit(3)",), r"SystemExit: 3 .*bad\.py:1\)"),
        (("class f:", "    def load(self):", "        open('/no/file')"), r"FileNotFoundError: .*bad\.py:3\)"),
        (("class f:", "    pass"), r"no method predict.*bad\.py:1\)"),
        (("a = 1",), "has no f; it has none"),
        (("f = 1",), "f is a int, not a class"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    """What keeps a file from being loaded is told with the line that led to it."""
    path = write(tmp_path, "bad.py", *lines)
    with pytest.raises(ModelLoadError, match=said) as caught:
        opened(path, "f")
    assert caught.value.message.startswith(f"{path}:f: ")


def test_a_file_without_a_name(tmp_path: Path) -> None:
    """A file with one class or function needs no name; otherwise those that it has are listed."""
    path = write(tmp_path, "alone.py", "from pathlib import Path", "def f(inputs):", "    return {}", "_g = f")
    assert PythonSession.open(str(path), "cpu").run("serving_default", {}, []) == {}
    path = write(tmp_path, "two.py", "class A: ...", "class B: ...")
    with pytest.raises(ModelLoadError, match=rf"write {path}:NAME; it has A, B"):
        PythonSession.open(str(path), "cpu")
    with pytest.raises(ModelLoadError, match="there is no such file"):
        PythonSession.open(f"{tmp_path}/missing.py:A", "cpu")


def test_failures_of_predict_name_the_line(tmp_path: Path) -> None:
    """The caller sees the file's name and line, not its directory; a SystemExit is a failure like others."""
    lines = ("def f(inputs):", "    return inputs['x']", "def g(inputs):", "    raise SystemExit(1)")
    path = write(tmp_path, "fails.py", *lines)
    with pytest.raises(Internal, match=r"^fails\.py:f failed in 'serving_default': KeyError: 'x' \(fails\.py:2\)$"):
        opened(path, "f").run("serving_default", {}, [])
    with pytest.raises(Internal, match=r"SystemExit: 1 \(fails\.py:4\)"):
        opened(path, "g").run("serving_default", {}, [])


def test_declared_errors_are_the_callers(tmp_path: Path) -> None:
    """What input_errors names is InvalidArgument in the model's own words; other exceptions stay the model's."""
    lines = ("def f(inputs):", "    raise inputs['kind']('x is odd')", "f.input_errors = (ValueError,)")
    session = opened(write(tmp_path, "declared.py", *lines), "f")
    with pytest.raises(InvalidArgument, match=r"^x is odd$"):
        session.run("serving_default", {"kind": UnicodeError}, [])  # type: ignore[dict-item]  # a class, no array
    with pytest.raises(Internal, match="TypeError: x is odd"):
        session.run("serving_default", {"kind": TypeError}, [])  # type: ignore[dict-item]  # a class, no array
    path = write(tmp_path, "undeclared.py", "def f(inputs): ...", "f.input_errors = 'ValueError'")
    with pytest.raises(ModelLoadError, match=r"input_errors is 'ValueError': expected exception classes"):
        opened(path, "f")


def test_a_file_may_be_called_as_a_library(tmp_path: Path) -> None:
    """A file called numpy.py gets numpy when it imports it, and files beside it; the server's numpy stays."""
    write(tmp_path, "beside_numpy.py", "FACTOR = 3")
    path = write(
        tmp_path,
        "numpy.py",
        "import numpy as np",
        "from beside_numpy import FACTOR",
        "def f(inputs):",
        "    return {'y': np.multiply(inputs['x'], FACTOR)}",
    )
    assert opened(path, "f").run("serving_default", {"x": X}, [])["y"].tolist() == [3.0, 6.0]

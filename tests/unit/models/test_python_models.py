"""Python classes as models: loading, options, signatures, answers and every way to get them wrong."""

from __future__ import annotations

import numpy as np
import pytest

from thriftserve.errors import Internal, InvalidArgument, ModelLoadError
from thriftserve.models import loader, warmup
from thriftserve.models.devices import SessionOptions
from thriftserve.models.python.session import PythonSession, read_signatures
from thriftserve.models.session import Signature, TensorSpec
from thriftserve.repository.versions import parse_model_flag
from thriftserve_idl.ttypes import DataType

X = np.array([[1.0, 2.0]], np.float32)


def test_undeclared_model_takes_what_it_is_sent() -> None:
    """Without signatures there is serving_default, marked as unchecked, and outputs are asked for by name."""
    session = PythonSession.open("served_models:Doubler", "cpu")
    assert dict(session.signatures) == {"serving_default": Signature("serving_default", validated=False)}
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [[2.0, 4.0]]
    assert set(session.run("serving_default", {"x": X}, [])) == {"x", "y"}
    assert (session.platform, session.device) == ("python", "cpu")


def test_declared_model_has_signatures_options_labels_and_steps() -> None:
    """Options reach the constructor as strings, load and close are called once, each signature has its method."""
    session = PythonSession.open("served_models:Declared?factor=3&note=%E4%B8%AD", "cpu")
    assert session.signatures["serving_default"].inputs == {"x": TensorSpec("x", DataType.FLOAT, (None, 2))}
    assert session.signatures["spell"].inputs == {"word": TensorSpec("word", DataType.STRING, None)}
    assert session.labels == ("none", "some")
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [[3.0, 6.0]]
    assert session.run("spell", {"word": np.array(b"", object)}, ["word"])["word"].item() == "中".encode()
    session.close()
    assert session.model.steps == ["load", "close"]


def test_loader_makes_a_servable_of_it() -> None:
    """A flag that names a class becomes version 1 of a servable with the class's labels; warm-up runs it."""
    config = parse_model_flag("two=python:served_models:Declared?factor=2")
    servable = loader.load(config, SessionOptions())
    assert (servable.name, servable.version, servable.labels) == ("two", 1, ("none", "some"))
    assert warmup.run(servable) >= 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no_such_module:Model", "no_such_module can't be imported: ModuleNotFoundError.* PYTHONPATH"),
        ("served_models:Nothing", "served_models has no Nothing"),
        ("served_models:NOT_A_CLASS", "is a int, not a class"),
        ("served_models", "write python:package.module:Class"),
        ("served_models:Declared?colour=red", "TypeError: .*colour"),
        ("served_models:Faulty?how=load", "OSError: no weights"),
        ("served_models:Undone", "no method other"),
        ("served_models:Strange", "'x' has the element type 'complex64'"),
    ],
)
def test_what_can_not_be_loaded_is_named(source: str, said: str) -> None:
    """Each failure to load is a ModelLoadError that names the source and the reason."""
    with pytest.raises(ModelLoadError, match=said) as caught:
        PythonSession.open(source, "cpu")
    assert source in caught.value.message


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "Faulty failed in 'serving_default': KeyError"),
        ("list", "Faulty answered 'serving_default' with a list"),
        ("dict", "Faulty gave no array for the output 'y': list can't become an array"),
    ],
)
def test_wrong_answers_are_the_models_fault(how: str, said: str) -> None:
    """An exception, an answer that is no dict and an output that makes no array are Internal, naming the class."""
    session = PythonSession.open(f"served_models:Faulty?how={how}", "cpu")
    with pytest.raises(Internal, match=said):
        session.run("serving_default", {}, ["y"])


def test_missing_output_is_the_models_fault() -> None:
    """An output that was asked for and not given is named beside those that were."""
    session = PythonSession.open("served_models:Doubler", "cpu")
    with pytest.raises(Internal, match="no output 'z'; it gave 'y', 'x'"):
        session.run("serving_default", {"x": X}, ["z"])


def test_model_may_refuse_inputs() -> None:
    """A model that raises InvalidArgument tells the caller so, in its own words."""
    session = PythonSession.open("served_models:Faulty?how=refuse", "cpu")
    with pytest.raises(InvalidArgument, match="x must be odd"):
        session.run("serving_default", {}, [])


def test_forms_of_declaration() -> None:
    """Signatures may be given whole, by name, or as the default's parts alone."""
    whole = Signature("other", {"x": TensorSpec("x", DataType.INT64, (None,))})
    assert read_signatures({"other": whole}) == {"other": whole}
    alone = read_signatures({"inputs": {"x": ("bfloat16", [3])}, "outputs": {"y": "bool"}})
    assert alone["serving_default"].inputs["x"] == TensorSpec("x", DataType.BFLOAT16, (3,))
    assert alone["serving_default"].outputs["y"] == TensorSpec("y", DataType.BOOL, None)


@pytest.mark.parametrize("declared", [{}, [], {"a": 3}, {"a": {"input": {}}}])
def test_declaration_of_no_known_form(declared: object) -> None:
    """A declaration that can't be read is a ValueError that shows it."""
    with pytest.raises(ValueError, match="signature"):
        read_signatures(declared)


def test_every_way_to_write_a_tensor() -> None:
    """An element type alone, as numpy's name or type; a free size as None or -1."""
    (signature,) = read_signatures({"inputs": {"x": np.float32, "i": ("int64", (-1, None, 3))}}).values()
    assert signature.inputs == {
        "x": TensorSpec("x", DataType.FLOAT, None),
        "i": TensorSpec("i", DataType.INT64, (None, None, 3)),
    }


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (("float32", [None, -2]), "'x' has the shape .* None where any will do"),
        (("float32", ["3"]), "'x' has the shape"),
        (("float32", 3), "'x' has the shape"),
        (None, "'x' has the element type None"),
        ((None, [3]), "'x' has the element type None"),
        ("object3", "'x' has the element type 'object3'"),
    ],
)
def test_a_tensor_that_can_not_be_read(tensor: object, said: str) -> None:
    """Element types and shapes that mean nothing are told when the model is loaded."""
    with pytest.raises(ValueError, match=said):
        read_signatures({"inputs": {"x": tensor}})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, ()),
        ((), ()),
        (["cat", b"caf\xc3\xa9"], ("cat", "café")),
        (np.array(["cat", "dog"]), ("cat", "dog")),
        (range(2), ("0", "1")),
    ],
)
def test_labels_are_any_list(labels: object, expected: tuple[str, ...]) -> None:
    """Lists, tuples and arrays of names are the labels."""
    model = type("Labelled", (), {"labels": labels, "predict": lambda self, inputs: inputs})()
    assert PythonSession(model, "m:Labelled", "cpu").labels == expected


@pytest.mark.parametrize("labels", ["cat", b"cat", {0: "cat"}, 3])
def test_labels_that_are_no_list(labels: object) -> None:
    """Text would be a label for each letter, a dict's keys no labels: such a model is not loaded."""
    model = type("Labelled", (), {"labels": labels, "predict": lambda self, inputs: inputs})()
    with pytest.raises(TypeError, match=f"labels is a {type(labels).__name__}: expected a list"):
        PythonSession(model, "m:Labelled", "cpu")

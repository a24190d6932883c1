"""Exports of TensorFlow 1.x: variables by reference, tables, and signatures that share tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import exports_v1
from small_models import CPU
from thriftserve.errors import InvalidArgument, ModelLoadError
from thriftserve.models.tensorflow.saved_model import SavedModelSession

X = np.array([1.0, 2.0], np.float32)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports_v1.write(tmp_path_factory.mktemp("v1") / "1", twice=True)


@pytest.fixture(scope="module")
def session(export: Path) -> Iterator[SavedModelSession]:
    opened = SavedModelSession.open(export, CPU)
    yield opened
    opened.close()


def test_signatures_are_all_there(session: SavedModelSession) -> None:
    """Every signature of the meta graph with the tag "serve" is served; the one for training is not loaded."""
    assert set(session.signatures) == exports_v1.SIGNATURES


def test_variables_have_their_values(session: SavedModelSession) -> None:
    """Variables are restored from the export's files."""
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [3.0, 6.0]


def test_tables_are_filled(session: SavedModelSession) -> None:
    """The legacy init op has filled the lookup table."""
    words = np.array([["早".encode(), "晚".encode(), b"?"]], object)
    assert session.run("lookup", {"words": words}, ["ids"])["ids"].tolist() == [[1, 2, -1]]


def test_two_outputs_of_one_tensor(session: SavedModelSession) -> None:
    """Two names of one tensor are both answered, together and alone."""
    both = session.run("serving_default", {"x": X}, ["y", "same"])
    assert both["y"].tolist() == both["same"].tolist() == [3.0, 6.0]
    assert list(session.run("serving_default", {"x": X}, ["same"])) == ["same"]


def test_output_that_is_an_input(session: SavedModelSession) -> None:
    """An input that is an output too comes back as it was sent, whatever bytes it has, beside other outputs."""
    words = np.array([b"a\x00", "中".encode()], object)
    answer = session.run("echo", {"words": words}, ["back", "joined"])
    assert answer["back"].tolist() == words.tolist()
    assert answer["joined"].tolist() == [b"a\x00a\x00", "中中".encode()]
    assert session.run("plain", {"x": X}, ["back"])["back"].tolist() == [1.0, 2.0]


def test_string_of_rank_0(session: SavedModelSession) -> None:
    """A STRING scalar comes back as an object array of rank 0."""
    joined = session.run("echo", {"words": np.array(b"a\x00", object)}, ["joined"])["joined"]
    assert joined.shape == ()
    assert joined.dtype == object
    assert joined.item() == b"a\x00a\x00"


def test_only_wanted_outputs_are_run(session: SavedModelSession) -> None:
    """The part of the graph that only an unwanted output needs is not run: here it would fail."""
    assert session.run("guarded", {"x": X}, ["good"])["good"].tolist() == [2.0, 3.0]
    with pytest.raises(InvalidArgument, match="never"):
        session.run("guarded", {"x": X}, ["good", "bad"])


def test_two_inputs_of_one_tensor(session: SavedModelSession) -> None:
    """Two names of one input take equal values; different ones are refused, by name."""
    answer = session.run("twins", {"a": X, "b": X.copy()}, ["y", "a_again"])
    assert answer["y"].tolist() == [3.0, 6.0]
    assert answer["a_again"].tolist() == [1.0, 2.0]
    with pytest.raises(InvalidArgument, match="'a' and 'b'"):
        session.run("twins", {"a": X, "b": X + 1}, ["y"])


def test_only_meta_graph_is_served_whatever_its_tag(tmp_path: Path) -> None:
    """An export with a single meta graph is served even where nobody tagged it "serve"."""
    session = SavedModelSession.open(exports_v1.write(tmp_path / "1", ["inference"]), CPU)
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [3.0, 6.0]
    session.close()


def test_no_guessing_among_meta_graphs(tmp_path: Path) -> None:
    """Of two meta graphs without the tag "serve", none is picked; the message lists them."""
    export = exports_v1.write(tmp_path / "1", ["inference"], twice=True)
    with pytest.raises(ModelLoadError, match=r"none of its 2 meta graphs .* inference; train"):
        SavedModelSession.open(export, CPU)

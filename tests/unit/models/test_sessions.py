"""Sessions of SavedModels: every signature, STRING, errors, the fast calls and what stands in for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from small_models import CPU, opened, small
from thriftserve.errors import Internal, InvalidArgument, ModelLoadError
from thriftserve.models.devices import SessionOptions
from thriftserve.models.tensorflow import saved_model
from thriftserve.models.tensorflow.saved_model import SavedModelSession
from thriftserve_idl.ttypes import DataType

X = np.array([1.0, 2.0], np.float32)


@pytest.fixture
def half_plus_two() -> Iterator[SavedModelSession]:
    session = opened("half_plus_two")
    yield session
    session.close()


def test_every_signature_of_the_serve_graph_is_there(half_plus_two: SavedModelSession) -> None:
    """All signatures are served, with their names, types and shapes, and none of the loader's own."""
    assert set(half_plus_two.signatures) == {"serving_default", "half_plus_three", "constants"}
    default = half_plus_two.signatures["serving_default"]
    assert default.inputs["x"].dtype == DataType.FLOAT
    assert default.inputs["x"].shape == (None,)
    assert default.method_name == "tensorflow/serving/predict"
    assert half_plus_two.signatures["constants"].outputs["two"].shape == ()
    assert (half_plus_two.platform, half_plus_two.device) == ("tensorflow", "cpu")


def test_signatures_answer_by_name(half_plus_two: SavedModelSession) -> None:
    """Each signature runs its own function on the values sent."""
    assert half_plus_two.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    assert half_plus_two.run("half_plus_three", {"x": X}, ["y"])["y"].tolist() == [3.5, 4.0]


def test_signature_without_inputs_gives_scalars_as_arrays(half_plus_two: SavedModelSession) -> None:
    """No inputs are needed where none are declared, and an output of rank 0 is an array of that rank."""
    answer = half_plus_two.run("constants", {}, ("two", "half"))
    assert {name: float(value) for name, value in answer.items()} == {"two": 2.0, "half": 0.5}
    assert [type(value) for value in answer.values()] == [np.ndarray, np.ndarray]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.0, 9.0, 2.0, 9.0], np.float32)[::2],
        np.frombuffer(b"." + X.tobytes(), np.float32, offset=1),
        np.frombuffer(X.tobytes(), np.float32),
    ],
    ids=["strided", "unaligned", "read-only"],
)
def test_any_memory_layout_is_taken(half_plus_two: SavedModelSession, array: np.ndarray) -> None:
    """Arrays as decoding gives them (views into a message, at any offset) give the same answers."""
    assert half_plus_two.run("serving_default", {"x": array}, ["y"])["y"].tolist() == [2.5, 3.0]


def test_empty_batch_is_run(half_plus_two: SavedModelSession) -> None:
    """A batch of no rows is answered with no rows."""
    assert half_plus_two.run("serving_default", {"x": X[:0]}, ["y"])["y"].shape == (0,)


def test_strings_go_in_and_out_as_bytes() -> None:
    """STRING is an object array of bytes both ways, any UTF-8 text included, through a lookup table."""
    session = opened("text_classifier")
    words = np.array([["足球".encode(), b"unknown", b"bank"], ["下雨".encode(), b"", b""]], object)
    inputs = {"words": words, "nwords": np.array([2, 1], np.int32)}
    answer = session.run("serving_default", inputs, ["classes_id", "labels", "softmax"])
    session.close()
    assert answer["labels"].dtype == object
    assert answer["labels"].tolist() == [b"sport", b"weather"]
    assert answer["classes_id"].tolist() == [0, 1]
    assert answer["softmax"].shape == (2, 3)


def test_model_refusing_values_is_the_callers_fault(half_plus_two: SavedModelSession) -> None:
    """What TensorFlow calls an invalid argument is InvalidArgument, with its first line and no traceback."""
    with pytest.raises(InvalidArgument, match="Type mismatch") as caught:
        half_plus_two.run("serving_default", {"x": X.astype(np.float64)}, ["y"])
    assert "\n" not in caught.value.message


def test_any_other_failure_is_internal(half_plus_two: SavedModelSession) -> None:
    """A failure that is not about the values sent is Internal and names the signature."""
    half_plus_two.close()
    with pytest.raises(Internal, match="'serving_default'"):
        half_plus_two.run("serving_default", {"x": X}, ["y"])


def test_long_reasons_are_shortened() -> None:
    """A message of TensorFlow's that would fill a screen is cut."""
    assert len(saved_model.reason(ValueError("x" * 10_000))) == saved_model.MAX_REASON
    assert saved_model.reason(ValueError()) == "ValueError"


def test_threads_share_a_session() -> None:
    """Callers at once, each with its own signature and values, get their own answers."""
    session = opened("half_plus_two")
    wrong: list[object] = []

    def call(number: int) -> None:
        signature, plus = (("serving_default", 2), ("half_plus_three", 3))[number % 2]
        for step in range(300):
            sent = np.full(1 + number, step, np.float32)
            got = session.run(signature, {"x": sent}, ["y"])["y"]
            if not np.array_equal(got, sent / 2 + plus):
                wrong.append((signature, step, got))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    assert wrong == []


def test_sets_of_outputs_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers that ask for ever new sets of outputs get their answers, but no memory for each set."""
    monkeypatch.setattr(saved_model, "MAX_CALLS", 2)
    session = opened("half_plus_two")
    for outputs in (["two"], ["half"], ["two", "half"], ["half", "two"], ["half", "half"]):
        assert set(session.run("constants", {}, outputs)) == set(outputs)
    assert len(session.calls.known) <= 3  # the limit, and the one that gives all outputs
    session.close()


@pytest.mark.parametrize("inter_op_threads", [None, 2], ids=["callers_thread", "pool"])
def test_thread_settings_change_no_answer(inter_op_threads: int | None) -> None:
    """With a pool or in the caller's thread, the answer is the same."""
    session = SavedModelSession.open(small("half_plus_two") / "1", SessionOptions(inter_op_threads=inter_op_threads))
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    session.close()


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """A version without a SavedModel is told by its path and what is missing."""
    with pytest.raises(ModelLoadError, match=r"/1: there is no saved_model\.pb"):
        SavedModelSession.open(tmp_path / "1", CPU)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    """A file that is no SavedModel is told by its path."""
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelLoadError, match=r"saved_model\.pb: not a SavedModel, or damaged"):
        SavedModelSession.open(tmp_path, CPU)


def test_empty_file_is_named(tmp_path: Path) -> None:
    """A file cut to nothing is refused for having no graph to serve."""
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="it has no meta graph"):
        SavedModelSession.open(tmp_path, CPU)


def test_missing_variables_are_named(tmp_path: Path) -> None:
    """A version whose variables did not arrive is told by its path and TensorFlow's reason."""
    version = tmp_path / "1"
    shutil.copytree(small("half_plus_two") / "1", version)
    for piece in (version / "variables").iterdir():
        piece.unlink()
    with pytest.raises(ModelLoadError, match=r"/1: the SavedModel can't be loaded: .*variables"):
        SavedModelSession.open(version, CPU)


def test_text_form_is_loaded(tmp_path: Path) -> None:
    """A SavedModel written as text (saved_model.pbtxt) is served like one in binary."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    version = tmp_path / "1"
    shutil.copytree(small("half_plus_two") / "1", version)
    binary = version / "saved_model.pb"
    text = text_format.MessageToString(saved_model_pb2.SavedModel.FromString(binary.read_bytes()))
    (version / "saved_model.pbtxt").write_text(text)
    binary.unlink()
    session = SavedModelSession.open(version, CPU)
    assert session.run("serving_default", {"x": X}, ["y"])["y"].tolist() == [2.5, 3.0]
    session.close()


def test_unrestored_variables_are_found_at_load(tmp_path: Path) -> None:
    """A Keras 3 model written by tf.saved_model.save, whose calls would all fail, is refused with the remedy."""
    import tensorflow as tf

    model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1)])
    tf.saved_model.save(model, str(tmp_path / "saved"))
    model.export(str(tmp_path / "exported"), verbose=False)
    with pytest.raises(ModelLoadError, match=r"not restored .* model\.export"):
        SavedModelSession.open(tmp_path / "saved", CPU)
    session = SavedModelSession.open(tmp_path / "exported", CPU)
    (name,) = session.signatures["serving_default"].inputs
    (output,) = session.signatures["serving_default"].outputs
    assert session.run("serving_default", {name: np.zeros((3, 2), np.float32)}, [output])[output].shape == (3, 1)
    session.close()


FORKING = """
import os, sys
from pathlib import Path
import numpy as np
from thriftserve.models import devices
from thriftserve.models.tensorflow.preload import preload
from thriftserve.models.tensorflow.saved_model import SavedModelSession

preload()
child = os.fork()
if child == 0:
    devices.claim("cpu")
    session = SavedModelSession.open(Path(sys.argv[1]), devices.SessionOptions())
    right = session.run("serving_default", {"x": np.zeros(1, np.float32)}, ["y"])["y"].tolist() == [2.0]
    os._exit(0 if right else 9)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_parent_that_preloaded_may_fork() -> None:
    """A child of a process that only imported TensorFlow loads a model and runs it."""
    command = [sys.executable, "-c", FORKING, str(small("half_plus_two") / "1")]
    assert subprocess.run(command, timeout=60, check=False, capture_output=True).returncode == 0


UNTOUCHED = """
import gc
import sys
from thriftserve.models.tensorflow.preload import preload

preload()
assert "tensorflow" in sys.modules and not {"keras", "sklearn", "scipy.sparse", "h5py"} & set(sys.modules)
assert gc.isenabled() and gc.get_freeze_count() > 100_000
import keras.src.optimizers
import tensorflow
import h5py, scipy.sparse
assert tensorflow.keras.optimizers.Adam is keras.src.optimizers.Adam
"""


def test_keras_is_left_to_those_who_use_it() -> None:
    """The import leaves out Keras and what that brings along; a model of one's own still has it, `tf.keras` too.

    The collector, which was off meanwhile, is on again and leaves alone what came.
    """
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], timeout=60, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_outputs_that_requests_cannot_carry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such an output takes only itself away; a signature with no other output is not served, the others are."""
    import tensorflow as tf

    spec = [tf.TensorSpec([None], tf.float32, name="x")]
    both = tf.function(lambda x: {"y": x + 1, "q": tf.cast(x, tf.qint8)}, input_signature=spec)
    neither = tf.function(lambda x: {"q": tf.cast(x, tf.qint8)}, input_signature=spec)
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"both": both, "neither": neither})
    session = SavedModelSession.open(tmp_path / "1", CPU)
    assert set(session.signatures) == {"both"}
    assert set(session.signatures["both"].outputs) == {"y"}
    assert session.run("both", {"x": X}, ["y"])["y"].tolist() == [2.0, 3.0]
    assert "signature both is served without an output: 'q' has the element type number" in caplog.text
    assert "signature neither is not served" in caplog.text
    session.close()

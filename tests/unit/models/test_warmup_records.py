"""Warm-up from recorded requests: files as TensorFlow writes them are read, run, and told of where they are bad."""

from __future__ import annotations

import doctest
import itertools
import logging
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from small_models import CPU, small
from thriftserve.errors import ModelLoadError
from thriftserve.files import CorruptFile
from thriftserve.models import loader, prediction_log, warmup
from thriftserve.models.prediction_log import RecordedRequest, Unsupported, decode, encode, to_array, to_tensor
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Servable
from thriftserve.models.session import Array, Arrays, Session, Signature, TensorSpec
from thriftserve.repository.versions import ModelConfig
from thriftserve_idl.ttypes import DataType
from thriftserve_proto import prediction_pb2, tensor_pb2

X = np.array([1, 2], np.float32)
TYPES = ["f4", "f8", "i4", "u1", "i2", "i1", "i8", "?", "u2", "f2", "u4", "u8"]
#: The fields of a TensorProto that have the values of these types; of others int_val.
VALUES = {
    "float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val", "float16": "half_val",
    "bfloat16": "half_val", "uint32": "uint32_val", "uint64": "uint64_val",
}  # fmt: skip


def by_value(array: Array) -> list[Any]:
    """The elements as a TensorProto's fields for single values have them."""
    flat = array.ravel()
    values: list[Any] = (flat.view("u2") if array.dtype.name in ("float16", "bfloat16") else flat).tolist()
    return values


class Noting(Session):
    """A session that notes what is run."""

    platform, device = "tensorflow", "cpu"

    def __init__(self) -> None:
        x, y = TensorSpec("x", DataType.FLOAT, (None,)), TensorSpec("y", DataType.FLOAT, (None,))
        text = TensorSpec("examples", DataType.STRING, (None,))
        self.signatures = {
            "serving_default": Signature("serving_default", {"x": x}, {"y": y, "z": y}),
            "classify": Signature("classify", {"examples": text}, {"y": y}),
        }
        self.seen: list[tuple[str, dict[str, Any], tuple[str, ...]]] = []

    def run(self, signature: str, inputs: Arrays, outputs: Any) -> dict[str, Array]:
        self.seen.append((signature, {name: one.tolist() for name, one in inputs.items()}, outputs))
        return {}

    def close(self) -> None:
        pass


class Counting:
    """A session that passes everything on to another and counts it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.ran: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, signature: str, inputs: Arrays, outputs: Any) -> dict[str, Array]:
        self.ran.append(signature)
        return self._session.run(signature, inputs, outputs)


@pytest.fixture
def noting() -> Noting:
    """A session without a model."""
    return Noting()


def recorded(version: Path, *records: bytes) -> Path:
    """A version directory with a warm-up file of these records."""
    path = version / warmup.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(prediction_log.frame_record, records)))
    return version


def served(session: Any) -> Servable:
    return Servable("m", 1, session)


Shape = tensor_pb2.TensorShapeProto
EXAMPLES = prediction_pb2.Input(example_list=prediction_pb2.ExampleList(examples=[b"E1", b"E2"]))


def log_of(kind: str, signature: str, examples: prediction_pb2.Input | None = None) -> bytes:
    """A PredictionLog of a kind that takes examples, or of a SessionRun."""
    log = prediction_pb2.PredictionLog()
    request = getattr(log, kind).request
    request.SetInParent()
    if kind != "session_run_log":
        request.model_spec.signature_name = signature
    if examples is not None:
        request.input.CopyFrom(examples)
    record: bytes = log.SerializeToString()
    return record


def tensor(dtype: int, **fields: Any) -> tensor_pb2.TensorProto:
    """A TensorProto of a type by number."""
    message = tensor_pb2.TensorProto(**fields)
    message.dtype = dtype  # type: ignore[assignment]  # any number may stand there
    return message


def of_tensorflow(message: Any) -> tensor_pb2.TensorProto:
    """TensorFlow's own TensorProto as ours."""
    ours = tensor_pb2.TensorProto()
    ours.ParseFromString(message.SerializeToString())
    return ours


def test_checksums_are_tensorflows(tmp_path: Path) -> None:
    """Records of all lengths as TensorFlow writes them are read, and those written here are read by TensorFlow."""
    import tensorflow as tf

    contents = [bytes(np.random.default_rng(size).bytes(size)) for size in (0, 1, 511, 512, 513, 70_001, 1 << 20)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for one in contents:
            writer.write(one)
    assert [content for _, content in prediction_log.read_records(tmp_path / "theirs")] == contents
    assert (tmp_path / "theirs").read_bytes() == b"".join(map(prediction_log.frame_record, contents))
    assert doctest.testmod(prediction_log).failed == 0


def test_tensors_are_tensorflows() -> None:
    """Every type, in packed content or as repeated values, scalars and empty ones, comes out as TensorFlow has it."""
    import ml_dtypes
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2 as tf_tensor

    for dtype, shape in itertools.product([*TYPES, ml_dtypes.bfloat16], [(), (0,), (2, 3)]):
        array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) - 2).astype(dtype)
        packed = tf.make_tensor_proto(array)
        assert_same(to_array(of_tensorflow(packed)), array)
        ours = tf.make_ndarray(tf_tensor.TensorProto.FromString(to_tensor(array).SerializeToString()))
        assert_same(ours, array)
        values = tf_tensor.TensorProto(dtype=packed.dtype, tensor_shape=packed.tensor_shape)
        getattr(values, VALUES.get(array.dtype.name, "int_val")).extend(by_value(array))
        assert_same(to_array(of_tensorflow(values)), array)
    same = tf.make_tensor_proto(7, tf.int16, (2, 2))  # one value for all four
    assert_same(to_array(of_tensorflow(same)), np.full((2, 2), 7, "i2"))
    zeros = tf.make_tensor_proto(0.0, tf.float32, ())
    zeros.ClearField("float_val")
    zeros.tensor_shape.dim.add(size=3)
    assert_same(to_array(of_tensorflow(zeros)), np.zeros(3, "f4"))
    texts = np.array([[b"a", b""], [b"\xff", b"dd"]], object)
    assert_same(to_array(of_tensorflow(tf.make_tensor_proto(texts))), texts)
    assert_same(to_array(to_tensor(texts)), texts)


def assert_same(found: Array, wanted: Array) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (tensor(8), "type number 8"),
        (tensor(0), "type number 0"),
        (tensor(1, tensor_shape=Shape(unknown_rank=True)), "unknown rank"),
        (tensor(1, tensor_shape=Shape(dim=[Shape.Dim(size=1 << 62)])), "impossible shape"),
        (tensor(1, tensor_shape=Shape(dim=[Shape.Dim(size=-1)])), "impossible shape"),
        (tensor(1, tensor_content=b"abc"), "3 bytes of content for 1 elements"),
        (tensor(4, int_val=[2048]), "UINT8 tensor"),
        (tensor(19, half_val=[-1]), "HALF tensor"),
        (tensor(1, float_val=[0, 0]), "2 values for 1 elements"),
    ],
)
def test_bad_tensors_are_told(message: tensor_pb2.TensorProto, told: str) -> None:
    """What makes no array is refused in words, and never by an error of numpy's."""
    with pytest.raises(CorruptFile, match=told):
        to_array(message)


def test_requests_come_back() -> None:
    """A request written is the request read: signature, inputs and outputs wanted."""
    inputs = {"x": X, "words": np.array([b"a"], object)}
    (found,) = decode(encode("m", "sign", inputs, ["y"]))
    assert (found.signature, list(found.outputs), found.examples) == ("sign", ["y"], None)
    assert {name: one.tolist() for name, one in found.inputs.items()} == {"x": [1, 2], "words": [b"a"]}
    assert decode(encode("m", "", {})) == [RecordedRequest("serving_default", {}, [])]


def test_each_kind_is_run_or_told(tmp_path: Path, noting: Noting, caplog: pytest.LogCaptureFixture) -> None:
    """Predict, Classify, Regress and MultiInference reach their signatures; SessionRun is told as skipped."""
    shared = prediction_pb2.ExampleListWithContext(examples=[b"E1"], context=b"C")
    several = prediction_pb2.PredictionLog()
    several.multi_inference_log.request.input.CopyFrom(EXAMPLES)
    for _ in range(2):
        several.multi_inference_log.request.tasks.add().model_spec.signature_name = "classify"
    version = recorded(
        tmp_path,
        encode("m", "", {"x": X}),
        encode("m", "", {"x": X}, ["z"]),
        log_of("classify_log", "classify", EXAMPLES),
        log_of("regress_log", "classify", prediction_pb2.Input(example_list_with_context=shared)),
        several.SerializeToString(),
        log_of("session_run_log", ""),
        log_of("classify_log", "", EXAMPLES),
    )
    warmed = warmup.run_recorded(served(noting), version)
    both = ("classify", {"examples": [b"E1", b"E2"]}, ("y",))
    assert noting.seen == [
        ("serving_default", {"x": [1, 2]}, ("y", "z")),
        ("serving_default", {"x": [1, 2]}, ("z",)),
        both,
        ("classify", {"examples": [b"CE1"]}, ("y",)),
        both,
        both,
    ]
    assert warmed.runs == {"serving_default": 2, "classify": 4}
    assert [one.partition(":")[0] for one in warmed.faults] == ["record 6 is skipped", "record 7 is skipped"]
    assert "record 6 is skipped: a SessionRun request" in caplog.text
    with pytest.raises(Unsupported):
        decode(log_of("session_run_log", ""))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (encode("m", "other", {"x": X}), "no signature 'other'; it has serving_default, classify"),
        (encode("m", "", {"w": X}), "takes the inputs 'x', and it has 'w'"),
        (encode("m", "", {"x": X.astype("f8")}), "is FLOAT of shape .*, and it has float64"),
        (encode("m", "", {"x": X.reshape(1, 2)}), r"has float32 of shape \[1, 2\]"),
        (encode("m", "", {"x": X}, ["w"]), "no output 'w'"),
        (log_of("classify_log", "classify"), "no examples"),
        (b"", "no request in it"),
        (b"\xff\xff", "cut short"),
        (encode("m", "", {"x": X})[:-3], "cut short"),
    ],
)
def test_bad_records_are_told(tmp_path: Path, noting: Noting, record: bytes, told: str) -> None:
    """A bad record is named by its number and the good ones around it run; with strict it fails the load."""
    good = encode("m", "", {"x": X})
    version = recorded(tmp_path, good, record, good)
    warmed = warmup.run_recorded(served(noting), version)
    assert len(noting.seen) == 2
    assert len(warmed.faults) == 1
    with pytest.raises(AssertionError, match=f"record 2: .*{told}"):
        raise AssertionError(warmed.faults[0])
    with pytest.raises(ModelLoadError, match=f"tf_serving_warmup_requests: record 2: .*{told}"):
        warmup.run_recorded(served(noting), version, strict=True)


def test_damaged_files_are_told(tmp_path: Path, noting: Noting) -> None:
    """A flipped byte costs its own record; a damaged length or a cut what follows it; nothing costs the load."""
    good = encode("m", "", {"x": X})
    path = recorded(tmp_path, good, good, good) / warmup.FILE
    whole, size = path.read_bytes(), len(prediction_log.frame_record(good))
    for at, ran, told in (
        (size + 20, 2, "record 2: its content is damaged"),
        (size + 2, 1, "record 2: its length is damaged"),
    ):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        noting.seen.clear()
        assert [one[: len(told)] for one in warmup.run_recorded(served(noting), tmp_path).faults] == [told]
        assert len(noting.seen) == ran
    for cut, told in ((5, "the file ends 5 bytes into it"), (30, f"it has {len(good)} bytes and the file has 14")):
        path.write_bytes(whole[: size + cut])
        assert told in warmup.run_recorded(served(noting), tmp_path).faults[0]
    path.write_bytes(struct.pack("<Q", 1 << 62))
    assert len(warmup.run_recorded(served(noting), tmp_path).faults) == 1


def test_a_thousand_are_run(tmp_path: Path, noting: Noting) -> None:
    """TensorFlow Serving's limit holds: what comes after it is not run, and told."""
    warmed = warmup.run_recorded(served(noting), recorded(tmp_path, *[encode("m", "", {"x": X})] * 1002))
    assert len(noting.seen) == warmup.MAX_RECORDS
    assert warmed.faults == ["it has more than 1000 records: those after them are not run"]


def test_real_models_are_warmed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A SavedModel runs what was recorded for it, and zeros for each signature that nothing was recorded for."""
    caplog.set_level(logging.INFO)
    shutil.copytree(small("half_plus_two"), tmp_path / "m")
    version = recorded(tmp_path / "m" / "1", encode("m", "", {"x": X}), encode("m", "nine", {}))
    servable = loader.load(ModelConfig("m", "tensorflow", str(tmp_path / "m")), CPU)
    counting: Any = Counting(servable.session)
    warmup.run(replace(servable, session=counting), version)
    assert sorted(counting.ran) == sorted(servable.signatures)
    assert "with 1 recorded requests" in caplog.text
    assert "record 2: the model has no signature 'nine'" in caplog.text
    with pytest.raises(ModelLoadError, match="record 2"):
        warmup.run(servable, version, strict=True)


def test_python_models_are_warmed(tmp_path: Path) -> None:
    """A Python model that declares nothing takes recorded requests as clients would send them; without a file, none."""
    session = PythonSession.open("served_models:Doubler", "cpu")
    warmed = warmup.run_recorded(served(session), recorded(tmp_path, encode("m", "", {"x": X, "other": X})))
    assert (warmed.runs, warmed.faults) == ({"serving_default": 1}, [])
    assert warmup.run_recorded(served(session), tmp_path / "none", strict=True).runs == {}

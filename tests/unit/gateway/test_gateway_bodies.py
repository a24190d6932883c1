"""What the gateway takes and gives beside JSON tensors: examples, images, arrays, the Open Inference Protocol."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

import exports_examples
from documents import SUPPORT
from encoded_images import encoded, plain
from gateway_served import Answer, Door, gateway
from served import Served
from small_models import small

TESTS = str(SUPPORT)
HALF = "/v1/models/half_plus_two:predict"
EXAMPLES = "/v1/models/examples"
NPY, NPZ, RAW = "application/x-npy", "application/x-npz", "application/octet-stream"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway before a server of image models and others."""
    models = {
        "half_plus_two": small("half_plus_two"),
        "examples": exports_examples.write(tmp_path_factory.mktemp("models") / "examples"),
        "stripes": small("image_classifier"),
        "detector": small("detector"),
        "saliency": small("saliency"),
        "kinds": "python:gateway_models:Kinds",
    }
    flags = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
    own = ("--service-model", "detector", "--service-private", "--service-image-bytes", "100000")
    with (
        Served(*flags, "--workers", "1", "--server-type", "TBatchingServer", PYTHONPATH=TESTS) as server,
        gateway(
            server.port, flags=(*own, "--max-body-bytes", "2000000", "--cors-origin", "https://good.example")
        ) as made,
    ):
        yield made


# Examples

REGRESS = {"signature_name": "regress_x_to_y"}
CLASSIFIED: list[tuple[str, Any, Any]] = [
    ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": 5.0}]}, [3.0, 4.5]),
    ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": [2.0], "n": 1}]}, [4.0]),
    ("regress", {"signature_name": "regress_x_to_y", "examples": [{"n": -3}]}, [-1.0]),
    ("regress", {"signature_name": "regress_x_to_y", "examples": [{"n": True}]}, [3.0]),
    ("regress", {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"n": 1}]}, [3.0, 4.0]),
    ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0, "none": []}]}, [2.5]),
    ("classify", {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}, [[["", 3.0]]]),
    # What is null is as if left out; the query says what the body does not
    ("regress", {**REGRESS, "context": None, "examples": [{"x": 2.0}], "more": None}, [3.0]),
    ("regress?signature_name=regress_x_to_y", {"signature_name": None, "examples": [{"x": 2.0}]}, [3.0]),
    ("classify", {"signature_name": "classify_x_to_y", "images": None, "examples": [{"x": 2.0}]}, [[["", 3.0]]]),
    (
        "classify",
        {"signature_name": "classify_words", "examples": [{"words": ["很", {"b64": "YQ=="}]}, {"words": "b"}]},
        [[["很", 0.5], ["a", 0.5]], [["b", 0.5], ["", 0.5]]],
    ),
]


@pytest.mark.parametrize(("verb", "sent", "expected"), CLASSIFIED)
def test_examples_are_classified_and_regressed(door: Door, verb: str, sent: Any, expected: Any) -> None:
    """Examples reach the signature as TensorFlow's own messages, and results have the documented form."""
    answer = door.post(f"{EXAMPLES}:{verb}", sent)
    assert (answer.status, answer.json()) == (200, {"results": expected})


UNCLASSIFIED: list[tuple[str, Any, str]] = [
    (
        "regress",
        {"examples": [{"x": 1.0}]},
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/predict",
    ),
    (
        "classify",
        {"examples": [{"x": 1.0}]},
        "Expected classification signature method_name to be "
        "tensorflow/serving/classify. Was: tensorflow/serving/predict",
    ),
    ("regress", {"signature_name": "no", "examples": [{}]}, "No signature was found with the name: no"),
    ("regress", {**REGRESS, "examples": []}, "empty array"),
    ("regress", {**REGRESS, "examples": 3}, "Expecting 'examples' value to be an list/array"),
    ("regress", REGRESS, "key 'examples' is expected and was not found"),
    ("regress", {**REGRESS, "examples": [3]}, "Example must be JSON object but got JSON Number"),
    ("regress", {**REGRESS, "examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    ("regress", {**REGRESS, "examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    ("regress", {**REGRESS, "examples": [{"x": {"a": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
    (
        "regress",
        {**REGRESS, "examples": [{"x": [1.0, "a"]}]},
        "Unexpected element type in feature: x expecting type: float",
    ),
    ("regress", {**REGRESS, "examples": [{"n": 2**63}]}, "Feature: n has uint64 element. Only int64 is supported."),
    ("regress", {**REGRESS, "examples": [{"x": 1e39}]}, "without loss of precision"),
    (
        "regress",
        {**REGRESS, "examples": [{"x": 1.0}], "contexts": {}},
        "JSON object: has the key 'contexts', which has no effect here",
    ),
    (
        "classify",
        {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}], "top_k": 1},
        "JSON object: has the key 'top_k', which has no effect here; known here: signature_name, examples, context",
    ),
    ("regress?top_k=1", {**REGRESS, "examples": [{"x": 1.0}]}, "the query has top_k, which has no effect here"),
]


@pytest.mark.parametrize(("verb", "sent", "message"), UNCLASSIFIED)
def test_examples_that_can_not_be(door: Door, verb: str, sent: Any, message: str) -> None:
    """What is wrong with examples or their signature is a 400 that says so."""
    answer = door.post(f"{EXAMPLES}:{verb}", sent)
    assert answer.status == 400 and message in answer.error, answer.body


# Images


def stripes(across: bool) -> bytes:
    """A PNG of bright and dark lines."""
    lines = np.zeros((28, 28), np.uint8)
    lines[::4] = lines[1::4] = 255
    return encoded(Image.fromarray(lines if across else lines.T))


def form(fields: dict[str, str], *files: bytes) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    parts = [f'--xyz\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    parts += [head + file + b"\r\n" for file in files]
    return b"".join([*parts, b"--xyz--\r\n"]), {"Content-Type": "multipart/form-data; boundary=xyz"}


def test_images_are_classified(door: Door) -> None:
    """An image as the body, several in a form and as base64 get the best labels each, as many as asked for."""
    path = "/v1/models/stripes:classify"
    one = door.post(f"{path}?top_k=1", stripes(True), {"Content-Type": "image/png"})
    assert one.status == 200, one.body
    ((label, score),) = one.json()["results"][0]
    assert label == "horizontal" and 0 < score <= 1
    two = door.post(path, *form({"top_k": "2"}, stripes(True), stripes(False)))
    assert [image[0][0] for image in two.json()["results"]] == ["horizontal", "vertical"]
    assert [len(image) for image in two.json()["results"]] == [2, 2]
    text = {"b64": base64.b64encode(stripes(False)).decode()}
    assert door.post(path, {"images": [text], "top_k": 1}).json()["results"][0][0][0] == "vertical"


IMAGE = {"b64": base64.b64encode(stripes(True)).decode()}


@pytest.mark.parametrize(
    ("query", "options", "classes"),
    [
        ("?top_k=1", {"top_k": None, "signature_name": None, "more": None}, 1),
        ("?top_k=1", {"top_k": 2}, 2),
        ("?top_k=1&_=7", {}, 1),
        ("", {"top_k": None}, 3),
    ],
)
def test_options_of_images(door: Door, query: str, options: dict[str, Any], classes: int) -> None:
    """The body goes before the query; what is null in it is as if left out."""
    answer = door.post(f"/v1/models/stripes:classify{query}", {"images": [IMAGE], **options})
    assert answer.status == 200, answer.body
    assert len(answer.json()["results"][0]) == classes


@pytest.mark.parametrize(
    ("verb", "sent", "message"),
    [
        ("classify", {"topk": 1}, "JSON object: has the key 'topk', which has no effect here; did you mean 'top_k'?"),
        ("classify", {"min_score": 1}, "JSON object: has the key 'min_score', which has no effect here"),
        ("classify", {"examples": []}, "JSON object: has the key 'examples', which has no effect here"),
        ("detect", {"top_k": 1}, "JSON object: has the key 'top_k', which has no effect here"),
        ("classify?min_score=0.5", {}, "the query has min_score, which has no effect here"),
        (
            "detect?top_k=5",
            {},
            "the query has top_k, which has no effect here; known here: timeout, signature_name, min",
        ),
    ],
)
def test_options_without_effect(door: Door, verb: str, sent: Any, message: str) -> None:
    """An option that means nothing there is refused by name, wherever it stands."""
    answer = door.post(f"/v1/models/stripes:{verb}", {"images": [IMAGE], **sent})
    assert answer.status == 400 and message in answer.error, answer.body


def test_fields_of_a_form_without_effect(door: Door) -> None:
    """So is a field of a form; one that was meant as a file, too."""
    path = "/v1/models/stripes:classify"
    for field in ("topk", "min_score", "image"):
        answer = door.post(path, *form({field: "1"}, stripes(True)))
        assert answer.status == 400, answer.body
        assert (
            f"the form has the field {field!r}, which is not a file; options here: signature_name, top_k"
            in answer.error
        )
    answer = door.post(f"{path}?max_detections=1", stripes(True), {"Content-Type": "image/png"})
    assert answer.status == 400 and "the query has max_detections" in answer.error


def scene(colour: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """A PNG with one bright rectangle."""
    image = Image.new("RGB", (40, 20))
    image.paste(colour, (10, 5, 30, 15))
    return encoded(image)


def test_objects_are_detected(door: Door) -> None:
    """An image's objects come with labels, scores and boxes in fractions, and its size."""
    answer = door.post("/v1/models/detector:detect?max_detections=1", scene(), {"Content-Type": "image/png"})
    (image,) = answer.json()["results"]
    assert (image["width"], image["height"]) == (40, 20)
    (found,) = image["detections"]
    assert found["label"] == "red" and found["class_id"] == 1
    assert found["box"] == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.06)


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        ("/v1/models/stripes:classify", b"no image", "image/png", 400),
        ("/v1/models/stripes:classify", b"", "image/png", 400),
        ("/v1/models/stripes:classify?top_k=x", b"x", "image/png", 400),
        ("/v1/models/stripes:classify?top_k=0", plain(), "image/png", 400),
        ("/v1/models/nobody:classify", plain(), "image/png", 404),
        ("/v1/models/half_plus_two:detect", plain(), "image/png", 400),
        ("/v1/models/stripes:classify", b"--xyz\r\nnothing", "multipart/form-data; boundary=xyz", 400),
        ("/v1/models/stripes:classify", b"--xyz--\r\n", "multipart/form-data", 400),
        ("/v1/models/stripes:predict", plain(), "image/png", 415),
        ("/v1/models/stripes:regress", plain(), "image/png", 415),
        ("/v1/models/stripes:classify", b"abc", RAW, 415),
        ("/v1/models/detector:detect", b'{"images": [3]}', "application/json", 400),
    ],
)
def test_images_that_can_not_be(door: Door, path: str, body: bytes, kind: str, status: int) -> None:
    """Bodies that are no images, models that take none, options that are none: each its status and reason."""
    answer = door.post(path, body, {"Content-Type": kind})
    assert answer.status == status and answer.error, answer.body


# Arrays


def npy(array: Any) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    """A .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_arrays_travel_as_they_lie_in_memory(door: Door) -> None:
    """Raw bytes, .npy and .npz go in and come out; JSON is what comes where nothing else is accepted."""
    x = np.array([1, 2, 5], "f4")
    sent = {RAW: x.tobytes(), NPY: npy(x), NPZ: npz(x=x)}
    for kind, body in sent.items():
        assert door.post(HALF, body, {"Content-Type": kind}).json() == {"outputs": [2.5, 3.0, 4.5]}
        for wanted in sent:
            answer = door.post(HALF, body, {"Content-Type": kind, "Accept": wanted})
            assert answer.status == 200 and answer.headers["content-type"] == wanted
            assert list(opened(answer)) == [2.5, 3.0, 4.5]
    answer = door.post(HALF, {"instances": [1.0]}, {"Accept": f"text/html, {NPY};q=0.5"})
    assert list(opened(answer)) == [2.5]


def opened(answer: Answer) -> Any:
    """The array of an answer."""
    if answer.headers["content-type"] == RAW:
        shape = [int(size) for size in answer.headers["x-tensor-shape"].split(",")]
        return np.frombuffer(answer.body, answer.headers["x-tensor-dtype"]).reshape(shape)
    found = np.load(io.BytesIO(answer.body))
    return found["y"] if answer.headers["content-type"] == NPZ else found


def test_an_image_tensor_goes_both_ways(door: Door) -> None:
    """The saliency model's image goes in and out as JSON lists, as bytes with the shape left to the model, as .npy."""
    image = np.random.default_rng(1).random((1, 320, 320, 3), np.float32)
    path = "/v1/models/saliency:predict"
    raw = opened(door.post(path, image.tobytes(), {"Content-Type": RAW, "Accept": RAW}))
    assert raw.shape == (1, 320, 320, 1) and raw.max() == 1
    assert np.array_equal(
        opened(door.post(path, npy(np.asfortranarray(image)), {"Content-Type": NPY, "Accept": NPY})), raw
    )
    whole = json.dumps({"instances": np.round(image.astype(float), 4).tolist()}, separators=(",", ":"))
    packed = gzip.compress(whole.encode(), 1)
    refused = door.post(path, packed, {"Content-Encoding": "gzip"})
    assert refused.status == 413 and "2000000" in refused.error
    small_one = {"instances": np.zeros((1, 320, 320, 3), int).tolist()}
    told = door.post(path, small_one).json()["predictions"]
    assert np.shape(told) == (1, 320, 320, 1)


def test_an_image_tensor_comes_as_an_encoded_image(door: Door) -> None:
    """Base64 for an input of pixels is an image that the server decodes, in both forms; other inputs take none."""
    image = {"b64": base64.b64encode(encoded(Image.new("RGB", (640, 480), (200, 30, 30)))).decode()}
    pixels = np.broadcast_to(np.array([200, 30, 30], "f4"), (1, 320, 320, 3))
    path = "/v1/models/saliency:predict"
    expected = opened(door.post(path, npy(np.ascontiguousarray(pixels)), {"Content-Type": NPY, "Accept": NPY}))
    for sent in (
        {"instances": [image]},
        {"instances": [{"img_in": image}]},
        {"inputs": [image]},
        {"inputs": {"img_in": [image]}},
    ):
        found = opened(door.post(path, sent, {"Accept": NPY}))
        assert found.shape == (1, 320, 320, 1) and np.allclose(found, expected, atol=0.02)
    two = door.post("/v1/models/stripes:predict", {"instances": [image, image]}).json()["predictions"]
    assert len(two) == 2 and two[0] == two[1]
    assert "Object is not of expected type: float" in door.post(HALF, {"instances": [image]}).error
    assert "not formatted correctly for base64" in door.post(path, {"inputs": [image, {"b64": 3}]}).error
    assert door.post(path, {"inputs": {"b64": "AAAA"}}).status == 400


def test_text_and_several_inputs_come_as_npy_and_npz(door: Door) -> None:
    """numpy's text types are STRING, an .npz names its inputs, a query names the input and output otherwise."""
    texts = door.post(
        "/v1/models/kinds:predict?signature_name=string", npy(np.array([b"a", b"bc"])), {"Content-Type": NPY}
    )
    assert texts.json() == {"outputs": ["a", "bc"]}
    both = npz(a=np.array([1], "f4"), b=np.array([2], "i4"))
    path = "/v1/models/kinds:predict"
    assert door.post(path, both, {"Content-Type": NPZ}).json() == {"outputs": {"a": [1.0], "b": [2]}}
    named = door.post(f"{path}?output=b", both, {"Content-Type": NPZ, "Accept": NPY})
    assert np.load(io.BytesIO(named.body)).tolist() == [2]
    assert door.post(path, both, {"Content-Type": NPZ, "Accept": NPY}).status == 400
    assert door.post(path, npy([1.0]), {"Content-Type": NPY}).status == 400


HUGE = npz(x=np.zeros(10**6, np.float64))
BAD_ARRAYS: list[tuple[bytes, str, str, int]] = [
    (b"", NPY, "", 400),
    (b"\x93NUMPY", NPY, "", 400),
    (npy([1.0])[:-3], NPY, "", 400),
    (npy([1.0]) + b"more", NPY, "", 400),
    (npy(np.array([{}], object)), NPY, "", 400),
    (npy(np.array([1j])), NPY, "", 400),
    (npy(np.array(["2020-01-01"], "M8[D]")), NPY, "", 400),
    (b"\x93NUMPY\x09\x00" + b"\xff" * 100, NPY, "", 400),
    (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 50 + b",), }\n",
        NPY,
        "",
        400,
    ),
    (b"PK\x03\x04 and nothing", NPZ, "", 400),
    (b"abc", NPZ, "", 400),
    (HUGE[:1_900_000], NPZ, "", 400),
    (b"abc", RAW, "", 400),
    (b"abcd", RAW, "?shape=2", 400),
    (b"abcd", RAW, "?shape=x", 400),
    (b"abcd", RAW, "?shape=-1", 400),
    (b"abcd", RAW, "?input=z", 400),
]


@pytest.mark.parametrize(("body", "kind", "query", "status"), BAD_ARRAYS)
def test_arrays_that_can_not_be(door: Door, body: bytes, kind: str, query: str, status: int) -> None:
    """Damaged files, objects, shapes that do not fit: refused, with a reason."""
    answer = door.post(HALF + query, body, {"Content-Type": kind})
    assert answer.status == status and answer.error, answer.body


def test_a_packed_array_may_not_swell(door: Door) -> None:
    """A .npz file that would unpack to more than the limit is refused before it is unpacked."""
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros(10**6, np.float64))
    answer = door.post(HALF, file.getvalue(), {"Content-Type": NPZ})
    assert answer.status == 413 and "2000000" in answer.error


# Open Inference Protocol


def test_the_open_inference_protocol(door: Door) -> None:
    """Health, metadata, and inference in JSON with flat and nested data, ids given back, outputs chosen."""
    assert door.get("/v2").json()["name"] == "thriftserve"
    assert door.get("/v2/health/live").status == 200 == door.get("/v2/health/ready").status
    assert door.get("/v2/models/kinds/ready").json() == {"name": "kinds", "ready": True}
    assert door.get("/v2/models/nobody/ready").status == 404
    assert door.get("/v2/models/half_plus_two/versions/1").json() == {
        "name": "half_plus_two",
        "versions": ["1"],
        "platform": "tensorflow",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }
    sent = {"id": "7", "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2]}]}
    assert door.post("/v2/models/half_plus_two/infer", sent).json() == {
        "model_name": "half_plus_two",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [2.5, 3.0]}],
    }
    two = [
        {"name": "a", "shape": [2, 1], "datatype": "FP32", "data": [[1], [2]]},
        {"name": "b", "shape": [2, 1], "datatype": "INT32", "data": [3, 4]},
    ]
    told = door.post("/v2/models/kinds/infer", {"inputs": two, "outputs": [{"name": "b"}]}).json()
    assert told["outputs"] == [{"name": "b", "datatype": "INT32", "shape": [2, 1], "data": [3, 4]}]


def test_its_binary_extension(door: Door) -> None:
    """Tensors behind the JSON, numbers and texts, both ways."""
    texts = [b"a", "很".encode(), b"\xff\x00"]
    tail = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    one = {"name": "x", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    document = {"inputs": [one], "parameters": {"signature_name": "string", "binary_data_output": True}}
    text = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": RAW}
    answer = door.post("/v2/models/kinds/infer", text + tail, headers)
    assert answer.status == 200, answer.body
    size = int(answer.headers["inference-header-content-length"])
    assert answer.body[size:] == tail
    told = json.loads(answer.body[:size])["outputs"]
    assert told == [{"name": "y", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(tail)}}]


INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        ({}, "inputs"),
        ({"inputs": [3]}, "inputs"),
        ({"inputs": [{**INPUT, "name": 3}]}, "name"),
        ({"inputs": [{**INPUT, "datatype": "FP31"}]}, "datatype"),
        ({"inputs": [{**INPUT, "shape": [-1]}]}, "shape"),
        ({"inputs": [{**INPUT, "shape": [2]}]}, "has 1 values"),
        ({"inputs": [{**INPUT, "data": 3}]}, "data"),
        ({"inputs": [{**INPUT, "data": ["a"]}]}, "expected type: float"),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": 4}}]}, "binary_data_size"),
        ({"inputs": [INPUT], "outputs": [{"name": "z"}]}, "output 'z' does not exist"),
        ({"inputs": [INPUT], "outputs": [3]}, "outputs"),
        ({"inputs": [INPUT], "parameters": 3}, "parameters"),
        ({"inputs": []}, "x"),
    ],
)
def test_inferences_that_can_not_be(door: Door, sent: Any, word: str) -> None:
    """What is wrong with an inference request is a 400 that names it."""
    answer = door.post("/v2/models/half_plus_two/infer", sent)
    assert answer.status == 400 and word in answer.error, answer.body


def test_its_paths_and_methods(door: Door) -> None:
    """Unknown paths are 404, wrong methods 405 with the right one, and lengths that lie 400."""
    assert door.get("/v2/nothing").status == 404
    wrong = door.get("/v2/models/half_plus_two/infer")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    lies = {"Inference-Header-Content-Length": "999"}
    assert door.post("/v2/models/half_plus_two/infer", {"inputs": [INPUT]}, lies).status == 400


# Images by address


class Pictures(BaseHTTPRequestHandler):
    """A web server of images: each path does something else."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name.startswith("to="):
            self.send_response(302)
            self.send_header("Location", name[3:])
            self.end_headers()
            return
        self.send_response(200 if name != "missing" else 404)
        self.end_headers()
        bodies = {"red": scene(), "blue": scene((0, 0, 255)), "text": b"no image", "large": bytes(200_000)}
        self.wfile.write(bodies.get(name, b""))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def pictures() -> Iterator[str]:
    """The address of such a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_images_by_address(door: Door) -> None:
    """Each image is fetched and searched; what goes wrong with one is told in its place, in the order asked."""
    with pictures() as at:
        names = ["red", "to=/blue", "missing", "text", "large", f"to={at}/to={at}/to={at}/to=/red"]
        urls = [f"{at}/{name}" for name in names] + ["ftp://host/a", "nonsense", "http://u:p@127.0.0.1/x"]
        answer = door.post("/service", urls)
    assert answer.status == 200, answer.body
    told = answer.json()
    assert [one["imageURL"] for one in told] == urls
    assert told[0]["detectCells"][0].startswith("Found red (score: ") and "error" not in told[0]
    assert told[1]["detectCells"][0].startswith("Found blue (score: ")
    errors = [one.get("error", "") for one in told[2:]]
    assert [one["detectCells"] for one in told[2:]] == [[]] * 7
    expected = [
        "HTTP status 404",
        "",
        "larger than the limit of 100000 bytes",
        "more than 3 redirects",
        "expected an http",
        "",
        "password",
    ]
    assert all(word in error and error for word, error in zip(expected, errors, strict=True)), errors


def test_options_of_images_by_address(door: Door) -> None:
    """Those of :detect are taken from the query; others are refused by name, and wrong ones."""
    with pictures() as at:
        (found,) = door.post("/service?model=detector", [f"{at}/red"]).json()
        assert len(found["detectCells"]) >= 1
        (none,) = door.post("/service?min_score=1.5", [f"{at}/red"]).json()
        assert none["detectCells"] == [] and "error" not in none
        (one,) = door.post("/service?max_detections=1&min_score=0", [f"{at}/red"]).json()
        assert len(one["detectCells"]) == 1
        (wrong,) = door.post("/service?signature_name=nope", [f"{at}/red"]).json()
        assert "nope" in wrong["error"]
    for query, message in (("top_k=1", "the query has top_k"), ("min_score=x", 'min_score is "x"')):
        answer = door.post(f"/service?{query}", [])
        assert answer.status == 400 and message in answer.error


@pytest.mark.parametrize(("body", "status"), [({}, 400), ([3], 400), (b"[", 400), (["http://a/"] * 33, 413)])
def test_lists_of_addresses_that_can_not_be(door: Door, body: Any, status: int) -> None:
    """What is no list of URLs, or too long a one, is refused as a whole."""
    assert door.post("/service", body).status == status


# The exchange itself


def test_packed_bodies(door: Door) -> None:
    """gzip, several gzip members and deflate are unpacked; bombs, damage and other packings are refused."""
    body = b'{"instances": [1.0]}'
    for packed, name in [
        (gzip.compress(body), "gzip"),
        (gzip.compress(body[:9]) + gzip.compress(body[9:]), "gzip"),
        (zlib.compress(body), "deflate"),
        (body, "identity"),
    ]:
        assert door.post(HALF, packed, {"Content-Encoding": name}).json() == {"predictions": [2.5]}
    bomb = door.post(HALF, gzip.compress(bytes(100_000_000), 1), {"Content-Encoding": "gzip"})
    assert bomb.status == 413
    assert door.post(HALF, b"no gzip", {"Content-Encoding": "gzip"}).status == 400
    assert door.post(HALF, gzip.compress(body)[:-4], {"Content-Encoding": "gzip"}).status == 400
    assert door.post(HALF, body, {"Content-Encoding": "br"}).status == 415


def test_large_bodies_are_refused(door: Door) -> None:
    """A body over the limit is refused whether its length is announced or not, and the next request is answered."""
    answer = door.post(HALF, b" " * 2_000_001)
    assert answer.status == 413 and "2000000" in answer.error
    assert door.request("POST", HALF, b" " * 1_999_000 + b'{"inputs": [1]}').status == 200


def test_request_ids(door: Door) -> None:
    """A client's request id comes back; one that is none is replaced, and one is made where there was none."""
    assert door.get("/healthz", **{"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {door.get("/healthz", **{"X-Request-Id": text}).headers["x-request-id"] for text in ("", "a b", "x" * 200)}
    assert len(made) == 3 and not made & {"", "a b", "x" * 200}


def test_times_that_can_not_be(door: Door) -> None:
    """A timeout must be a number of seconds, wherever it stands."""
    for wrong in ("0", "-1", "nan", "soon"):
        assert door.post(f"{HALF}?timeout={wrong}", {"inputs": [1]}).status == 400
    assert door.post(HALF, {"inputs": [1]}, {"X-Request-Timeout": "x"}).status == 400
    assert door.post(f"{HALF}?timeout=20", {"inputs": [1]}).status == 200


def test_web_pages_of_known_origins_may_call(door: Door) -> None:
    """CORS headers are given to the origin that the settings name, and to no other."""
    known = door.get("/healthz", Origin="https://good.example").headers
    assert known["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in door.get("/healthz", Origin="https://bad.example").headers
    asked = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    assert door.request("OPTIONS", HALF, None, asked).status == 200


def test_what_can_be_asked_is_described(door: Door) -> None:
    """OpenAPI for programs, a page for people that loads nothing from elsewhere."""
    told = door.get("/openapi.json").json()
    assert told["openapi"].startswith("3.") and "/v1/models/{model}:predict" in told["paths"]
    page = door.get("/docs")
    assert page.headers["content-type"].startswith("text/html") and b"/v1/models/{model}:predict" in page.body
    assert b"http" not in page.body and b"//" not in page.body
    assert door.request("HEAD", "/docs").body == b""

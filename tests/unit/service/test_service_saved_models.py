"""The handler on real SavedModels: a detector, an image classifier, string tensors, and pixels as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from encoded_images import encoded, oriented
from numpy_models import Server, arrays
from thriftserve.models.devices import SessionOptions
from thriftserve.models.loader import load
from thriftserve.repository.versions import ModelConfig
from thriftserve_bench.workloads import builders
from thriftserve_idl.ttypes import ClassifyRequest, DetectRequest, ErrorCode, ModelSpec, PredictError

MODELS = ("half_plus_two", "text_classifier", "detector", "image_classifier")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """One server of four models, each built and loaded for real."""
    directory: Path = tmp_path_factory.mktemp("models")
    options = SessionOptions.divided("cpu", 1)
    configs = [ModelConfig(name, "tensorflow", str(builders.build(name, directory))) for name in MODELS]
    return Server(*(load(config, options) for config in configs))


def scene() -> Image.Image:
    """200 x 100, black, with a red and a blue rectangle."""
    image = Image.new("RGB", (200, 100))
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 10, 59, 39), (255, 0, 0))
    draw.rectangle((100, 50, 179, 89), (0, 0, 255))
    return image


def test_detect_finds_coloured_rectangles(server: Server) -> None:
    """Boxes, labels and sizes of images in two sizes and a camera held sideways, each in a run of its own."""
    half = scene().resize((100, 50), Image.Resampling.NEAREST)
    files = [encoded(scene()), encoded(half), oriented(scene(), 6, "PNG")]
    response = server.call("detect", DetectRequest(ModelSpec("detector"), files))
    assert [(one.width, one.height) for one in response.results] == [(200, 100), (100, 50), (200, 100)]
    for result in response.results:
        by_label = {one.label: one for one in result.detections}
        assert set(by_label) == {"red", "blue"}
        red, blue = by_label["red"].box, by_label["blue"].box
        assert [red.y_min, red.x_min, red.y_max, red.x_max] == pytest.approx([0.1, 0.1, 0.4, 0.3])
        assert [blue.y_min, blue.x_min, blue.y_max, blue.x_max] == pytest.approx([0.5, 0.5, 0.9, 0.9])
        assert by_label["red"].class_id == 1
        assert by_label["red"].score == pytest.approx(1.0)


def stripes(down: bool) -> Image.Image:
    """Black and white stripes, 84 x 84."""
    lines = np.repeat(np.arange(14) % 2 * 255, 6).astype(np.uint8)
    grid = np.tile(lines[:, None], (1, 84))
    return Image.fromarray(grid.T.copy() if down else grid)


def test_classify_tells_stripes_apart(server: Server) -> None:
    """Images of several formats and modes, resized and scaled by image.toml, in one run."""
    files = [encoded(stripes(down=True)), encoded(stripes(down=False).convert("RGB"), "JPEG"), encoded(scene(), "GIF")]
    response = server.call("classify", ClassifyRequest(ModelSpec("image_classifier"), files, top_k=3))
    assert [one.classes[0].label for one in response.results[:2]] == ["vertical", "horizontal"]
    assert [len(one.classes) for one in response.results] == [3, 3, 3]
    assert sum(one.score for one in response.results[0].classes) == pytest.approx(1.0)
    assert response.timing.batch_size == 3


def test_predict_takes_the_same_images(server: Server) -> None:
    """Encoded images to predict give the scores that their pixels, sent as a tensor, give."""
    image = stripes(down=True).resize((28, 28))
    pixels = (np.asarray(image)[None, :, :, None] / 255).astype(np.float32)
    by_pixels = arrays(server.predict({"image": pixels}, "image_classifier"))["scores"]
    files = np.array([encoded(image)], dtype=object)
    by_file = arrays(server.predict({"image": files}, "image_classifier"))["scores"]
    assert by_file == pytest.approx(by_pixels, abs=1e-5)


def test_strings_and_several_outputs(server: Server) -> None:
    """A model with STRING and INT32 inputs answers all its outputs, labels as strings."""
    words = np.array([[b"good", b"great"]], dtype=object)
    outputs = arrays(server.predict({"words": words, "nwords": np.array([2], np.int32)}, "text_classifier"))
    assert set(outputs) == {"classes_id", "labels", "softmax"}
    assert outputs["softmax"].sum() == pytest.approx(1.0)


def test_values(server: Server) -> None:
    """x / 2 + 2, through TensorFlow."""
    outputs = arrays(server.predict({"x": np.array([1.0, 2.0, 5.0], np.float32)}, "half_plus_two"))
    assert outputs["y"].tolist() == [2.5, 3.0, 4.5]


def test_metadata_names_the_platform(server: Server) -> None:
    """A SavedModel's signatures, labels and platform."""
    metadata = server.call("getModelMetadata", ModelSpec("image_classifier"))
    assert metadata.platform == "tensorflow"
    assert metadata.labels == ["horizontal", "vertical", "blank"]
    assert metadata.signatures["serving_default"].inputs["image"].shape == [-1, 28, 28, 1]


def test_the_wrong_method_is_told(server: Server) -> None:
    """Classify on a detector, and detect on a classifier, say what the model has instead."""
    image = encoded(scene())
    for method, request in (
        ("detect", DetectRequest(ModelSpec("image_classifier"), [image])),
        ("classify", ClassifyRequest(ModelSpec("text_classifier"), [image])),
    ):
        with pytest.raises(PredictError) as caught:
            server.call(method, request)
        assert caught.value.code == ErrorCode.FAILED_PRECONDITION

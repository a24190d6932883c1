"""The builders of small models: what they write, and that each model does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from small_models import opened, small
from thriftserve_bench.workloads import builders


def test_command_line_writes_a_base_path(tmp_path: Path) -> None:
    """`python -m thriftserve_bench.workloads.builders` prints the base path, and makes no version twice."""
    command = [
        sys.executable,
        "-m",
        "thriftserve_bench.workloads.builders",
        "half_plus_two",
        str(tmp_path),
        "--name",
        "half",
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.splitlines() == [str(tmp_path / "half")]
    assert [one.name for one in (tmp_path / "half").iterdir()] == ["1"]
    assert (tmp_path / "half" / "1" / "saved_model.pb").is_file()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_versions_stand_side_by_side(tmp_path: Path) -> None:
    """A second version goes into the same base path."""
    builders.build("half_plus_two", tmp_path)
    assert builders.build("half_plus_two", tmp_path, version=3) == tmp_path / "half_plus_two"
    assert sorted(one.name for one in (tmp_path / "half_plus_two").iterdir()) == ["1", "3"]


def test_unknown_kind_is_refused() -> None:
    """The command line lists the kinds that there are."""
    with pytest.raises(SystemExit) as caught:
        builders.main(["cat", "/tmp"])
    assert caught.value.code == 2


def test_detector_finds_rectangles() -> None:
    """One box for each colour that is there, best first, at the place of the rectangle."""
    session = opened("detector")
    image = np.zeros((1, 50, 100, 3), np.uint8)
    image[0, 10:20, 30:60, 1] = 255
    image[0, 30:40, 0:10] = 200
    image[0, 30, 0] = 0
    found = session.run(
        "serving_default", {"input_tensor": image}, tuple(session.signatures["serving_default"].outputs)
    )
    session.close()
    assert found["num_detections"].tolist() == [2.0]
    assert found["detection_boxes"].shape == (1, 100, 4)
    assert found["detection_classes"][0, :2].tolist() == [2.0, 4.0]
    assert found["detection_scores"][0, :3] == pytest.approx([1.0, 0.99, 0.0])
    assert found["detection_boxes"][0, 0] == pytest.approx([0.2, 0.3, 0.4, 0.6])


def test_image_classifier_tells_stripes_apart() -> None:
    """Horizontal stripes, vertical stripes and a blank image get their own class."""
    session = opened("image_classifier")
    images = np.zeros((3, 28, 28, 1), np.float32)
    images[0, 2::6] = images[0, 3::6] = images[0, 4::6] = 1.0
    images[1] = images[0].transpose(1, 0, 2)
    scores = session.run("serving_default", {"image": images}, ["scores"])["scores"]
    session.close()
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


def test_saliency_shows_where_the_image_differs() -> None:
    """The map is largest inside the one bright spot and zero far from it."""
    session = opened("saliency")
    image = np.zeros((1, 320, 320, 3), np.float32)
    image[0, 100:110, 200:210] = 1.0
    salient = session.run("serving_default", {"img_in": image}, ["img_out"])["img_out"]
    session.close()
    row, column = divmod(int(salient.argmax()), 320)
    assert (100 <= row < 110, 200 <= column < 210) == (True, True)
    assert salient[0, 0, 0, 0] == 0.0
    assert salient.shape == (1, 320, 320, 1)


def test_settings_lie_beside_the_model() -> None:
    """Labels and image settings are files of assets.extra."""
    extra = small("image_classifier") / "1" / "assets.extra"
    assert (extra / "labels.txt").read_text().split() == ["horizontal", "vertical", "blank"]
    assert "height = 28" in (extra / "image.toml").read_text()

"""From flags to a registry: labels, image settings, warm-up, and what a failing load says and leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import exports_v1
from small_models import CPU, small
from thriftserve.errors import ModelLoadError
from thriftserve.models import loader, sample_inputs, warmup
from thriftserve.models.python.session import PythonSession
from thriftserve.models.registry import Registry
from thriftserve.models.session import Signature, TensorSpec
from thriftserve.repository.image_settings import ImageSettings
from thriftserve.repository.plan import Plan, PlannedModel
from thriftserve.repository.versions import PYTHON_VERSION, VersionDir, parse_model_flags
from thriftserve_bench.workloads import builders
from thriftserve_idl.ttypes import DataType


def loaded(*flags: str) -> Registry:
    """The newest version of the model that each flag names."""
    return Registry(loader.load(config, CPU) for config in parse_model_flags(flags))


def test_models_are_loaded_by_their_flags() -> None:
    """Each flag becomes a servable of the newest version with its labels and image settings."""
    flags = [f"images={small('image_classifier')}", "two=python:served_models:Doubler"]
    registry = loaded(*flags)
    images = registry.get("images")
    assert registry.names() == ["images", "two"]
    assert images.labels == ("horizontal", "vertical", "blank")
    assert images.image is not None
    assert (images.image.height, images.image.channels) == (28, 1)
    assert registry.get("two").image is None
    registry.close()


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        ({"assets.extra/labels.txt": "eins\nzwei\n", "assets/labels.txt": "other\n"}, ("eins", "zwei")),
        ({"assets/labels.txt": "猫\r\n狗\r\n"}, ("猫", "狗")),
        ({"assets/ImageNetLabels.txt": "cat\n\ndog"}, ("cat", "", "dog")),
        ({"assets/labels_a.txt": "a", "assets/labels_b.txt": "b"}, ()),
        ({"assets/vocabulary.txt": "the\nof\n"}, ()),
        ({}, ()),
    ],
)
def test_labels_are_found(tmp_path: Path, files: dict[str, str], labels: tuple[str, ...]) -> None:
    """Labels are read from where they may lie, in that order; a vocabulary is not taken for labels."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode())
    assert loader.read_labels(tmp_path) == labels


def test_unreadable_labels_are_named(tmp_path: Path) -> None:
    """Labels that are no UTF-8 fail the load, by the file's name."""
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "labels.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelLoadError, match=r"labels\.txt: the labels can't be read"):
        loader.read_labels(tmp_path)


def test_failing_load_names_the_model_and_closes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two models, where the second fails, the first is closed again and the second is named with the reason."""
    closed: list[PythonSession] = []

    def close(session: PythonSession) -> None:
        closed.append(session)

    monkeypatch.setattr(PythonSession, "close", close)
    good, bad = parse_model_flags(["good=python:served_models:Doubler", "bad=/no/such/place"])
    with pytest.raises(ModelLoadError, match="model 'bad': /no/such/place: there is no such directory"):
        loader.load(bad, CPU)
    first = PlannedModel.of(good, (VersionDir(PYTHON_VERSION, Path()),))
    second = PlannedModel.of(bad, (VersionDir(3, Path("/no/such/place/3")),))
    with pytest.raises(ModelLoadError, match="model 'bad': /no/such/place/3"):
        loader.load_plan(Plan(1, (first, second)), CPU)
    assert len(closed) == 1


def test_bad_image_settings_fail_the_load(tmp_path: Path) -> None:
    """A mistake in image.toml is told with the model's name before anything is served."""
    base = tmp_path / "m"
    shutil.copytree(small("image_classifier"), base)
    (base / "1" / "assets.extra" / "image.toml").write_text("height = 'tall'")
    with pytest.raises(ModelLoadError, match=r"model 'm': .*image\.toml"):
        loaded(f"m={base}")


@pytest.mark.parametrize("kind", builders.KINDS)
def test_every_small_model_warms_up(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Zeros of each signature's own shape suit every model that the builders make."""
    registry = loaded(f"m={small(kind)}")
    caplog.set_level("INFO")
    warmup.run(registry.get("m"))
    registry.close()
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_warm_up_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A signature that takes no zeros is told in the log; the others are warmed and the model serves."""
    exports_v1.write(tmp_path / "m" / "1")
    registry = loaded(f"m={tmp_path / 'm'}")
    warmup.run(registry.get("m"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "the warm-up of 'guarded' failed" in warnings[0]
    registry.close()


def test_zeros_have_the_signatures_own_shape() -> None:
    """Free sizes are 1, an image's come from its settings, strings are empty, any rank gets one element."""
    signature = Signature(
        "s",
        {
            "image": TensorSpec("image", DataType.UINT8, (None, None, None, 3)),
            "mask": TensorSpec("mask", DataType.FLOAT, (None, None, None, 1)),
            "words": TensorSpec("words", DataType.STRING, (None, 4)),
            "any": TensorSpec("any", DataType.INT64, None),
            "scalar": TensorSpec("scalar", DataType.BOOL, ()),
        },
    )
    made = sample_inputs.zeros(signature, ImageSettings(input="image", height=20, width=30))
    assert {name: one.shape for name, one in made.items()} == {
        "image": (1, 20, 30, 3),
        "mask": (1, 1, 1, 1),
        "words": (1, 4),
        "any": (1,),
        "scalar": (),
    }
    assert made["image"].dtype == np.uint8
    assert made["words"].tolist() == [[b""] * 4]
